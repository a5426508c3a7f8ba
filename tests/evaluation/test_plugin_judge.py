"""An evaluation with a judge, prompts and a checkpoint from an installed package."""

import textwrap

import pytest

import tiny_run
from capo.diffusion import checkpoint_identity
from capo.evaluation.baseline import make_baseline, steps
from capo.recipe.plugins import JUDGES, PROMPT_SOURCES, PluginError, load_plugin
from capo.rewards.rgb_images import decode_image
from capo.store import Run
from capo.store.step import Job

PACKAGE = """
    import os

    class OddPixels:
        image_size = None

        def can_judge(self, prompt):
            return "remainder" in prompt.metadata

        def verdicts(self, images, prompts):
            corners = [image.getpixel((0, 0))[0] for image in images]
            return [c % 2 == p.metadata["remainder"] for c, p in zip(corners, prompts, strict=True)]

    def animals(name, count, seed):
        if name != "farm":
            raise ValueError(f"no animals on the {name}")
        return [(f"a {animal}", "farm", {"remainder": seed % 2}) for animal in ("cow", "hen", "pig")[:count]]

    def checkpoint():
        return os.environ["TINY_CHECKPOINT"]
"""

ENTRY_POINTS = """
    [capo.judges]
    odd = my_plugin:OddPixels
    broken = my_plugin:NoSuchJudge
    [capo.prompts]
    animals = my_plugin:animals
    [capo.checkpoints]
    tiny = my_plugin:checkpoint
"""


@pytest.fixture
def package(tmp_path, monkeypatch, sdxl):
    """The package `my-plugin 1.5`, installed as pip would install it."""
    site = tmp_path / "site"
    metadata = site / "my_plugin-1.5.dist-info"
    metadata.mkdir(parents=True)
    (site / "my_plugin.py").write_text(textwrap.dedent(PACKAGE))
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: my-plugin\nVersion: 1.5\n")
    (metadata / "entry_points.txt").write_text(textwrap.dedent(ENTRY_POINTS))
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv("TINY_CHECKPOINT", str(sdxl))


def recipe(**evaluate):
    return tiny_run.recipe(
        [{"name": "red", "source": "function_rewards:redness"}],
        model={"checkpoint": "tiny"},
        generate={"num_inference_steps": 2},
        train={"lora_rank": 2},
        seed=3,
        evaluate={
            "prompts": {"source": "animals:farm", "count": 2},
            "samples_per_prompt": 2,
            "judge": "odd",
            "null_row": False,
        }
        | evaluate,
    )


def test_an_evaluation_uses_what_a_package_supplies(tmp_path, package, sdxl):
    assert checkpoint_identity("tiny", None) == checkpoint_identity(str(sdxl), None)
    with Run.open(tmp_path / "run") as run:
        artifact = run.artifact("baseline")
        artifact.begin({})
        make_baseline(Job(recipe(), run, (artifact,)))
        prompts = artifact.read_table("prompts.parquet").to_pylist()
        verdicts = artifact.read_table("judgements.parquet").to_pylist()
        images = artifact.read_table("images/base/shard-00000.parquet").to_pylist()
    assert [(row["text"], row["category"]) for row in prompts] == [("a cow", "farm"), ("a hen", "farm")]
    corners = [decode_image(row["image"]["bytes"]).getpixel((0, 0))[0] for row in images]
    assert [row["correct"] for row in verdicts] == [corner % 2 == 1 for corner in corners]


def test_the_version_of_the_package_is_an_input(package):
    (step,) = steps(recipe())
    assert step.inputs["evaluate.judge.package"] == "my-plugin==1.5"
    assert step.inputs["evaluate.prompts.content"] == "my-plugin==1.5"
    own = recipe(judge="shapes", prompts={"source": "shapes:test", "count": 2})
    assert "evaluate.judge.package" not in steps(own)[0].inputs
    assert steps(own)[0].inputs["evaluate.prompts.content"] is None


@pytest.mark.parametrize(
    ("group", "name", "message"),
    [
        (JUDGES, "ood", r"field: no 'ood' .*broken, odd, shapes.*did you mean 'odd'"),
        (JUDGES, "broken", r"field: cannot import 'broken' \(my_plugin:NoSuchJudge\)"),
        (PROMPT_SOURCES, "plants", r"field: no 'plants' .*animals, shapes"),
    ],
)
def test_names_that_cannot_be_used_are_reported_with_the_known_ones(package, group, name, message):
    with pytest.raises(PluginError, match=message):
        load_plugin(group, name, "field")


def test_a_name_must_come_from_one_package(package, tmp_path, monkeypatch):
    metadata = tmp_path / "other" / "rival-2.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: rival\nVersion: 2.0\n")
    (metadata / "entry_points.txt").write_text("[capo.judges]\nodd = rival:Judge\n")
    monkeypatch.syspath_prepend(tmp_path / "other")
    with pytest.raises(PluginError, match=r"rival.*my-plugin|my-plugin.*rival"):
        load_plugin(JUDGES, "odd", "field")
