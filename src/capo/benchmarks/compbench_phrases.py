"""What T2I-CompBench reads from a prompt's grammar: noun phrases, nouns around a relation, adjectives.

The authors use spaCy's `en_core_web_sm`. Its phrases differ a little between versions, so judgments have
the questions that were asked, and the parser's version is part of a judge's fingerprint.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from itertools import pairwise
from typing import Any

PARSER = "en_core_web_sm"
IGNORED = ("top", "the side", "the left", "the right")
"""Noun phrases that name places, not objects."""
MAX_PHRASES = 8
RELATIONS = ("on top of", "on bottom of", "on the left", "on the right", "next to", "on side of", "near")
"""Relations of complex prompts, whose nouns stand before and after them."""


@dataclass(frozen=True)
class Word:
    """A token and its universal part of speech."""

    text: str
    kind: str


@dataclass(frozen=True)
class Grammar:
    """A parsed prompt."""

    words: tuple[Word, ...]
    phrases: tuple[str, ...]
    """Noun phrases in order."""


def questions(grammar: Grammar) -> list[str]:
    """Return the questions of BLIP-VQA: one for each of the first noun phrases that names no place."""
    named = [phrase for phrase in grammar.phrases if phrase not in IGNORED]
    return [f"{phrase}?" for phrase in named[:MAX_PHRASES]]


def outer_nouns(grammar: Grammar) -> tuple[str, str] | None:
    """Return the first and the last noun, as in simple spatial prompts; None without any noun."""
    nouns = [word.text for word in grammar.words if word.kind == "NOUN"]
    return (nouns[0], nouns[-1]) if nouns else None


def related_nouns(grammar: Grammar) -> tuple[str, str] | None:
    """Return the nouns before and after the relation of a complex prompt.

    None unless there are exactly two, as with several relations. Before a relation, names count too;
    after it, the last of the first group of names counts if no noun follows.
    """
    words, found = grammar.words, list[str]()
    for place in range(len(words)):
        length = _relation_length(words, place)
        if length:
            before = (w for w in reversed(words[:place]) if w.kind in ("NOUN", "PROPN"))
            found += [
                word.text for word in (next(before, None), _noun_after(words[place + length :])) if word
            ]
    return (found[0], found[1]) if len(found) == 2 else None


def without_adjectives(grammar: Grammar) -> str:
    """Return the prompt of complex CLIPScore: its tokens without adjectives, separated by spaces."""
    return " ".join(word.text for word in grammar.words if word.kind != "ADJ")


class Parser:
    """spaCy with a model that has a tagger and a parser."""

    def __init__(self, model: str = PARSER) -> None:
        """Load the model; raises `ImportError`, which says how to install it."""
        self._model = _load(model)

    @property
    def identity(self) -> str:
        """Name and version of the model, and the version of spaCy."""
        meta = self._model.meta
        return f"{meta['lang']}_{meta['name']} {meta['version']}, spaCy {version('spacy')}"

    def __call__(self, prompt: str) -> Grammar:
        """Parse a prompt."""
        parsed = self._model(prompt)
        words = tuple(Word(token.text, token.pos_) for token in parsed)
        return Grammar(words, tuple(phrase.text for phrase in parsed.noun_chunks))


@lru_cache(maxsize=2)
def _load(model: str) -> Any:
    try:
        import spacy
    except ImportError as error:
        raise ImportError(
            "T2I-CompBench reads noun phrases with spaCy, which is not installed: "
            f"`pip install 'capo-diffusion[compbench]'`, then `python -m spacy download {PARSER}`"
        ) from error
    try:
        loaded = spacy.load(model)
    except OSError as error:
        raise ImportError(f"no spaCy model {model!r}: `python -m spacy download {model}`") from error
    if not {"tagger", "parser"} <= set(loaded.pipe_names):
        raise ImportError(f"the spaCy model {model!r} has no tagger or no parser; use {PARSER}")
    return loaded


def _relation_length(words: Sequence[Word], place: int) -> int:
    """Return the number of tokens of the relation that starts at `place`; 0 if none does."""
    for length in (3, 2, 1):
        if " ".join(word.text for word in words[place : place + length]) in RELATIONS:
            return length
    return 0


def _noun_after(words: Sequence[Word]) -> Word | None:
    if noun := next((word for word in words if word.kind == "NOUN"), None):
        return noun
    return next(
        (word for word, after in pairwise(words) if word.kind == "PROPN" and after.kind != "PROPN"), None
    )
