"""Pairs per second in training, against the conventional loop in the same process."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch

from capo.cost.bench.conventional import Conventional, ImagePair
from capo.cost.bench.measure import Case, Work
from capo.cost.bench.subject import Subject, changed, prompts
from capo.cost.plan.work_counter import count_flops
from capo.diffusion import load_family
from capo.diffusion.adapter import add_adapter
from capo.diffusion.policy import Policy
from capo.diffusion.random_weights import RandomWeights
from capo.engine.prefetch import prefetched
from capo.engine.seeds import sample_key
from capo.images.shard_files import read_samples
from capo.pairing.training_pairs import PromptPairs
from capo.prompts import Prompt
from capo.recipe import Recipe
from capo.sampling.image_request import ImageRequest
from capo.sampling.sampler import sample_images
from capo.store import Artifact, Run
from capo.training.batches import Batch, Batches
from capo.training.sample_files import Samples
from capo.training.trainer import Trainer

Changes = dict[str, dict[str, Any]]

CHECKPOINTING = {"gradient_checkpointing": True}
LORA: Changes = {"train": {"adaptation": "lora"}}
FOUR_FORWARDS = "conventional, 4 forwards"
CONVENTIONAL: dict[str, Changes] = {
    "conventional": LORA,
    FOUR_FORWARDS: LORA,
    "conventional, checkpointing": {"train": LORA["train"] | CHECKPOINTING},
}
OURS: dict[str, Changes] = {
    "LoRA": LORA,
    "LoRA, checkpointing": {"train": LORA["train"] | CHECKPOINTING},
    "LoRA, compiled": {**LORA, "model": {"compile": True}},
    "full": {"train": {"adaptation": "full"}},
    "full, checkpointing": {"train": {"adaptation": "full"} | CHECKPOINTING},
}
"""Row name → changes to the recipe."""
ENDLESS = range(1, 1_000_000)


@dataclass(frozen=True)
class Data:
    """Two samples per prompt, as the generate stage writes them."""

    prompts: list[Prompt]
    artifact: Artifact

    def batches(self, recipe: Recipe, family: Any) -> Batches:
        """Batches for capo's trainer: the first sample is chosen, the second rejected."""
        allowed, combined = torch.tensor([[0, 1]]), torch.tensor([0.75, 0.25], dtype=torch.float64)
        pairs = [PromptPairs(prompt.prompt_id, allowed, combined) for prompt in self.prompts]
        return Batches(pairs, Samples(self.artifact), family.process, recipe.train, recipe.seed)

    def image_pairs(self) -> list[ImagePair]:
        """The same pairs for the conventional loop."""
        (table,) = read_samples(self.artifact, columns=["image"])
        files = iter([row["bytes"] for row in table["image"].to_pylist()])
        return [ImagePair(prompt.text, next(files), next(files)) for prompt in self.prompts]


def training_cases(subject: Subject) -> list[Case]:
    """Every way of training; the conventional loop comes first.

    A step is the forward and backward pass of one micro-batch, plus the update. Compiled networks are
    measured only on accelerators.
    """
    pairs = subject.recipe.train.per_device_batch_size or subject.recipe.train.global_batch_size
    plain = changed(
        subject.recipe,
        model={"compile": False},
        generate={
            "samples_per_prompt": 2,
            "num_inference_steps": 2,
            "shard_prompts": pairs,
            "batch_size": pairs,
            "image_format": "jpeg",
        },
        train={"gradient_checkpointing": False, "global_batch_size": pairs, "per_device_batch_size": None},
    )
    data = cache(lambda: training_data(subject, plain, pairs))
    efforts = {
        adaptation: cache(partial(_effort_on, changed(plain, train={"adaptation": adaptation}), data))
        for adaptation in ("lora", "full")
    }
    cases = []
    for name, changes in {**CONVENTIONAL, **OURS}.items():
        recipe = changed(plain, **changes)
        if recipe.model.compile and subject.device.type == "cpu":
            continue
        work = _conventional_step if name in CONVENTIONAL else _step
        case = Case(
            name, work(name, recipe, subject, data), pairs, subject.device, efforts[recipe.train.adaptation]
        )
        cases.append(case)
    return cases


def training_data(subject: Subject, recipe: Recipe, count: int) -> Data:
    """Make samples of `count` prompts, in a run directory inside the subject's folder."""
    with Run.open(subject.folder / "run", recipe) as run:
        data = Data(prompts(count), run.artifact("samples"))
        data.artifact.begin({})
        request = ImageRequest(
            prompts=data.prompts,
            samples=2,
            settings=recipe.generate,
            seed_key=sample_key(recipe.seed),
            description="images to train on",
            keep_latents=True,
        )
        sample_images(subject.family(recipe.model), request, data.artifact)
        data.artifact.commit()
    return data


@contextmanager
def _step(name: str, recipe: Recipe, subject: Subject, data: Callable[[], Data]) -> Iterator[Work]:
    family = subject.family(recipe.model)
    trainer = Trainer(family, Policy(family, recipe.train, recipe.seed), recipe.train)
    numbers = iter(ENDLESS)
    batches = data().batches(recipe, family)

    def prepare(step: int) -> Batch:
        batch = batches.batch(step)
        return batch.pinned() if subject.device.type == "cuda" else batch

    with prefetched(prepare, ENDLESS) as prepared:
        yield lambda: trainer.step(next(numbers), next(prepared)).row()


@contextmanager
def _conventional_step(
    name: str, recipe: Recipe, subject: Subject, data: Callable[[], Data]
) -> Iterator[Work]:
    together = name != FOUR_FORWARDS
    loop = Conventional(subject.family(recipe.model), recipe.train, together)
    pairs = data().image_pairs()
    yield lambda: loop.step(pairs)


def _effort_on(recipe: Recipe, data: Callable[[], Data]) -> tuple[int, int]:
    return effort(recipe, data())


def effort(recipe: Recipe, data: Data) -> tuple[int, int]:
    """FLOPs of the denoiser's passes in one step, and the number of trained parameters.

    Counted on the meta device, without compilation and without recomputation.
    """
    recipe, meta = changed(recipe, model={"compile": False, "attention": None}), torch.device("meta")
    family = load_family(recipe.model, meta, RandomWeights(meta))
    batch = data.batches(recipe, family).batch(1).to(meta)
    latents, times = torch.cat([batch.chosen, batch.rejected]), torch.cat([batch.t, batch.t])
    conditioning = {name: torch.cat([value, value]) for name, value in batch.conditioning.items()}

    def passes() -> None:
        with torch.no_grad():
            family.predict(latents, times, conditioning)
        if recipe.train.adaptation == "lora":
            family.denoiser.requires_grad_(False)
            add_adapter(family.denoiser, recipe.train, recipe.seed)
        torch.autograd.backward(family.predict(latents, times, conditioning).sum())

    flops = count_flops(passes)
    trained = sum(p.numel() for p in family.denoiser.parameters() if p.requires_grad)
    return flops, trained
