from dataclasses import dataclass

import pytest
import torch

import tiny_training
from capo.diffusion import load_family
from capo.diffusion.policy import Policy
from capo.pairing.training_pairs import read_pairs
from capo.recipe import TrainSection
from capo.store import Run
from capo.training.batches import Batches
from capo.training.sample_files import Samples
from capo.training.trainer import Trainer


@dataclass
class Setup:
    """A trainer on the prepared run, and its parts."""

    section: TrainSection
    policy: Policy
    trainer: Trainer
    batches: Batches

    def steps(self, *numbers):
        return [self.trainer.step(number, self.batches.batch(number)).row() for number in numbers]

    def first_measures(self):
        return self.trainer.measure(self.batches.batch(1))

    def everything(self):
        """Copies of all weights and moments."""
        held = self.policy.state() | self.trainer.optimizer.moments()
        return {name: tensor.clone() for name, tensor in held.items()}


@pytest.fixture
def artifact(tmp_path):
    """The artifact `train` of an empty run, begun."""
    with Run.open(tmp_path / "run") as run:
        artifact = run.artifact("train")
        artifact.begin({})
        yield artifact


@pytest.fixture
def setup(prepared, sdxl, tmp_path):
    """Builds a `Setup` from fields of the train section."""

    def build(**train):
        recipe = tiny_training.recipe(tmp_path, sdxl, train)
        family = load_family(recipe.model, torch.device("cpu"))
        run = Run(prepared)
        policy = Policy(family, recipe.train, recipe.seed)
        prompts, _ = read_pairs(run.artifact("pairs"), 0.0)
        samples = Samples(run.artifact("samples"))
        batches = Batches(prompts, samples, family.process, recipe.train, recipe.seed)
        return Setup(recipe.train, policy, Trainer(family, policy, recipe.train), batches)

    return build
