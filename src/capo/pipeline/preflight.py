"""The preflight: before any work, check everything that a later stage would reject, and report all of it.

The stages declare the checks; this module only collects their findings.
"""

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import get_args

from capo.engine.progress import say
from capo.pipeline import graph
from capo.pipeline.states import statuses
from capo.recipe import Recipe
from capo.store import Run
from capo.store.check import Check, Finding, finding_of
from capo.store.step import StageName, Step

ORDER: tuple[StageName, ...] = get_args(StageName)
"""The stages in the order in which they run."""

_printed: ContextVar[set[Finding] | None] = ContextVar("_printed", default=None)
"""The warnings that were printed in `warnings_once`; None outside of it."""


class PreflightError(ValueError):
    """Problems that would stop a stage; `findings` has all of them."""

    def __init__(self, findings: Collection[Finding]) -> None:
        self.findings = tuple(findings)
        count = "a problem" if len(findings) == 1 else f"{len(findings)} problems"
        lines = [f"{finding.field}: {finding.message}" for finding in findings]
        super().__init__("\n  ".join([f"{count} that would stop the run; nothing was made:", *lines]))


def check(
    recipe: Recipe,
    directory: str | Path,
    making: Iterable[str] = ORDER,
    later: Iterable[str] = (),
    artifacts: Collection[str] | None = None,
) -> list[Finding]:
    """Return the problems that the stages `making` and the `later` ones would meet, errors first.

    Of the stages `making`, only `artifacts` are made; None for all. A problem of this machine is only a
    warning if no stage of `making` has it. Loads no weights and makes nothing, but may fetch configurations,
    import reward functions, and start reward programs.
    """
    now, all_stages = set(making), {*making, *later}
    stages: dict[str, set[StageName]] = {}
    first: dict[str, Check] = {}
    for declared in graph.checks_of(recipe, Run(directory)):
        needless = declared.stage in now and not _is_needed(declared, artifacts)
        if declared.stage in all_stages and not needless:
            first.setdefault(declared.field, declared)
            stages.setdefault(declared.field, set()).add(declared.stage)
    found: dict[Finding, None] = {}
    for field, declared in first.items():
        elsewhere = declared.machine and not stages[field] & now
        for finding in declared.findings():
            found[_warning(finding) if elsewhere and finding.severity == "error" else finding] = None
    return sorted(found, key=lambda finding: ("error", "warning", "note").index(finding.severity))


def require(
    recipe: Recipe, directory: str | Path, making: Collection[Step], unfinished: Iterable[Step]
) -> None:
    """Check what the steps `making` and all later ones among `unfinished` need; print warnings.

    Raises `PreflightError` with all errors.
    """
    now = {step.stage for step in making}
    start = min(map(ORDER.index, now), default=len(ORDER))
    later = {step.stage for step in unfinished if ORDER.index(step.stage) > start}
    findings = check(recipe, directory, now, later - now, [step.artifact for step in making])
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        raise PreflightError(errors)
    for finding in findings:
        if finding.severity == "warning":
            _print_warning(finding)


@contextmanager
def warnings_once() -> Iterator[None]:
    """Print a warning that several runs within the context have only once."""
    token = _printed.set(set())
    try:
        yield
    finally:
        _printed.reset(token)


def _print_warning(finding: Finding) -> None:
    printed = _printed.get()
    if printed is not None:
        if finding in printed:
            return
        printed.add(finding)
    say(f"Warning: {finding.field}: {finding.message}")


def check_run(recipe: Recipe, directory: str | Path) -> tuple[list[str], list[Finding]]:
    """Return the stages that the run has left to do, and what they would meet; makes nothing."""
    try:
        steps = graph.steps_of(recipe)
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        findings = check(recipe, directory)
        broken = any(finding.severity == "error" for finding in findings)
        return list(ORDER), findings if broken else [finding_of(error, "recipe"), *findings]
    states = statuses(steps, Run(directory))
    left = {status.stage for status in states.values() if status.state != "done"}
    stages = [stage for stage in ORDER if stage in left]
    return list(stages), check(recipe, directory, stages) if stages else []


def steps_or_problems(recipe: Recipe, directory: str | Path, stage: str | None) -> list[Step]:
    """Return the steps of the recipe.

    If the inputs of a step cannot be identified, raises `PreflightError` with all problems of `stage` and
    later ones, of which that is usually one.
    """
    try:
        return graph.steps_of(recipe)
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        later = ORDER if stage is None else ORDER[ORDER.index(stage) :]
        findings = check(recipe, directory, ORDER if stage is None else (stage,), later)
        errors = [finding for finding in findings if finding.severity == "error"]
        if not errors:
            raise
        raise PreflightError(errors) from error


def _is_needed(declared: Check, artifacts: Collection[str] | None) -> bool:
    return artifacts is None or any(name.startswith(declared.artifacts) for name in artifacts)


def _warning(finding: Finding) -> Finding:
    message = f"{finding.message} (a later stage needs this; it may be different on its machine)"
    return Finding(finding.field, message, "warning")
