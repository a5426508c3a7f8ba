"""Checks before a run: cheap tests of whether a stage has what it needs.

A stage declares its checks beside its steps. Checks load no weights and write nothing.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from capo.recipe import Recipe
from capo.store.step import StageName

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """What a check found: an error would stop a stage, a warning may spoil a result, a note informs."""

    field: str
    """Recipe field, such as `rewards.warmth.comparison`."""
    message: str
    """What is wrong, where, and what to do."""
    severity: Severity = "error"


@dataclass(frozen=True)
class Check:
    """A check of one thing that a stage needs.

    Checks of several stages with the same `field` check the same thing, so only the first of them runs.
    """

    field: str
    """What is checked, as the recipe field that findings name by default."""
    stage: StageName
    """The stage that needs it."""
    find: Callable[[], Iterable[Finding] | None]
    """Returns findings, and may raise any exception: its message is then an error."""
    machine: bool = False
    """True if the outcome depends on this machine, so that a stage may still work on another one."""
    artifacts: tuple[str, ...] = ("",)
    """Beginnings of the names of the artifacts that need it; all of the stage by default."""

    def findings(self) -> list[Finding]:
        """Run the check."""
        found: list[Finding] = []
        try:
            found.extend(self.find() or ())
        except Exception as error:  # a reward function may raise anything while it is imported
            found.append(finding_of(error, self.field))
        return found


def finding_of(error: Exception, field: str) -> Finding:
    """Return the error as a finding; its message may begin with the field at fault, else that is `field`."""
    text = str(error).strip()
    if not text or not isinstance(error, (ValueError, OSError, ImportError, RuntimeError)):
        return Finding(field, f"{type(error).__name__}: {text}")
    named = re.match(rf"((?:{'|'.join(Recipe.model_fields)})(?:\.[\w-]+)+): ", text)
    return Finding(named[1], text[named.end() :]) if named else Finding(field, text)
