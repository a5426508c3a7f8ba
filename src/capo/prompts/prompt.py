"""A prompt and its address."""

import hashlib
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Prompt:
    """The text that models read, and what is known about it."""

    prompt_id: str
    """Its address in every artifact: 16 hexadecimal digits, a digest of the text."""
    text: str
    category: str | None = None
    """Groups the results."""
    metadata: dict[str, Any] = field(default_factory=dict)
    """JSON values for judges."""


def make_prompt(text: str, category: str | None = None, metadata: dict[str, Any] | None = None) -> Prompt:
    """Return a prompt whose `prompt_id` is the digest of its text."""
    prompt_id = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
    return Prompt(prompt_id, text, category, metadata or {})
