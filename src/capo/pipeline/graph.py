"""What each artifact of a run is made from: recipe fields, weights, and the artifacts before it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from capo.prompts import source_identity
from capo.recipe import ImagesSection, PromptsSection, Recipe, RewardSection

HOW_MANY = ("generate.samples_per_prompt", "generate.adaptive")
"""Fields that say how many samples a training prompt has."""


@dataclass(frozen=True)
class Step:
    """One artifact, the stage that makes it, and what it is made from.

    A stage is a function in a module of its name; `part` names the one that makes only this artifact of
    a stage's several.
    """

    artifact: str
    stage: str
    fields: dict[str, Any]
    upstream: tuple[str, ...] = ()
    reward: RewardSection | None = None
    part: str | None = None
    serves: str | None = None
    """The artifact that alone reads it, and whose own fields say all that this one is made from: once that
    is done, nobody misses this."""


def steps_of(recipe: Recipe) -> list[Step]:
    """All steps of a recipe, in order, with what each depends on."""
    seed = {"seed": recipe.seed}
    model = _flat("model", recipe.model.results()) | {"model.weights": _weights(recipe)}
    generate = _flat("generate", recipe.generate.results())
    sources = {r.name: _reward_source(r) for r in recipe.rewards}
    scores = {r.name: f"scores/{r.name}" for r in recipe.rewards}
    training = [r.name for r in _paired_by(recipe)]
    evaluated = ("train",) if recipe.evaluate.policy is None else ()
    # How many samples a training prompt has means nothing to evaluation.
    sampling = {name: value for name, value in generate.items() if not name.startswith(HOW_MANY)}
    images = {"images": None} if recipe.images is None else _images(recipe.images)
    policy, pool = _start_fields(recipe)
    prompts = _flat("prompts", recipe.prompts.results()) | images
    if recipe.images is None:
        prompts |= _content("prompts", recipe.prompts)
    steps = [
        Step("prompts", "prompts", prompts | seed),
        *([Step("pool", "prompts", pool, ("prompts",), part="pool")] if pool else []),
        Step(
            "samples",
            "generate",
            model | generate | images | seed | policy | _adaptive_fields(recipe),
            ("prompts",),
            part=_sampling_part(recipe),
        ),
        *(Step(scores[r.name], "score", sources[r.name], ("samples",), r) for r in recipe.rewards),
        Step(
            "pairs",
            "pair",
            _pair_fields(recipe),
            (*(scores[name] for name in training), *(["pool"] if pool else [])) or ("samples",),
            part=None if recipe.pairs.people is None else "label",
        ),
        *_validation(recipe, model | sampling | seed),
        Step(
            "train", "train", model | generate | seed | policy | _train_fields(recipe), ("samples", "pairs")
        ),
        Step("baseline", "evaluate", model | sampling | seed | _baseline_fields(recipe), part="baseline"),
        Step(
            "evaluate",
            "evaluate",
            model | sampling | seed | _evaluate_fields(recipe),
            (*evaluated, "baseline"),
        ),
    ]
    # The page shows the settings of all stages.
    read = [step for step in steps if step.serves is None]
    shown = {field: value for step in read for field, value in step.fields.items()}
    report = shown | _flat("report", recipe.report.results()) | {"name": recipe.name}
    return [*steps, Step("report", "report", report, tuple(s.artifact for s in read))]


# What the stages depend on.


def _paired_by(recipe: Recipe) -> tuple[RewardSection, ...]:
    """The rewards that the pairs depend on: none where people have said what they prefer."""
    return () if recipe.pairs.selection == "labels" else recipe.training_rewards


def _sampling_part(recipe: Recipe) -> str | None:
    if recipe.images is not None:
        return "take"
    return None if recipe.generate.adaptive is None else "adaptive"


def _adaptive_fields(recipe: Recipe) -> dict[str, Any]:
    """What decides when a prompt has samples enough: the rewards, and how they make pairs."""
    if recipe.generate.adaptive is None:
        return {}
    fields = {
        f: v for f, v in _pair_fields(recipe).items() if f not in ("pairs.min_margin", "pairs.max_skipped")
    }
    for reward in recipe.training_rewards:
        fields |= _reward_source(reward)
    return fields


def _images(section: ImagesSection) -> dict[str, Any]:
    from capo.images import images_identity

    return _flat("images", section.results()) | {"images.content": images_identity(section)}


def _start_fields(recipe: Recipe) -> tuple[dict[str, Any], dict[str, Any]]:
    """Of a further round: the policy it starts from, and the base's scores that its own are calibrated by."""
    if recipe.start is None:
        return {}, {}
    from capo.sampling.start import find_start

    start = find_start(recipe, recipe.start)
    pool: dict[str, Any] = {}
    for reward in _paired_by(recipe):
        source = _reward_source(reward)
        pool |= source | {f"start.pool.{reward.name}": start.pool_identity(reward.name, source)}
    return {"start.policy": start.policy.identity}, pool


def _pair_fields(recipe: Recipe) -> dict[str, Any]:
    fields = _flat("pairs", recipe.pairs.results())
    fields["rewards"] = [r.name for r in _paired_by(recipe)]
    if recipe.pairs.people is not None:  # who is asked about which images is drawn
        fields["seed"] = recipe.seed
    for reward in _paired_by(recipe):
        compared = {"comparison", "temperature", "exponent", "weight"}
        fields |= _flat(f"rewards.{reward.name}", reward.model_dump(mode="json", include=compared))
    return fields


def _train_fields(recipe: Recipe) -> dict[str, Any]:
    fields = _flat("train", recipe.train.results()) | {"pairs.min_margin": recipe.pairs.min_margin}
    if recipe.start is not None:
        fields["start.reference"] = recipe.start.reference
    if recipe.train.validation_prompts is not None:
        fields |= _content("train.validation_prompts", recipe.train.validation_prompts)
        for reward in recipe.rewards:  # held-out ones are watched too, though nothing follows from them
            fields |= _reward_source(reward) | {f"rewards.{reward.name}.use": reward.use}
    return fields


def _validation(recipe: Recipe, sampling: dict[str, Any]) -> list[Step]:
    """The base's half of validation, if there is any."""
    train = recipe.train
    if train.validation_prompts is None:
        return []
    fields = _flat("train.validation_prompts", train.validation_prompts.results())
    fields |= _content("train.validation_prompts", train.validation_prompts)
    fields["train.validation_samples"] = train.validation_samples
    if recipe.model.dtype != "float32":  # training may keep the weights it samples from in another precision
        fields |= {"train.adaptation": train.adaptation, "train.dtype": train.dtype}
    for reward in recipe.rewards:
        fields |= _reward_source(reward)
    return [Step("validation", "train", sampling | fields, part="validation", serves="train")]


def _baseline_fields(recipe: Recipe) -> dict[str, Any]:
    fields = _flat("evaluate", recipe.evaluate.results())
    for own in ("evaluate.policy", "evaluate.embedder"):
        del fields[own]
    if recipe.evaluate.against is not None:
        fields["evaluate.against.content"] = _contender("evaluate.against", recipe.evaluate.against)
    for reward in recipe.rewards:
        fields |= _reward_source(reward)
    return fields | _content("evaluate.prompts", recipe.evaluate.prompts)


def _evaluate_fields(recipe: Recipe) -> dict[str, Any]:
    fields = _flat("evaluate", recipe.evaluate.results())
    fields |= _content("evaluate.prompts", recipe.evaluate.prompts)
    if recipe.evaluate.policy is not None:
        fields["evaluate.policy.content"] = _contender("evaluate.policy", recipe.evaluate.policy)
    if recipe.evaluate.embedder is not None:
        fields["evaluate.embedder.content"] = _embedder(recipe.evaluate.embedder)
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


def _contender(where: str, given: str) -> str:
    from capo.evaluation.candidates import find_contender

    return find_contender(where, given).identity


def _embedder(place: str) -> str:
    from capo.rewards.places import place_identity

    return place_identity("evaluate.embedder", place)


def _content(where: str, section: PromptsSection) -> dict[str, Any]:
    return {f"{where}.content": source_identity(section, where)}


def _flat(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Nested sections as dotted keys."""
    fields: dict[str, Any] = {}
    for name, value in values.items():
        key = f"{prefix}.{name}"
        fields |= _flat(key, value) if isinstance(value, dict) else {key: value}
    return fields
