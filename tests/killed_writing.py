"""What writes a few bytes, killed at its failpoints. It imports little, so that its forks are quick."""

import signal
from collections.abc import Callable
from pathlib import Path

import fake_stages
from capo import pipeline
from capo.recipe import Recipe, parse_recipe
from capo.store import Run, atomic
from forked import ended, fork, import_for

Work = Callable[[Path], object]


def kill_writing(folder: Path, stale: bool) -> None:
    """Kill `make_everything` at every failpoint; if `stale`, the run has something else before."""
    _kill(make_everything, folder, make_something_else if stale else lambda path: None)


def kill_reuse(folder: Path, recipe: Recipe) -> None:
    """Kill a run of fake stages that reuses artifacts of `folder/first`, at every seventh failpoint."""
    fake_stages.install()
    donor = parse_recipe(fake_stages.VALUES)
    import_for(lambda: pipeline.run(donor, folder / "donor"), folder / "imported")
    _kill(lambda path: pipeline.run(recipe, path, donors=[folder / "donor"]), folder, every=7)


def _kill(work: Work, folder: Path, before: Work = lambda path: None, every: int = 1) -> None:
    """Kill `work` in `folder/NUMBER` at every so many failpoints and redo it; `folder/whole` is whole."""
    atomic.flush = lambda path: None  # of this process alone

    def attempt(name: str, **environment: str) -> int:
        return ended(fork(lambda: work(folder / name), **environment))

    import_for(lambda: work(folder / "first"), folder / "imported")
    before(folder / "whole")
    assert attempt("whole", CAPO_FAILPOINT_COUNT=str(folder / "count")) == 0
    for k in range(1, int((folder / "count").read_text()) + 1, every):
        before(folder / str(k))
        assert attempt(str(k), CAPO_FAILPOINT=str(k)) == -signal.SIGKILL, k
        assert not unrecorded(folder / str(k)), k
        assert attempt(str(k)) == 0, k


def unrecorded(run: Path) -> list[str]:
    """Return the visible files of artifacts that neither the manifest nor the record has.

    A resumed run could not verify them.
    """
    found = []
    for artifact in ("samples", "train"):
        records = (run / "manifests").glob(f"{artifact}.*")
        known = "".join(path.read_text() for path in records if not atomic.is_temporary(path.name))
        files = (path.relative_to(run / artifact) for path in (run / artifact).rglob("*") if path.is_file())
        visible = [path.as_posix() for path in files if not any(map(atomic.is_temporary, path.parts))]
        found += [f"{artifact}/{name}" for name in visible if f'"{name}"' not in known]
    return found


def make_everything(path: Path) -> None:
    """Use every kind of writing in one run, which can be resumed after a crash anywhere."""
    with Run.open(path) as run:
        run.write_text("recipe.yaml", "name: x\n")
        samples, train = run.artifact("samples"), run.artifact("train")
        if not samples.done or samples.begun() != {"seed": 1}:
            samples.begin({"seed": 1}, force=True)
            for shard in range(2):
                if not samples.has(f"shard-{shard}"):
                    samples.write_bytes(f"shard-{shard}", bytes([shard]) * 10)
            samples.commit({"shards": 2})
        if not train.done or train.begun() != {"@samples": samples.digest}:
            train.begin({"@samples": samples.digest}, force=True)
            for step in range(2):
                with train.write_directory("best") as folder:
                    (folder / "weights").write_text(str(step))
                log = train.read_json_lines("log.jsonl") if train.has("log.jsonl") else []
                write = train.append_json_lines if log else train.write_json_lines
                if len(log) == step:
                    write("log.jsonl", [{"step": step}])
            train.write_json("state.json", {})
            train.remove("state.json")
            train.commit()
        run.record_timing("train", seconds=1.0)


def make_something_else(path: Path) -> None:
    """Make the same artifacts from other settings: one done, one partial."""
    with Run.open(path) as run:
        for name in ("samples", "train"):
            run.artifact(name).begin({"seed": 0})
            run.artifact(name).write_bytes("folder/old", b"old")
        run.artifact("samples").commit()
