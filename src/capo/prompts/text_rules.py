"""The rule for text that comes from outside: prompts, captions and categories."""

import unicodedata
from functools import cache

from capo.engine.progress import say

LONGEST_TEXT = 65_536
"""Characters. Models read a few hundred tokens; anything longer is a file that was read the wrong way."""

ALLOWED_CONTROLS = "\t\n"


class PromptsError(ValueError):
    """Prompts that cannot be used; the message names the file and the line."""


def text_problem(text: str) -> str | None:
    """Say why `text` cannot be used, or return None.

    Control characters (other than tab and line feed) and lone surrogates, which JSON can spell, would reach
    tokenizers, terminals and file names. Blank text is accepted; loading skips it.
    """
    if len(text) > LONGEST_TEXT:
        return f"{len(text):,} characters, more than {LONGEST_TEXT:,}"
    if text.isprintable():
        return None
    for character in text:
        if unicodedata.category(character) in ("Cc", "Cs") and character not in ALLOWED_CONTROLS:
            return f"control character U+{ord(character):04X}"
    return None


@cache  # once for a source, not for each of its rows
def say_column(source: str, taken: str, others: tuple[str, ...], field: str) -> None:
    """Say which of several columns that could hold the text is taken."""
    if others:
        say(
            f"{source}: takes the text from column {taken!r}, not {', '.join(map(repr, others))}; see {field}"
        )


def check_text(text: str, place: str, name: str = "prompt") -> None:
    """Raise `PromptsError` for unusable text; `place` is its file and line, `name` what it is."""
    if (problem := text_problem(text)) is not None:
        raise PromptsError(f"{place}: {problem} in the {name}")
