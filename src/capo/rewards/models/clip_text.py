"""Cleaning of prompts as in the tokenizers of OpenAI's CLIP and of open_clip.

Tokenizers of transformers do not clean. Prompts of plain text are the same either way; curly quotation
marks, HTML entities and text in a wrong encoding give other tokens.
"""

import html
import re
from typing import Any

WHITE_SPACE = re.compile(r"\s+")


def clean_text(text: str) -> str:
    """Return `text` with repaired encoding, straight quotation marks, no entities, and single spaces.

    The tokenizer lowers the case.
    """
    import ftfy

    return WHITE_SPACE.sub(" ", html.unescape(html.unescape(ftfy.fix_text(text)))).strip()


def cleaning_identity(**options: Any) -> list[str]:
    """Return what scores depend on beyond the weights, for rewards that clean their prompts."""
    return ["cleaned prompts"]
