"""Edges of settings and rewards, and orders and divisions of work that must change nothing.

    python benchmarks/attack edges [FOLDER]

Bad settings must be rejected before any work, all of them at once, each with its field. Rewards without
information, or with numbers that a comparison cannot take, must end in a defined result or an error that
names the reward. Another order of rewards, other batches and shards, and several processes must give the same
pairs.
"""

import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from environment import SETTINGS
from forks import fork, import_all, modules, prepare
from ground import digests
from tries import Try

BAD_SETTINGS = (
    (("seed=-1", "pairs.reward=first"), ("seed: ", "pairs.reward: ")),
    (
        ("train.stepps=5", "trian.steps=5", "generate.guidance=1"),
        ("'steps'?", "'train'?", "'guidance_scale'?"),
    ),
    (("train.learning_rate=fast", "train.steps=1.5"), ("train.learning_rate: ", "train.steps: ")),
    (
        ("train.global_batch_size=5", "train.per_device_batch_size=2", "pairs.reward=x"),
        ("train.per_device_batch_size: ", "pairs.reward: "),
    ),
    (("train.beta=.nan", "train.weighting_bias=.inf"), ("train.beta: ", "train.weighting_bias: ")),
    (("generate.samples_per_prompt=1", "pairs.selection=sums"), ("generate.samples_per_prompt: ", "'sum'?")),
    (("rewards=[]", "model.dtype=float16"), ("rewards: ", "train.dtype: ")),
    (("name=../run", "evaluate.prompts.source=shapes:train"), ("name: ", "evaluate.prompts.source: ")),
    (("train=5", "prompts=x", "evaluate=[]"), ("train: ", "prompts: ", "evaluate: ")),
    (("rewards=[{name: a}, {name: a}]", "train.betta=1"), ("train.betta: ", "'a' is repeated")),
    (
        ("rewards=[{name: shapes-preferense}]", "evaluate.judge=shape"),
        ("shapes-preference", "evaluate.judge"),
    ),
    (("benchmarks=[{name: genevall}]",), ("'geneval'?",)),
)
"""Settings, and what the message must contain."""

REWARDS = '''
"""Rewards at the edge."""


def equal(images, prompts):
    return [1.0] * len(images)


def zero(images, prompts):
    return [0.0] * len(images)


def negative(images, prompts):
    return [-1.0 - n for n in range(len(images))]


def infinite(images, prompts):
    return [float("inf")] * len(images)


def huge(images, prompts):
    return [1e308 * (-1) ** n for n in range(len(images))]


def redness(images, prompts):
    return [image.resize((1, 1)).getpixel((0, 0))[0] / 255 for image in images]


def blueness(images, prompts):
    return [image.resize((1, 1)).getpixel((0, 0))[2] / 255 for image in images]
'''

RED = "{name: red, source: 'edge_rewards:redness', comparison: threshold}"
BLUE = "{name: blue, source: 'edge_rewards:blueness', comparison: power-ratio}"
EDGES = (
    ("equal", "threshold", "no prompt has a pair"),
    ("zero", "power-ratio", "no prompt has a pair"),
    ("negative", "power-ratio", "is negative"),
    ("infinite", "bradley-terry", "no score for"),
    ("huge", "bradley-terry", ""),
)
"""A reward, its comparison, and what its error must mention; empty if there must be pairs."""

Rows = dict[str, Any]


def attack(folder: Path, most: int | None = None) -> Iterator[Try]:
    """Yield a try for every bad setting, edge reward and division of work."""
    (folder / "edge_rewards.py").write_text(REWARDS)
    prepare()
    sys.path.insert(0, str(folder))
    whole = folder / "whole"
    shutil.rmtree(whole, ignore_errors=True)
    _make(folder, whole, RED, BLUE)
    yield from _settings(folder)
    yield from _rewards(folder, whole)
    yield from _divisions(folder, whole)


def _settings(folder: Path) -> Iterator[Try]:
    run = folder / "never"
    for settings, expected in BAD_SETTINGS:
        ended = fork(["run", "shapes", "--run", str(run), *_set(settings)], folder / "last")
        missing = [words for words in expected if words not in ended.err]
        wrong = ended.code not in (1, 2) or "Traceback" in ended.err or run.exists() or missing
        problem = f"exit code {ended.code}, not mentioned: {missing}: {ended.err[-500:]}" if wrong else ""
        yield Try("bad settings", " ".join(settings), problem, "rejected")


def _rewards(folder: Path, whole: Path) -> Iterator[Try]:
    run = folder / "edge"
    for name, comparison, mention in EDGES:
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(whole, run)
        reward = f"{{name: {name}, source: 'edge_rewards:{name}', comparison: {comparison}}}"
        arguments = ["shapes", "--run", str(run), "--force", *_small(reward)]
        ended = fork(["score", *arguments], folder / "last")
        if not ended.code:
            ended = fork(["pair", *arguments], folder / "last")
        as_expected = mention in ended.err if ended.code else not mention
        wrong = not as_expected or "Traceback" in ended.err
        problem = f"exit code {ended.code}: {ended.err[-500:]}" if wrong else ""
        yield Try(
            "rewards at the edge", f"{name}, {comparison}", problem, "rejected" if ended.code else "pairs"
        )


def _divisions(folder: Path, whole: Path) -> Iterator[Try]:
    """Make the same samples, scores and pairs in other ways."""
    expected = _pairs(whole)
    for what, rewards, settings in (
        ("rewards in the other order", (BLUE, RED), ()),
        ("batches of 3 images", (RED, BLUE), ("generate.batch_size=3",)),
        ("shards of 3 prompts", (RED, BLUE), ("generate.shard_prompts=3",)),
    ):
        run = folder / "divided"
        shutil.rmtree(run, ignore_errors=True)
        _make(folder, run, *rewards, settings=settings)
        different = [name for name, row in _pairs(run).items() if row != expected.get(name)]
        problem = f"other pairs of {len(different)} prompts" if different else ""
        yield Try("orders and divisions", what, problem, "equal pairs")
    run = folder / "parts"
    shutil.rmtree(run, ignore_errors=True)
    _make(folder, run, RED, BLUE, parts=("1/2", "0/2"))
    found, wanted = digests(run), digests(whole)
    different = [name for name in wanted if found.get(name) != wanted[name]]
    yield Try("orders and divisions", "two commands with --shard", ", ".join(different[:5]), "equal")


def _make(
    folder: Path, run: Path, *rewards: str, settings: Sequence[str] = (), parts: Sequence[str] = ()
) -> None:
    """Make everything up to the pairs; samples and scores first in `parts`, each by a command of its own."""
    common = ("shapes", "--run", str(run), *_small(*rewards), *_set(settings))
    for stage in ("prompts", "generate", "score", "pair"):
        sharded = parts if stage in ("generate", "score") else ()
        for shard in (*(("--shard", part) for part in sharded), ()):
            ended = fork([stage, *common, *shard], folder / "last")
            if ended.code:
                raise RuntimeError(f"capo {stage}: exit code {ended.code}: {ended.err}")
        import_all(modules(folder / "last"))


def _pairs(run: Path) -> dict[str, Rows]:
    """Return the chosen and rejected samples of every prompt, and the seeds of its images."""
    rows = {row["prompt_id"]: row for row in pq.read_table(run / "pairs.parquet").to_pylist()}
    seeds: dict[str, list[int]] = {}
    for path in sorted(run.glob("samples/*.parquet")):
        for sample in pq.read_table(path, columns=["prompt_id", "seed"]).to_pylist():
            seeds.setdefault(sample["prompt_id"], []).append(sample["seed"])
    return {
        name: {"chosen": row["chosen"], "rejected": row["rejected"], "seeds": seeds[name]}
        for name, row in rows.items()
    }


def _small(*rewards: str) -> list[str]:
    return _set((*SETTINGS, f"rewards=[{', '.join(rewards)}]"))


def _set(settings: Sequence[str]) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]
