"""The instruction that HPSv3 was trained with, which is not capo's to ship.

It is read from the installed package `hpsv3`, of which nothing is run, or from a file that the
option `instruction` names. Imports no torch: what is read is part of what scores depend on.
"""

import ast
import hashlib
from importlib.util import find_spec
from pathlib import Path

from capo.rewards.protocol import RewardError

TOKEN = "<|Reward|>"
PROMPT = "{text_prompt}"
USUAL = "82a739cbaac18f128bddd5529a302b12"
"""Digest of the instruction of hpsv3 1.0.0."""


def read_instruction(path: str | None) -> str:
    """The instruction with its places for prompt and score; raises `RewardError` without them."""
    try:
        text = Path(path).read_text(encoding="utf-8") if path else _installed()
    except (OSError, UnicodeDecodeError) as error:
        raise RewardError(f"instruction {path!r} cannot be read: {error}") from error
    if any(text.count(part) != 1 for part in (PROMPT, TOKEN)):
        raise RewardError(f"the instruction {path or 'of hpsv3'} must hold {PROMPT} and {TOKEN} once each")
    return text


def instruction_identity(instruction: str | None = None) -> list[str]:
    """A digest of the text of the installed package, unless it is the usual one, or is not read.

    A package that is not there changes nothing: a server that has it may do the scoring.
    """
    if instruction is not None or find_spec("hpsv3") is None:
        return []
    digest = hashlib.blake2b(_installed().encode(), digest_size=16).hexdigest()
    return [] if digest == USUAL else [f"blake2b:{digest}"]


def _installed() -> str:
    """As the package hpsv3 has it among its source; the package is read, not imported."""
    found = find_spec("hpsv3")
    if found is None or not found.submodule_search_locations:
        raise RewardError(
            "HPSv3's instruction comes with its authors' package: `pip install --no-deps hpsv3` (nothing of "
            "it is run), or name a file with it as `options: {instruction: FILE}`"
        )
    source = Path(found.submodule_search_locations[0], "dataset", "data_collator_qwen.py")
    texts = {
        target.id: ast.literal_eval(node.value)
        for node in ast.parse(source.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    try:
        return texts["INSTRUCTION"] + texts["prompt_with_special_token"]
    except KeyError as error:
        raise RewardError(f"{source} has no {error}; hpsv3 1.0.0 has it") from None
