"""Stage `generate`: samples of every prompt, and what training needs of them.

The base model makes them, or in a further round the policy of the previous round: N of every prompt, or as
many as its pairs need. Existing images can take their place.
"""

from typing import TYPE_CHECKING, Any

from capo.recipe import GenerateSection, Recipe
from capo.store.step import Job, Step, flatten

if TYPE_CHECKING:
    from capo.diffusion.family import Family
    from capo.sampling.sampler import Waves


def steps(recipe: Recipe) -> list[Step]:
    """The artifact `samples`."""
    from capo.diffusion import model_inputs
    from capo.images import images_inputs
    from capo.scoring.previous_round import start_inputs

    inputs = model_inputs(recipe.model) | flatten("generate", recipe.generate.results())
    inputs |= images_inputs(recipe.images) | {"seed": recipe.seed}
    inputs |= start_inputs(recipe.start, recipe.model, recipe.train)
    return [Step("samples", "generate", inputs | _adaptive_inputs(recipe), ("prompts",), make_samples)]


def sampling_inputs(section: GenerateSection) -> dict[str, Any]:
    """The part of a fingerprint that says how images are sampled, apart from their number."""
    numbers = ("generate.samples_per_prompt", "generate.adaptive")
    inputs = flatten("generate", section.results())
    return {name: value for name, value in inputs.items() if not name.startswith(numbers)}


def _adaptive_inputs(recipe: Recipe) -> dict[str, Any]:
    """The part of a fingerprint that decides when a prompt has enough samples: rewards and selection."""
    if recipe.generate.adaptive is None:
        return {}
    from capo.pairing.pair import pair_inputs
    from capo.rewards import reward_inputs

    irrelevant = ("pairs.min_margin", "pairs.max_skipped")
    inputs = {name: value for name, value in pair_inputs(recipe).items() if name not in irrelevant}
    for reward in recipe.training_rewards:
        inputs |= reward_inputs(reward)
    return inputs


def make_samples(job: Job) -> None:
    """Fill `samples/` for all prompts of the run."""
    if job.recipe.images is not None:
        from capo.images.sample_import import import_samples

        import_samples(job)
    elif job.recipe.generate.adaptive is not None:
        from capo.sampling.adaptive import adaptive_samples

        adaptive_samples(job)
    else:
        job.artifact.commit(sample_prompts(job))


def sample_prompts(job: Job, waves: "Waves | None" = None) -> dict[str, Any]:
    """Fill `samples/` without committing it; returns its summary, counting all N samples of every prompt."""
    from capo.diffusion import load_family
    from capo.diffusion.policy import load_policy
    from capo.engine.device import select_device
    from capo.prompts.table import read_prompts
    from capo.sampling.image_request import ImageRequest
    from capo.sampling.sampler import sample_images
    from capo.scoring.previous_round import find_previous_round

    recipe, seed = job.recipe, job.recipe.seed
    prompts = read_prompts(job.run)
    family = load_family(recipe.model, select_device(recipe.engine))
    _check_later_shards(recipe, family)
    if recipe.start is not None:
        start = find_previous_round(recipe.start, recipe.model, recipe.train)
        load_policy(family, start.policy.folder)
        seed = start.seed(seed)
    samples = recipe.generate.samples_per_prompt
    request = ImageRequest(
        prompts=prompts,
        samples=samples,
        settings=recipe.generate,
        seed_key=("sample", seed),
        description="generate",
        keep_latents=True,
    )
    sample_images(family, request, job.artifact, waves=waves)
    return {
        "prompts": len(prompts),
        "samples": len(prompts) * samples,
        "truncated_prompts": sum(family.truncates([p.text for p in prompts])),
    }


def _check_later_shards(recipe: Recipe, family: "Family") -> None:
    """Raise now if validation or evaluation would reject a shard: its fix makes the samples stale."""
    from capo.images.disk_space import check_shard
    from capo.sampling.disk_forecast import image_bytes

    later = [(recipe.evaluate.prompts, recipe.evaluate.samples_per_prompt)]
    if recipe.train.validation_prompts is not None:
        later.append((recipe.train.validation_prompts, recipe.train.validation_samples))
    most = recipe.generate.shard_prompts
    for section, samples in later:
        check_shard(min(section.count or most, most), image_bytes(family, samples, recipe.generate))
