"""The FLOPs of every stage, and the hours that a GPU takes for them."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from capo.cost.gpus import Gpu
from capo.cost.plan.benchmark_work import BenchmarkCount
from capo.cost.plan.counts import Sampling, Training, computing_dtype
from capo.cost.plan.scoring_work import score_flops, score_precision
from capo.recipe import Recipe, RewardSection

Work = Counter[str]
"""FLOPs by the precision they are computed in."""


@dataclass(frozen=True)
class PromptCounts:
    """Number of prompts by use; None if they cannot be counted from here."""

    train: int | None
    validation: int | None
    evaluate: int | None
    benchmarks: tuple[BenchmarkCount, ...] = ()
    """Those whose prompts are known."""


@dataclass(frozen=True)
class Stage:
    """The work of one stage; `hours` on one GPU."""

    name: str
    what: str
    flops: int
    hours: float


def stages(
    recipe: Recipe,
    prompts: PromptCounts,
    sampling: Sampling,
    training: Training,
    gpu: Gpu,
    utilization: float,
) -> list[Stage]:
    """The stages that need a GPU, in order, without those whose number of prompts is unknown."""
    amounts = (
        *_making_samples(recipe, prompts.train, sampling),
        _training(recipe, training),
        *_validating(recipe, prompts.validation, sampling),
        *_evaluating(recipe, prompts.evaluate, sampling),
        *_benchmarking(recipe, prompts.benchmarks, sampling),
    )
    return [
        Stage(name, what, sum(work.values()), _seconds(work, gpu, utilization) / 3600)
        for name, what, work in amounts
    ]


def artifact_hours(recipe: Recipe, planned: Sequence[Stage], gpu: Gpu) -> dict[str, float]:
    """GPU hours by artifact that the work of the planned stages produces."""
    times, models = recipe.train.validations, recipe.evaluate.models_compared
    shares = {
        "generate": {"samples": 1.0},
        "score": _score_shares(recipe.rewards, gpu),
        "train": {"train": 1.0},
        "validation": {"validation": 1 / times, "train": 1 - 1 / times},
        "evaluate": {"baseline": 1 - 1 / models, "evaluate": 1 / models},
        "benchmark": {"benchmarks": 1.0},
    }
    hours: dict[str, float] = {}
    for stage in planned:
        for artifact, share in shares[stage.name].items():
            hours[artifact] = hours.get(artifact, 0.0) + share * stage.hours
    return hours


def _score_shares(rewards: Sequence[RewardSection], gpu: Gpu) -> dict[str, float]:
    """The share of every reward in the time to score an image; equal shares if no work is known."""
    known = {reward.name: (score_flops(reward), score_precision(reward)) for reward in rewards}
    seconds = {name: flops / gpu.peak(dtype) if flops else 0.0 for name, (flops, dtype) in known.items()}
    whole = sum(seconds.values())
    return {f"scores/{name}": share / whole if whole else 1 / len(rewards) for name, share in seconds.items()}


def uncounted_rewards(rewards: Sequence[RewardSection]) -> list[str]:
    """Names of the rewards whose work is unknown."""
    return [reward.name for reward in rewards if score_flops(reward) is None]


NamedWork = tuple[str, str, Work]
"""Stage, description, FLOPs."""


def _making_samples(recipe: Recipe, prompts: int | None, sampling: Sampling) -> Iterator[NamedWork]:
    if prompts is None:
        return
    images = prompts * recipe.generate.samples_per_prompt
    amount = f"{images:,} images"
    if recipe.generate.adaptive is not None:
        amount = f"{prompts * recipe.generate.adaptive.first:,} to {amount}"
    work = _sampling(recipe.model.dtype, sampling, prompts, images)
    yield "generate", f"{amount}, {sampling.steps} steps", work
    yield "score", f"{amount}, {len(recipe.rewards)} rewards", _scoring(recipe.rewards, images)


def _training(recipe: Recipe, training: Training) -> NamedWork:
    section = recipe.train
    policy = training.checkpointed if section.gradient_checkpointing else training.policy
    pairs = section.steps * section.global_batch_size
    work = Work({computing_dtype(recipe): pairs * (training.reference.flops + policy.flops)})
    return "train", f"{section.steps:,} steps of {section.global_batch_size} pairs", work


def _validating(recipe: Recipe, prompts: int | None, sampling: Sampling) -> Iterator[NamedWork]:
    if prompts is None:
        return
    times, images = recipe.train.validations, prompts * recipe.train.validation_samples
    work = _sampling(recipe.model.dtype, sampling, times * prompts, times * images)
    work += _scoring(recipe.rewards, times * images)
    yield "validation", f"{times} × {images:,} images", work


def _evaluating(recipe: Recipe, prompts: int | None, sampling: Sampling) -> Iterator[NamedWork]:
    if prompts is None:
        return
    models, images = recipe.evaluate.models_compared, prompts * recipe.evaluate.samples_per_prompt
    work = _sampling(recipe.model.dtype, sampling, models * prompts, models * images)
    work += _scoring(recipe.rewards, models * images)
    yield "evaluate", f"{models} × {images:,} images", work


def _benchmarking(
    recipe: Recipe, benchmarks: Sequence[BenchmarkCount], sampling: Sampling
) -> Iterator[NamedWork]:
    """Sampling alone: what the judges compute is not known."""
    if not benchmarks:
        return
    work = Work()
    for count in benchmarks:
        work += _sampling(recipe.model.dtype, sampling, count.sampled * count.prompts, count.sampled_images)
    images = sum(count.sampled_images for count in benchmarks)
    yield "benchmark", f"{images:,} images of {', '.join(count.name for count in benchmarks)}", work


def _seconds(work: Work, gpu: Gpu, utilization: float) -> float:
    return sum(flops / (gpu.peak(dtype) * utilization) for dtype, flops in work.items())


def _sampling(dtype: str, sampling: Sampling, prompts: int, images: int) -> Work:
    work = Work({dtype: images * sampling.image + prompts * sampling.encode})
    # A VAE consists of convolutions except for one layer.
    precision = "tf32" if sampling.decode_dtype == "float32" else sampling.decode_dtype
    return work + Work({precision: images * sampling.decode})


def _scoring(rewards: Sequence[RewardSection], images: int) -> Work:
    work = Work()
    for reward in rewards:
        work += Work({score_precision(reward): images * (score_flops(reward) or 0)})
    return work
