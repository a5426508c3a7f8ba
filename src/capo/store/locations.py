"""Fields that say where something is, and the fields beside them that identify what is there.

A model, a prompt file or a policy that moved is still the same one.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import Any

_CONTENT_FIELDS = (
    (re.compile(r"model\.(?:checkpoint|loras)"), "model.weights"),
    (re.compile(r"(model\.config)"), r"\1.content"),
    (re.compile(r"(evaluate\.(?:policy|against|embedder))"), r"\1.content"),
    (re.compile(r"(benchmarks\..+\.(?:prompts|model|against))"), r"\1.content"),
    (re.compile(r"images\.source"), "images.content"),
    (re.compile(r"((?:\w+\.)?(?:validation_)?prompts)\.source"), r"\1.content"),
    (re.compile(r"(rewards\..+)\.(?:checkpoint|command)"), r"\1.weights"),
)
"""The pattern of a location's field, and the field that identifies its content."""

_DIGEST = re.compile(r"(.* )?(blake2b:)?[0-9a-f]{32,}([ +].*)?", re.DOTALL)
"""An identity that depends on contents; others, such as the version of a package, do not say enough."""


def only_moved(
    field: str, old: Mapping[str, Any], new: Mapping[str, Any], same: Callable[[Any, Any], bool]
) -> bool:
    """Report whether `field` differs in `old` and `new` only because the same content is at another place.

    `same` compares two identities.
    """
    for pattern, content in _CONTENT_FIELDS:
        if match := pattern.fullmatch(field):
            before, after = (values.get(match.expand(content)) for values in (old, new))
            known = isinstance(after, str) and _DIGEST.fullmatch(after) is not None
            return (
                known
                and same(before, after)
                and _format(field, old.get(field)) == _format(field, new.get(field))
            )
    return False


def _format(field: str, location: Any) -> tuple[str, ...]:
    """Return how prompts are read: the prefix of `parti:PATH`, and the file type."""
    if not field.endswith("prompts.source") or not isinstance(location, str):
        return ()
    prefix, colon, _ = location.rpartition(":")
    return prefix + colon, PurePath(location).suffix
