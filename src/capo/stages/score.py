"""The score stage: every sample by one reward."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from capo import runtime
from capo.progress import progress
from capo.recipe import Recipe, RewardSection
from capo.rewards import (
    Reward,
    RewardError,
    build_comparison,
    declared_comparison,
    describe_comparison,
    load_reward,
    refuse_negative,
    score_images,
)
from capo.rewards.images import decode_image
from capo.stages.prompts import read_prompts
from capo.workspace import Artefact, Run

if TYPE_CHECKING:
    import pyarrow as pa
    from PIL import Image

REASONS_SHOWN = 3


def score(recipe: Recipe, run: Run, artefact: Artefact, reward: RewardSection) -> None:
    """Write a shard of raw scores for every shard of samples.

    The model is loaded only if a shard is not there yet. A shard in which scores are missing is
    scored again when the stage starts again. Raises `RewardError` as soon as more than
    `pairs.max_skipped` of all samples have no score.
    """
    samples = run.artefact("samples")
    texts = {prompt.prompt_id: prompt.text for prompt in read_prompts(run)}
    total = len(texts) * recipe.generate.samples_per_prompt
    # What calibration would refuse later is refused here, before hours of scoring.
    comparison = build_comparison(reward) if reward.use == "train" else None
    values: list[np.ndarray] = []
    gappy: list[pa.Table] = []
    model: Reward | None = None
    with progress(f"score {reward.name}", total, "images") as bar:
        for name in samples.files():
            if not name.endswith(".parquet"):
                continue
            table = finished(artefact, name)
            if table is not None:
                bar.advance(len(table), resumed=True)
            else:
                model = model or load_reward(reward, runtime.device(recipe.engine))
                rows = samples.read_table(name, columns=["prompt_id", "sample", "image"])
                table = score_rows(model, rows, decode_rows(rows), texts, reward.batch_size)
                refuse_negative(reward.name, comparison, _values(table), table["prompt_id"], table["sample"])
                artefact.write_table(name, table)
                bar.advance(len(table))
            values.append(_values(table))
            if table["score"].null_count:
                gappy.append(table)
                check_missing(reward.name, gappy, total, recipe.pairs.max_skipped)
    artefact.commit(_summary(reward, np.concatenate(values)))


def read_scores(artefact: Artefact) -> "pa.Table":
    """All scores of a committed score artefact: prompt_id, sample, score (may be null), error."""
    import pyarrow as pa

    return pa.concat_tables([artefact.read_table(name) for name in artefact.files()])


def finished(artefact: Artefact, name: str) -> "pa.Table | None":
    """The scores of a file that is there without a gap."""
    if not artefact.has(name):
        return None
    table = artefact.read_table(name)
    return None if table["score"].null_count else table


def decode_rows(rows: "pa.Table") -> "list[Image.Image]":
    """The images of a table of samples."""
    return [decode_image(data) for data in rows["image"].combine_chunks().field("bytes").to_pylist()]


def score_rows(
    reward: Reward,
    rows: "pa.Table",
    images: "list[Image.Image]",
    texts: Mapping[str, str],
    batch_size: int,
) -> "pa.Table":
    """prompt_id, sample, score (null when missing) and error of `images`, whose keys are `rows`."""
    import pyarrow as pa

    prompts = [texts[prompt_id] for prompt_id in rows["prompt_id"].to_pylist()]
    scored = score_images(reward, images, prompts, batch_size)
    return pa.table(
        {
            "prompt_id": rows["prompt_id"],
            "sample": rows["sample"],
            "score": pa.array([each.score for each in scored], pa.float64()),
            "error": pa.array([each.error for each in scored], pa.string()),
        }
    )


def check_missing(name: str, tables: "list[pa.Table]", total: int, limit: float) -> None:
    """Raise `RewardError` if `tables` lack the scores of over `limit` of all `total` samples."""
    missing = sum(table["score"].null_count for table in tables)
    if missing <= limit * total:
        return
    gaps = [row for table in tables for row in table.filter(table["score"].is_null()).to_pylist()]
    reasons = [f"  prompt {r['prompt_id']}, sample {r['sample']}: {r['error']}" for r in gaps[:REASONS_SHOWN]]
    raise RewardError(
        "\n".join(
            [
                f"reward {name!r} gave no score for {missing} of {total} samples, more than "
                f"pairs.max_skipped = {limit:g} allows; the first:",
                *reasons,
            ]
        )
    )


def _values(table: "pa.Table") -> np.ndarray:
    """float64 [n], NaN where the score is missing."""
    return table["score"].to_numpy().astype(np.float64)


def _summary(reward: RewardSection, scores: np.ndarray) -> dict[str, object]:
    present = scores[np.isfinite(scores)]
    if not len(present):
        raise RewardError(f"reward {reward.name!r} gave no score at all")
    return {
        "scored": len(present),
        "missing": len(scores) - len(present),
        "mean": float(present.mean()),
        "std": float(present.std()),
        "comparison": describe_comparison(declared_comparison(reward)),
    }
