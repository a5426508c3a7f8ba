"""A recipe's stages in order: what each depends on, what is done, and running the rest.

    prompts ─► samples ─► scores ─► pairs ─► train ─► evaluate ─► report

Every artefact is made from inputs: recipe fields, weights, and the digests of the artefacts before
it. One whose inputs are what it was made from is done; otherwise it is stale, and the fields that
differ say why.
"""

import importlib
import resource
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from capo import runtime
from capo.artefact import WatchedArtefact
from capo.manifest import differences, explain_change
from capo.processes import COMMAND, LaunchError, check_launch, processes
from capo.progress import say
from capo.prompts import source_identity
from capo.recipe import PromptsSection, Recipe, RewardSection
from capo.workspace import Artefact, Run, StaleArtefact, WorkspaceError

STAGES = ("prompts", "generate", "score", "pair", "train", "evaluate", "report")

State = Literal["done", "partial", "stale", "missing"]


@dataclass(frozen=True)
class Step:
    """One artefact, the stage that makes it, and what it is made from."""

    artefact: str
    stage: str
    fields: dict[str, Any]
    upstream: tuple[str, ...] = ()
    reward: RewardSection | None = None


@dataclass(frozen=True)
class ArtefactStatus:
    """Where an artefact stands; `why` says it in a few words, empty when done."""

    name: str
    stage: str
    state: State
    why: str = ""
    changes: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class StageResult:
    """What became of one artefact in a run: found done (`skipped`) or made in `seconds`."""

    name: str
    skipped: bool
    seconds: float
    summary: Mapping[str, Any]


@dataclass(frozen=True)
class RunResult:
    """What a run has come to.

    `report` is the page and `results` the win-rates and judgements (`evaluate/results.json`); None
    as long as their stages are not done.
    """

    directory: Path
    stages: tuple[StageResult, ...]
    report: Path | None
    results: dict[str, Any] | None


def run(recipe: Recipe, directory: str | Path, *, force: bool = False, stage: str | None = None) -> RunResult:
    """Make everything that is not yet done, or only what `stage` makes.

    Goes on where an earlier run stopped. Raises `StaleArtefact` before any work when something was
    made from other settings, unless `force`: then it is made again, as is what depends on it.
    """
    if processes().size == 1:
        return _run(recipe, directory, force, stage)
    if stage != "train":
        raise LaunchError(
            f"only `capo train` runs in several processes, not `capo {stage or 'run'}`: give that without a "
            f"launcher, and `{COMMAND}` once the pairs are there"
        )
    from capo.training.group import joined

    with joined(recipe.engine.device) as group:
        return _run(recipe, directory, force, stage, group.wait)


def _run(
    recipe: Recipe,
    directory: str | Path,
    force: bool,
    stage: str | None,
    meet: Callable[[], None] = lambda: None,
) -> RunResult:
    """Run, having let the other processes of the command look before the leading one changes anything."""
    if stage in (None, "train"):
        check_launch(recipe.train.sharding)
    steps = plan(recipe)
    found = _status(steps, Run(directory))
    if stage is not None:
        _check_ready(stage, steps, found)
        steps = [s for s in steps if s.stage == stage]
    wanted = [found[s.artefact] for s in steps]
    if not force:
        _refuse_stale(wanted)
    if all(s.state == "done" for s in wanted):
        done = Run(directory)
        return _result(done, [_found_done(done.artefact(s.artefact)) for s in steps])
    meet()
    if not processes().leads:
        return _watch(recipe, directory, meet)
    with Run.open(directory, recipe) as opened:
        result = _result(opened, [_make(step, recipe, opened, force) for step in steps])
        meet()
        return result


def _watch(recipe: Recipe, directory: str | Path, meet: Callable[[], None]) -> RunResult:
    """Take part in the training that the leading process writes down."""
    from capo.stages.train import train

    watched = Run(directory)
    train(recipe, watched, WatchedArtefact(watched, "train"))
    meet()
    return _result(watched, [_found_done(watched.artefact("train"))])


def status(recipe: Recipe, directory: str | Path) -> list[ArtefactStatus]:
    """Where every artefact of a run stands, in the order they are made."""
    return list(_status(plan(recipe), Run(directory)).values())


def plan(recipe: Recipe) -> list[Step]:
    """All steps of a recipe, in order, with what each depends on."""
    seed = {"seed": recipe.seed}
    model = _flat("model", recipe.model.results()) | {"model.weights": _weights(recipe)}
    generate = _flat("generate", recipe.generate.results())
    sources = {r.name: _reward_source(r) for r in recipe.rewards}
    scores = {r.name: f"scores/{r.name}" for r in recipe.rewards}
    training = [r.name for r in recipe.training_rewards]
    evaluated = ("train",) if recipe.evaluate.policy is None else ()
    prompts = _flat("prompts", recipe.prompts.results()) | _content("prompts", recipe.prompts)
    steps = [
        Step("prompts", "prompts", prompts | seed),
        Step("samples", "generate", model | generate | seed, ("prompts",)),
        *(Step(scores[r.name], "score", sources[r.name], ("samples",), r) for r in recipe.rewards),
        Step("pairs", "pair", _pair_fields(recipe), tuple(scores[name] for name in training)),
        Step("train", "train", model | generate | seed | _train_fields(recipe), ("samples", "pairs")),
        Step("evaluate", "evaluate", model | generate | seed | _evaluate_fields(recipe), evaluated),
    ]
    # The page shows the settings of all stages.
    shown = {field: value for step in steps for field, value in step.fields.items()}
    report = shown | _flat("report", recipe.report.results()) | {"name": recipe.name}
    return [*steps, Step("report", "report", report, tuple(s.artefact for s in steps))]


# What the stages depend on.


def _pair_fields(recipe: Recipe) -> dict[str, Any]:
    fields = _flat("pairs", recipe.pairs.results())
    fields["rewards"] = [r.name for r in recipe.training_rewards]
    for reward in recipe.training_rewards:
        compared = {"comparison", "temperature", "exponent", "weight"}
        fields |= _flat(f"rewards.{reward.name}", reward.model_dump(mode="json", include=compared))
    return fields


def _train_fields(recipe: Recipe) -> dict[str, Any]:
    fields = _flat("train", recipe.train.results()) | {"pairs.min_margin": recipe.pairs.min_margin}
    if recipe.train.validation_prompts is not None:
        fields |= _content("train.validation_prompts", recipe.train.validation_prompts)
        for reward in recipe.rewards:  # held-out ones are watched too, though nothing follows from them
            fields |= _reward_source(reward) | {f"rewards.{reward.name}.use": reward.use}
    return fields


def _evaluate_fields(recipe: Recipe) -> dict[str, Any]:
    fields = _flat("evaluate", recipe.evaluate.results())
    fields |= _content("evaluate.prompts", recipe.evaluate.prompts)
    if recipe.evaluate.policy is not None:
        fields["evaluate.policy.content"] = _policy(recipe.evaluate.policy)
    for reward in recipe.rewards:
        fields |= _flat(f"rewards.{reward.name}", reward.results()) | _reward_source(reward)
    return fields


def _reward_source(reward: RewardSection) -> dict[str, Any]:
    from capo.rewards import reward_identity

    return {
        f"rewards.{reward.name}.source": reward.source or reward.name,
        f"rewards.{reward.name}.checkpoint": reward.checkpoint,
        f"rewards.{reward.name}.weights": reward_identity(reward),
    }


def _weights(recipe: Recipe) -> str:
    from capo.diffusion import checkpoint_identity

    return checkpoint_identity(recipe.model.checkpoint, recipe.model.revision)


def _policy(path: str) -> str:
    from capo.diffusion.saved import find_policy

    return find_policy(path).identity


def _content(where: str, section: PromptsSection) -> dict[str, Any]:
    return {f"{where}.content": source_identity(section)}


def _flat(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Nested sections as dotted keys."""
    fields: dict[str, Any] = {}
    for name, value in values.items():
        key = f"{prefix}.{name}"
        fields |= _flat(key, value) if isinstance(value, dict) else {key: value}
    return fields


# What is done.


def _status(steps: list[Step], opened: Run) -> dict[str, ArtefactStatus]:
    found: dict[str, ArtefactStatus] = {}
    for step in steps:
        found[step.artefact] = _step_status(step, opened, found)
    return found


def _step_status(step: Step, opened: Run, found: Mapping[str, ArtefactStatus]) -> ArtefactStatus:
    artefact = opened.artefact(step.artefact)

    def state(state: State, why: str = "", changes: Mapping[str, Any] | None = None) -> ArtefactStatus:
        return ArtefactStatus(step.artefact, step.stage, state, why, changes or {})

    begun = artefact.begun()
    if begun is None:
        waiting = [u for u in step.upstream if found[u].state != "done"]
        return state("missing", f"needs {', '.join(waiting)}" if waiting else "not begun")
    known = [u for u in step.upstream if found[u].state == "done"]
    compared = {f: v for f, v in begun.items() if f.removeprefix("@") in known or f[0] != "@"}
    if changes := differences(compared, step.fields | _digests(opened, known)):
        why = "; ".join(explain_change(f, *values) for f, values in changes.items())
        return state("stale", why, changes)
    if outdated := [u for u in step.upstream if found[u].state == "stale"]:
        return state("stale", f"{', '.join(outdated)} changed")
    manifest = artefact.manifest()
    if manifest is None:
        return state("partial", "not finished")
    if lost := artefact.lost(manifest):
        return state("partial", f"{lost} is missing or cut short")
    return state("done")


def _digests(opened: Run, upstream: tuple[str, ...] | list[str]) -> dict[str, str]:
    return {f"@{name}": opened.artefact(name).digest for name in upstream}


def _refuse_stale(wanted: list[ArtefactStatus]) -> None:
    stale = [each for each in wanted if each.state == "stale"]
    if stale:
        raise StaleArtefact(stale[0].name, stale[0].changes, [each.name for each in stale[1:]])


def _check_ready(stage: str, steps: list[Step], found: Mapping[str, ArtefactStatus]) -> None:
    needed = {u for step in steps if step.stage == stage for u in step.upstream}
    for name in (s.artefact for s in steps):
        if name in needed and found[name].state != "done":
            raise WorkspaceError(
                f"{stage} needs {name}, which is {found[name].state} ({found[name].why}); "
                f"first give `capo {found[name].stage}` with the same recipe and --run, or `capo run` for all"
            )


# Doing the rest.


def _make(step: Step, recipe: Recipe, opened: Run, force: bool) -> StageResult:
    artefact = opened.artefact(step.artefact)
    inputs = step.fields | _digests(opened, step.upstream)
    if artefact.done and not differences(artefact.begun() or {}, inputs):
        say(f"{artefact.name}: done already")
        return _found_done(artefact)
    artefact.begin(inputs, force=force)
    arguments = (recipe, opened, artefact, *([step.reward] if step.reward else []))
    with _timed(step, recipe, opened) as clock:
        function = getattr(importlib.import_module(f"capo.stages.{step.stage}"), step.stage)
        function(*arguments)
    if not artefact.done:
        raise RuntimeError(f"the {step.stage} stage ended without committing {step.artefact}")
    return StageResult(step.artefact, False, clock["seconds"], artefact.summary)


@contextmanager
def _timed(step: Step, recipe: Recipe, opened: Run) -> Iterator[dict[str, float]]:
    clock = {"seconds": 0.0}
    started = time.monotonic()
    yield clock
    clock["seconds"] = round(time.monotonic() - started, 3)
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes
    opened.record_timing(
        step.artefact,
        seconds=clock["seconds"],
        peak_rss_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
        # Before torch is there, nothing has run anywhere else.
        device=runtime.device_name(recipe.engine) if "torch" in sys.modules else "cpu",
        host=socket.gethostname(),
        finished=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    )


def _found_done(artefact: Artefact) -> StageResult:
    return StageResult(artefact.name, True, 0.0, artefact.summary)


def _result(opened: Run, stages: list[StageResult]) -> RunResult:
    report, evaluate = opened.artefact("report"), opened.artefact("evaluate")
    return RunResult(
        opened.path,
        tuple(stages),
        report.folder / "index.html" if report.done else None,
        evaluate.read_json("results.json") if evaluate.done else None,
    )
