"""Stage `generate`: samples of every prompt, and what training needs of them.

The base model makes them, or in a further round the policy of the previous round: N of every prompt, or as
many as its pairs need. Existing images can take their place.
"""

from collections.abc import Callable, Collection
from functools import partial
from typing import TYPE_CHECKING, Any

from capo.recipe import GenerateSection, Recipe
from capo.store.check import Check
from capo.store.step import Job, Step, flatten

if TYPE_CHECKING:
    from capo.diffusion.family import Family
    from capo.engine.shard_work import Workplace
    from capo.sampling.sampler import Waves
    from capo.store import Run


def steps(recipe: Recipe) -> list[Step]:
    """The artifact `samples`."""
    from capo.diffusion import model_inputs
    from capo.images import images_inputs
    from capo.scoring.previous_round import start_inputs

    inputs = model_inputs(recipe.model) | flatten("generate", recipe.generate.results())
    inputs |= images_inputs(recipe.images) | {"seed": recipe.seed}
    inputs |= start_inputs(recipe.start, recipe.model, recipe.train)
    inputs |= _adaptive_inputs(recipe)
    kept_as = None if recipe.images is not None or recipe.generate.adaptive is not None else _kept_as
    return [Step("samples", "generate", inputs, ("prompts",), make_samples, sharded=True, kept_as=kept_as)]


def _kept_as(file: str, changed: Collection[str]) -> str | None:
    """Keep the images if there are other prompts or another number of images of each."""
    from capo.sampling.former_images import kept_former

    return kept_former(file, changed, ("@prompts", "generate.samples_per_prompt"))


def checks(recipe: Recipe, run: "Run") -> list[Check]:
    """Checks that the model can be loaded and makes images of the wanted size, and that shards fit."""
    from capo.diffusion.model_checks import model_check
    from capo.rewards.reward_checks import comparison_check, reward_check
    from capo.sampling.shard_check import disk_check, shard_check
    from capo.store.engine_checks import engine_checks

    count, samples = recipe.prompts.count, recipe.generate.samples_per_prompt
    found = [model_check(recipe.model, recipe.generate, recipe.train, "generate")]
    found += [*engine_checks(recipe.engine, "generate"), disk_check(recipe, run)]
    if recipe.images is None:
        found += [shard_check(recipe, "generate.samples_per_prompt", count, samples, "generate")]
    if recipe.generate.adaptive is not None:
        for reward in recipe.training_rewards:
            found += [reward_check(reward, "generate"), comparison_check(reward, "generate")]
    return found


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


def sample_prompts(job: Job, make_waves: "Callable[[Workplace], Waves] | None" = None) -> dict[str, Any]:
    """Fill `samples/` without committing it; returns its summary, counting all N samples of every prompt."""
    from capo.diffusion import load_weightless
    from capo.engine.seeds import sample_key
    from capo.prompts.table import read_prompts
    from capo.sampling.former_images import FORMER
    from capo.sampling.image_request import ImageRequest
    from capo.sampling.sampler import Sampling, run_sampling
    from capo.scoring.previous_round import find_previous_round

    recipe, seed = job.recipe, job.recipe.seed
    prompts = read_prompts(job.run)
    truncated = sum(load_weightless(recipe.model).truncates([p.text for p in prompts]))
    if recipe.start is not None:
        seed = find_previous_round(recipe.start, recipe.model, recipe.train).seed(seed)
    samples = recipe.generate.samples_per_prompt
    request = ImageRequest(
        prompts=prompts,
        samples=samples,
        settings=recipe.generate,
        seed_key=sample_key(seed),
        description="generate",
        keep_latents=True,
    )
    load = partial(load_sampled_model, recipe)
    work = Sampling("generate", job.run.access(), job.artifact.name, [request], load, make_waves)
    run_sampling(job.executor, work, job.artifact)
    job.artifact.remove(FORMER)
    return {"prompts": len(prompts), "samples": len(prompts) * samples, "truncated_prompts": truncated}


def load_sampled_model(recipe: Recipe, place: "Workplace") -> "Family":
    """Load the base model, or in a further round the policy of the previous round."""
    from capo.diffusion import load_family
    from capo.diffusion.policy import load_policy
    from capo.engine.device import select_device
    from capo.scoring.previous_round import find_previous_round

    family = load_family(recipe.model, select_device(recipe.engine))
    if recipe.start is not None:
        start = find_previous_round(recipe.start, recipe.model, recipe.train)
        load_policy(family, start.policy.folder)
    return family
