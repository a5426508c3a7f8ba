"""Every catalog entry is complete, and installed packages can add entries."""

import inspect
import sys

import pytest

import tiny_rewards
from capo import BradleyTerry
from capo.recipe import RewardSection
from capo.recipe.hub_id import HUB_ID
from capo.recipe.plugins import PluginError
from capo.rewards import build_comparison, entry_names, find_entry, load_reward
from capo.rewards.catalog import CATALOG, WEIGHT_OPTIONS
from capo.rewards.describe import list_rewards
from capo.rewards.shipped_source import _import, architecture_options, load_architecture
from capo.rewards.weights.location import PACKAGE, WEB


@pytest.mark.parametrize("name", entry_names())
def test_an_entry_names_a_class_that_can_be_built_and_compared(name):
    entry = find_entry(name)
    architecture = load_architecture(entry)
    parameters = inspect.signature(architecture).parameters
    expected = ["name", "checkpoint", "device", "processor", *(["timeout"] if entry.own_process else [])]
    assert [p for p in parameters if parameters[p].kind is not inspect.Parameter.KEYWORD_ONLY] == expected
    assert callable(architecture.score)
    assert callable(build_comparison(RewardSection(name=name)))
    assert set(entry.options) <= set(architecture_options(entry))
    if entry.extra_identity:
        assert isinstance(_import(entry.extra_identity)(**entry.options), list)


@pytest.mark.parametrize("name", entry_names())
def test_an_architecture_is_documented(name):
    """`capo rewards show` prints the docstring of its module: source, score and confusions."""
    document = sys.modules[load_architecture(find_entry(name)).__module__].__doc__
    assert "score" in document.lower()
    assert "Not to be confused with" in document


@pytest.mark.parametrize("name", CATALOG)
def test_locations_have_a_known_form(name):
    entry = CATALOG[name]
    options = [entry.options[option] for option in WEIGHT_OPTIONS if option in entry.options]
    for location in filter(None, [entry.checkpoint, entry.processor, *options]):
        assert location.startswith((PACKAGE, WEB)) or HUB_ID.fullmatch(location)
    assert entry.parameters_millions > 0
    assert entry.license


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """An installed package that adds two catalog entries, one of which cannot be imported."""
    checkpoint = tiny_rewards.clip(tmp_path / "weights")
    (tmp_path / "plugin_rewards.py").write_text(
        "from capo.rewards.catalog import CLIP_PREFERENCE, CatalogEntry\n"
        f"TASTE = CatalogEntry(CLIP_PREFERENCE, {str(checkpoint)!r}, 'taste', 'log-odds', 'MIT', 1.0)\n"
    )
    info = tmp_path / "plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[capo.reward_catalog]\ntaste = plugin_rewards:TASTE\nlost = no_such_module:ENTRY\n"
    )
    monkeypatch.syspath_prepend(tmp_path)


def test_an_installed_package_adds_an_entry(plugin, images, prompts):
    section = RewardSection(name="taste")
    assert build_comparison(section) == BradleyTerry(1.0)
    assert len(set(load_reward(section, "cpu").score(images, prompts))) == 6


def test_an_entry_that_cannot_be_imported_is_named(plugin):
    with pytest.raises(PluginError, match="lost"):
        load_reward(RewardSection(name="lost"), "cpu")
    problems = {facts["name"]: facts.get("problem") for facts in list_rewards()}
    assert {name for name, problem in problems.items() if problem} == {"lost"}
