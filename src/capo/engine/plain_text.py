"""Text from outside as a terminal may show it: no commands for the terminal, in the order it is written."""

import re
import unicodedata

ESCAPE_SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|.)", re.DOTALL)
"""Terminal commands: to move the cursor, to set colors or the window's title, and others."""

REORDERING = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
"""Characters that show what follows them, such as a file name or a number, in another order."""


def plain_text(text: str) -> str:
    """Return text without terminal commands, control and reordering characters; keeps line ends and tabs."""
    if text.isascii() and text.isprintable():
        return text
    lines = ESCAPE_SEQUENCE.sub("", text).replace("\r\n", "\n").replace("\r", "\n")
    return "".join("\N{REPLACEMENT CHARACTER}" if _commands(c) else c for c in lines)


def _commands(character: str) -> bool:
    return character in REORDERING or (
        unicodedata.category(character) in ("Cc", "Cs") and character not in "\t\n"
    )
