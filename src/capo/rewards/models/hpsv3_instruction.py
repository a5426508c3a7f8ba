"""The instruction that HPSv3 was trained with, which capo does not ship.

It is read from the source of the installed package `hpsv3`, which is never imported, or from the file
that the option `instruction` names. Imports no torch, since the text is part of the reward's identity.
"""

import ast
import hashlib
from importlib.util import find_spec
from pathlib import Path

from capo.rewards.protocol import RewardError

TOKEN = "<|Reward|>"
PROMPT = "{text_prompt}"
KNOWN_DIGEST = "82a739cbaac18f128bddd5529a302b12"
"""Digest of the instruction in hpsv3 1.0.0."""


def read_instruction(path: str | None) -> str:
    """Return the instruction. Raises `RewardError` unless it has the two placeholders once each."""
    try:
        text = Path(path).read_text(encoding="utf-8") if path else _installed()
    except (OSError, UnicodeDecodeError) as error:
        raise RewardError(f"instruction {path!r} cannot be read: {error}") from error
    if any(text.count(part) != 1 for part in (PROMPT, TOKEN)):
        raise RewardError(
            f"the instruction {path or 'of hpsv3'} must contain {PROMPT} and {TOKEN} exactly once each"
        )
    return text


def instruction_identity(instruction: str | None = None) -> list[str]:
    """Return a digest of the installed package's text if it is used and differs from the known one.

    A missing package changes nothing, because a server that has it may do the scoring.
    """
    if instruction is not None or find_spec("hpsv3") is None:
        return []
    digest = hashlib.blake2b(_installed().encode(), digest_size=16).hexdigest()
    return [] if digest == KNOWN_DIGEST else [f"blake2b:{digest}"]


def _installed() -> str:
    """Read the instruction from the source of the package hpsv3 without importing it."""
    spec = find_spec("hpsv3")
    if spec is None or not spec.submodule_search_locations:
        raise RewardError(
            "the instruction of HPSv3 comes with its authors' package: run `pip install --no-deps hpsv3` "
            "(none of its code is run), or set `options: {instruction: FILE}`"
        )
    source = Path(spec.submodule_search_locations[0], "dataset", "data_collator_qwen.py")
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
        raise RewardError(f"{source} does not define {error}; install hpsv3 1.0.0") from None
