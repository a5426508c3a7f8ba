"""The batch of a step is a pure function of (seed, step)."""

from collections import Counter

import pytest
import torch

from capo.engine.seeds import initial_noise, stable_seed
from capo.pairing.training_pairs import PromptPairs
from capo.recipe import TrainSection
from capo.training.batches import Batches

PAIRS = torch.tensor([[0, 2], [0, 3], [1, 2]])
COMBINED = torch.tensor([0.9, 0.6, 0.3, 0.2], dtype=torch.float64)


class FakeSamples:
    """Latents that encode their prompt and sample."""

    def latent(self, prompt_id, sample):
        return torch.full((1, 2, 2), float(int(prompt_id) * 10 + sample))

    def conditioning(self, prompt_id):
        return {"embeds": torch.full((3,), float(prompt_id))}


class FakeProcess:
    def draw_times(self, n, generator, section):
        return torch.randint(1000, (n,), generator=generator)


def batches(prompts=5, seed=0, size=4, **section):
    pairs = [PromptPairs(str(i), PAIRS, COMBINED) for i in range(prompts)]
    settings = TrainSection(beta=1, global_batch_size=size, **section)
    return Batches(pairs, FakeSamples(), FakeProcess(), settings, seed)


def equal(a, b):
    return all(
        torch.equal(value, vars(b)[name]) if isinstance(value, torch.Tensor) else True
        for name, value in vars(a).items()
    ) and (a.prompt_ids == b.prompt_ids)


def test_a_step_does_not_depend_on_the_steps_before_it():
    fresh, used = batches(), batches()
    for step in (1, 2, 3, 9, 4):
        used.batch(step)
    assert equal(fresh.batch(3), used.batch(3))


def test_seed_and_step_determine_the_batch():
    assert not equal(batches(seed=0).batch(1), batches(seed=1).batch(1))
    assert not equal(batches().batch(1), batches().batch(2))


def test_the_seed_determines_order_pairs_and_noise():
    one, other = (batches(prompts=20, size=20, seed=seed) for seed in (0, 1))
    draws = one.draw(1), other.draw(1)
    assert draws[0] == batches(prompts=20, size=20, seed=0).draw(1)
    orders = [[d.prompt_id for d in drawn] for drawn in draws]
    assert orders[0] != orders[1]
    pairs = [{d.prompt_id: (d.chosen, d.rejected) for d in drawn} for drawn in draws]
    assert pairs[0] != pairs[1]
    assert not torch.equal(one.batch(1).noise_chosen, other.batch(1).noise_chosen)
    assert not torch.equal(one.batch(1).noise_chosen, one.batch(2).noise_chosen)
    assert not torch.equal(one.batch(1).t, other.batch(1).t)


def test_every_epoch_visits_every_prompt_once_in_its_own_order():
    made = batches()
    ids = [d.prompt_id for step in range(1, 11) for d in made.draw(step)]
    epochs = [ids[i : i + 5] for i in range(0, 40, 5)]
    assert all(sorted(epoch) == list("01234") for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 5


def test_pairs_are_redrawn_uniformly_every_epoch():
    made = batches(prompts=1, size=1)
    drawn = Counter((d.chosen, d.rejected) for step in range(1, 3001) for d in made.draw(step))
    assert set(drawn) == {tuple(pair) for pair in PAIRS.tolist()}
    assert all(abs(count - 1000) < 100 for count in drawn.values())  # standard deviation 26


def test_a_pair_of_an_epoch_does_not_depend_on_the_batch_size():
    """The place in the epoch determines the prompt and its pair; only the noise depends on the step."""
    small, large = batches(size=2), batches(size=10)
    assert [d for step in range(1, 6) for d in small.draw(step)] == large.draw(1)


def test_the_tensors_of_a_row_belong_to_one_prompt():
    batch = batches().batch(2)
    for row, prompt_id in enumerate(batch.prompt_ids):
        chosen, rejected = (int(batch.chosen[row].mean()), int(batch.rejected[row].mean()))
        assert chosen // 10 == rejected // 10 == int(prompt_id) == batch.conditioning["embeds"][row, 0]
        expected = COMBINED[chosen % 10] - COMBINED[rejected % 10]
        assert batch.delta_reward[row] == pytest.approx(float(expected))
    assert batch.t.shape == (4,)


def test_noise_is_independent_or_shared():
    independent, shared = batches().batch(1), batches(noise="shared").batch(1)
    assert not torch.equal(independent.noise_chosen, independent.noise_rejected)
    assert torch.equal(shared.noise_chosen, shared.noise_rejected)
    assert torch.equal(shared.noise_chosen, independent.noise_chosen)
    assert len(independent.noise_chosen.flatten(1).unique(dim=0)) == 4


def test_prior_noise_is_the_noise_that_the_sample_was_made_from():
    batch = batches(noise="prior", seed=7).batch(1)
    for row, prompt_id in enumerate(batch.prompt_ids):
        for latents, noise in ((batch.chosen, batch.noise_chosen), (batch.rejected, batch.noise_rejected)):
            sample = int(latents[row].mean()) % 10
            made_from = initial_noise(stable_seed("sample", 7, prompt_id, sample), (1, 2, 2))
            assert torch.equal(noise[row], made_from)
    assert torch.equal(batch.t, batches(seed=7).batch(1).t)


def test_a_split_batch_has_the_same_rows():
    batch = batches().batch(1)
    parts = list(batch.split(3))
    assert [len(part.prompt_ids) for part in parts] == [3, 1]
    assert [i for part in parts for i in part.prompt_ids] == batch.prompt_ids
    assert torch.equal(torch.cat([part.noise_rejected for part in parts]), batch.noise_rejected)
    embeds = torch.cat([part.conditioning["embeds"] for part in parts])
    assert torch.equal(embeds, batch.conditioning["embeds"])
