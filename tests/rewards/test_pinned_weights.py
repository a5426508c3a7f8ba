"""Weights without a commit in the recipe: the first use pins one, and another commit is a change."""

import re

import numpy as np
import pytest
from huggingface_hub import snapshot_download
from PIL import Image

import fake_stages
import loopback_hub
import tiny_rewards
from capo import pipeline, rewards
from capo.pretrained.hub_access import Repository
from capo.recipe import RewardSection, parse_recipe
from capo.recipe.hub_id import HUB_ID
from capo.rewards import RewardError, load_reward, pin_weights, resolve, reward_identity
from capo.rewards.catalog import CATALOG
from capo.rewards.describe import describe_commit
from capo.rewards.weights import download
from capo.rewards.weights.download import download_instructions
from capo.rewards.weights.location import has_any_file, is_downloaded, with_commit
from capo.store import Run
from capo.store.manifest import differences, explain_change

FIRST, SECOND = "a" * 40, "b" * 40
SECTION = RewardSection(name="mine", source="pickscore", checkpoint="owner/name")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty Hub cache."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Returns a function that moves the Hub to a commit and returns the checkpoint of that commit."""
    folders = {sha: tiny_rewards.clip(tmp_path / sha, seed) for seed, sha in enumerate((FIRST, SECOND))}
    with loopback_hub.serving(folders[FIRST], revisions=("main", *folders), kind="models") as server:
        loopback_hub.aim(monkeypatch, server.url)

        def at(sha):
            loopback_hub.commit(server, folders[sha], sha)
            return folders[sha]

        yield at


def score(checkpoint):
    section = RewardSection(name="mine", source="pickscore", checkpoint=checkpoint)
    return load_reward(section, "cpu").score([Image.new("RGB", (20, 20), "teal")], ["a red circle"])


def test_the_first_use_pins_a_commit_and_another_commit_is_a_change(hub):
    assert reward_identity(SECTION) == "ClipPreference owner/name@main"  # no commit is known yet
    folder = hub(FIRST)
    assert pin_weights(SECTION)
    assert not pin_weights(SECTION)  # recorded already
    first = reward_identity(SECTION)
    assert first == f"ClipPreference owner/name@{FIRST}"
    assert has_any_file("owner/name")
    assert not is_downloaded("owner/name")
    np.testing.assert_array_equal(score("owner/name"), score(str(folder)))
    assert is_downloaded("owner/name")

    other = hub(SECOND)  # main has moved on
    assert not pin_weights(SECTION)
    assert reward_identity(SECTION) == first
    np.testing.assert_array_equal(score("owner/name"), score(str(folder)))

    snapshot_download("owner/name")  # like `hf download`
    field = "rewards.mine.weights"
    (values,) = differences({field: first}, {field: reward_identity(SECTION)}).values()
    message = explain_change(field, *values)
    assert re.fullmatch(rf"{field}: owner/name@{FIRST} → owner/name@{SECOND}", message)
    np.testing.assert_array_equal(score("owner/name"), score(str(other)))
    assert f"`checkpoint: owner/name@{SECOND}` in a recipe pins it" in describe_commit("owner/name")
    np.testing.assert_array_equal(score(f"owner/name@{FIRST}"), score(str(folder)))


def test_a_run_records_the_commit_before_it_scores(hub, tmp_path, monkeypatch):
    fake_stages.install(monkeypatch.setattr)
    monkeypatch.setattr(resolve, "reward_identity", reward_identity)
    monkeypatch.setattr(rewards, "pin_weights", pin_weights)
    hub(FIRST)
    section = {"name": "first", "source": "pickscore", "checkpoint": "owner/name"}
    recipe, folder = parse_recipe(fake_stages.VALUES | {"rewards": [section]}), tmp_path / "run"
    pipeline.run(recipe, folder)
    inputs = Run(folder).artifact("scores/first").manifest().inputs
    assert inputs["rewards.first.weights"] == f"ClipPreference owner/name@{FIRST}"
    hub(SECOND)
    assert {state.state for state in pipeline.status(recipe, folder)} == {"done"}
    snapshot_download("owner/name")
    states = {state.name: state for state in pipeline.status(recipe, folder)}
    assert states["scores/first"].state == "stale"
    assert states["scores/first"].why == f"rewards.first.weights: owner/name@{FIRST} → owner/name@{SECOND}"


def test_the_commit_of_a_vision_tower_is_pinned_too(hub):
    options = {"vision_tower": "owner/name"}
    section = RewardSection(name="mine", source="vqascore-clip-flant5-xl", options=options)
    assert reward_identity(section).split()[-1] == "owner/name@main"
    hub(FIRST)
    assert pin_weights(section)
    assert reward_identity(section).split()[-1] == f"owner/name@{FIRST}"
    hub(SECOND)
    assert not pin_weights(section)
    assert reward_identity(section).split()[-1] == f"owner/name@{FIRST}"


def test_a_branch_never_fetched_equals_any_commit():
    identity = "ClipPreference owner/name@{} owner/other@main"
    made = {"weights": identity.format("main")}
    assert not differences(made, {"weights": identity.format(FIRST)})
    assert not differences({"weights": identity.format(FIRST)}, made)
    assert differences({"weights": identity.format(SECOND)}, {"weights": identity.format(FIRST)})
    assert differences(made, {"weights": identity.format("v2")})
    assert differences(made, {"weights": "ClipPreference owner/name@main"})
    assert differences({"model.checkpoint": "owner/name"}, {"model.checkpoint": f"owner/name@{FIRST}"})


def test_pinned_and_local_weights_need_no_network(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.snapshot_download", None)
    for checkpoint in (f"owner/name@{FIRST}", str(tiny_rewards.clip(tmp_path / "clip"))):
        assert not pin_weights(RewardSection(name="mine", source="pickscore", checkpoint=checkpoint))
    assert not pin_weights(RewardSection(name="shapes-vqa"))
    assert not pin_weights(RewardSection(name="pickscore", url="http://127.0.0.1:1"))


def test_another_commit_of_shipped_weights_keeps_their_processor():
    name, _, _ = CATALOG["pickscore"].checkpoint.partition("@")
    identity = reward_identity(RewardSection(name="pickscore", checkpoint=f"{name}@{FIRST}"))
    assert identity.split()[1:] == [f"{name}@{FIRST}", CATALOG["pickscore"].processor]
    assert with_commit(f"{name}@{FIRST}") == f"{name}@{FIRST}"


def test_missing_weights_come_with_size_license_and_command(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        RewardError, match=r"PickScore_v1 \(2.0 to 3.9 GB; MIT\).*`hf download yuvalkirstain/Pick"
    ):
        load_reward(RewardSection(name="pickscore"), "cpu")
    with pytest.raises(RewardError, match=r"`hf download xswu/HPSv2 .* HPS_v2_compressed.pt .*`checkpoint`"):
        load_reward(RewardSection(name="hpsv2"), "cpu")
    for name, entry in CATALOG.items():
        if HUB_ID.fullmatch(entry.checkpoint) and not entry.own_process:
            instructions = download_instructions(entry)
            assert entry.license in instructions, name
            assert all(
                f"hf download {p.partition('@')[0]}" in instructions
                for p in (entry.checkpoint, entry.processor, entry.options.get("vision_tower"))
                if p
            )


@pytest.mark.parametrize(
    ("lacking", "named"),
    [
        ((), None),
        (("zhiqiulin/clip-flant5-xxl",), "zhiqiulin/clip-flant5-xxl"),
        (("openai/clip-vit-large-patch14-336",), "openai/clip-vit-large-patch14-336"),
        (("google/flan-t5-xxl",), None),  # only its tokenizer is needed
    ],
)
def test_a_repository_of_pickles_is_reported_before_anything_runs(lacking, named, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))

    def find(name, revision):
        return Repository(0, None, has_safetensors=name not in lacking)

    monkeypatch.setattr(download, "find_repository", find)
    entry = CATALOG["vqascore-clip-flant5-xxl"]
    problem = download.fetch_problem(entry, entry.options)
    assert (problem is None) == (named is None)
    assert named is None or problem.startswith(f"{named} has no safetensors")
