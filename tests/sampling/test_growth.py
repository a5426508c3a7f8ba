"""More of the same keeps what is there: the result equals, byte for byte, making everything at once."""

import itertools

import pytest
import torch

import tiny_training
from capo import pipeline
from capo.diffusion import load_family
from capo.diffusion.family import Family
from capo.diffusion.policy import Policy
from capo.images.shard_files import read_samples
from capo.recipe import parse_recipe
from capo.store import Run

FEW = {
    "prompts": {"count": 4},
    "generate": {"batch_size": 2, "samples_per_prompt": 2, "shard_prompts": 2, "num_inference_steps": 1},
}


def samples(number):
    return {"generate": FEW["generate"] | {"samples_per_prompt": number}}


@pytest.fixture
def sampled(monkeypatch):
    """The number of images of every batch that a model makes.

    A prompt depends on how many are encoded with it, and an image on those in its batch: as in rounding, but
    by more.
    """
    made, encode, sample = [], Family.encode, Family.sample

    def encoding(self, prompts):
        return {name: tensor + len(prompts) for name, tensor in encode(self, prompts).items()}

    def sampling(self, conditioning, unconditional, noise, settings):
        made.append(len(noise))
        return sample(self, conditioning, unconditional, noise, settings) + noise.mean()

    monkeypatch.setattr(Family, "encode", encoding)
    monkeypatch.setattr(Family, "sample", sampling)
    return made


def recipe(folder, sdxl, **sections):
    values = tiny_training.recipe(folder, sdxl).model_dump(mode="json")
    for name, section in (*FEW.items(), *sections.items()):
        values[name] = values[name] | section if isinstance(section, dict) else section
    return parse_recipe(values)


def generate(settings, directory):
    for stage in ("prompts", "generate"):
        pipeline.run(settings, directory, stage=stage, force=True)
    return tiny_training.contents(directory / "samples")


@pytest.mark.parametrize(
    ("first", "grown", "batches"),
    [
        ({}, {"prompts": {"count": 6}}, 2),
        ({"prompts": {"count": 3}}, {}, 2),  # the third prompt is encoded beside another one
        ({}, samples(4), 4),
        ({}, samples(3), 4),  # batches of other images
        (samples(3), samples(4), 6),  # some batches are of images that were made in two
    ],
)
def test_samples_that_exist_are_kept(first, grown, batches, tmp_path, sdxl, sampled):
    generate(recipe(tmp_path, sdxl, **first), tmp_path / "run")
    sampled.clear()
    made = generate(recipe(tmp_path, sdxl, **grown), tmp_path / "run")
    assert len(sampled) == batches
    assert made == generate(recipe(tmp_path, sdxl, **grown), tmp_path / "once")


def test_growth_that_is_killed_resumes(tmp_path, sdxl, sampled, monkeypatch):
    generate(recipe(tmp_path, sdxl), tmp_path / "run")
    more = recipe(
        tmp_path, sdxl, prompts={"count": 6}, generate={"samples_per_prompt": 4, "shard_prompts": 2}
    )
    sampled.clear()
    with monkeypatch.context() as patch:
        own, calls = Family.sample, itertools.count()

        def dies(*arguments):
            if next(calls) == 3:
                raise KeyboardInterrupt
            return own(*arguments)

        patch.setattr(Family, "sample", dies)
        with pytest.raises(KeyboardInterrupt):
            generate(more, tmp_path / "run")
        assert not Run(tmp_path / "run").artifact("samples").done
    made = generate(more, tmp_path / "run")
    assert 8 <= len(sampled) <= 11  # 8 new batches, and those of the shard that was lost
    assert made == generate(more, tmp_path / "once")


@pytest.mark.parametrize("other", [{"seed": 1}, {"generate": {"num_inference_steps": 2}}])
def test_other_settings_keep_nothing(other, tmp_path, sdxl, sampled):
    made = []
    for settings in ({}, {"prompts": {"count": 6}, **other}):
        generate(recipe(tmp_path, sdxl, **settings), tmp_path / "run")
        tables = read_samples(Run(tmp_path / "run").artifact("samples"))
        rows = [row for table in tables for row in table.to_pylist()]
        made.append({(row["prompt_id"], row["sample"]): row["image"] for row in rows})
    assert len(sampled) == 4 + 6
    before, after = made
    assert before.keys() < after.keys()
    assert not [key for key, image in before.items() if image == after[key]]


def test_images_of_an_evaluation_are_kept(tmp_path, sdxl, sampled):
    def evaluation(**section):
        section = {"samples_per_prompt": 2, "policy": str(tmp_path / "policy"), "null_row": False} | section
        return recipe(tmp_path, sdxl, evaluate=section)

    def evaluated(settings, directory):
        pipeline.run(settings, directory, stage="evaluate", force=True)
        halves = [tiny_training.contents(directory / half) for half in ("baseline", "evaluate")]
        return [{n: data for n, data in half.items() if not n.startswith("former")} for half in halves]

    family = load_family(evaluation().model, torch.device("cpu"))
    (tmp_path / "policy").mkdir()
    Policy(family, evaluation().train, 0).save(tmp_path / "policy", {"base": _base(evaluation())})
    evaluated(evaluation(), tmp_path / "run")
    sampled.clear()
    more = evaluation(samples_per_prompt=4)
    made = evaluated(more, tmp_path / "run")
    assert len(sampled) == 4  # 2 more images of 2 prompts by 2 models
    assert not (tmp_path / "run/baseline/former").exists()
    assert made == evaluated(more, tmp_path / "once")


def _base(settings):
    from capo.diffusion import model_identity

    return model_identity(settings.model)
