import copy
from pathlib import Path

import pytest
import yaml

import fake_stages
from capo.recipe import (
    RUNTIME,
    Recipe,
    RecipeError,
    dump_recipe,
    load_recipe,
    parse_recipe,
    shipped_recipes,
)


def changed(values, key, value):
    """A deep copy with the field at the dotted `key` replaced."""
    values = copy.deepcopy(values)
    *parents, last = key.split(".")
    place = values
    for part in parents:
        place = place[int(part)] if isinstance(place, list) else place.setdefault(part, {})
    place[last] = value
    return values


@pytest.fixture
def recipe_values():
    return copy.deepcopy(fake_stages.VALUES)


@pytest.fixture
def recipe_file(tmp_path, recipe_values):
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(recipe_values))
    return path


def test_a_minimal_recipe_gets_every_default(recipe_values):
    recipe = parse_recipe(recipe_values)
    assert recipe.seed == 0
    assert recipe.generate.samples_per_prompt == 16
    assert recipe.train.objective == "capo"
    assert [r.name for r in recipe.training_rewards] == ["first", "second"]


def test_saving_and_loading_gives_the_same_recipe(tmp_path, recipe_values):
    recipe = parse_recipe(recipe_values)
    (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe))
    assert load_recipe(tmp_path / "recipe.yaml") == recipe
    assert "guidance_scale: 7.5" in dump_recipe(recipe)


def test_a_mapping_is_a_recipe_too_and_is_not_changed(recipe_values):
    before = copy.deepcopy(recipe_values)
    assert load_recipe(recipe_values, ["seed=7"]) == parse_recipe(before | {"seed": 7})
    assert recipe_values == before
    with pytest.raises(RecipeError, match="beta: missing"):
        load_recipe(recipe_values | {"train": {}})


@pytest.mark.parametrize("path", shipped_recipes().values(), ids=lambda path: path.stem)
def test_every_shipped_recipe_is_valid_and_named_after_its_file(path):
    assert load_recipe(path).name == path.stem
    assert path.read_text(encoding="utf-8").startswith("# "), "the first line says what it is"


def test_all_recipes_are_in_one_folder():
    package = Path(__file__).parents[2] / "src"
    assert set(package.rglob("recipes/*.yaml")) == set(shipped_recipes().values())


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("train.betta", 1, r"train\.betta: unknown key; did you mean 'beta'\?"),
        ("trian", {}, r"trian: unknown key; did you mean 'train'\?"),
        ("rewards.0.wieght", 1, r"rewards\.0\.wieght: unknown key; did you mean 'weight'\?"),
        ("evaluate.prompts.sauce", 1, r"evaluate\.prompts\.sauce: unknown key; did you mean 'source'\?"),
        ("train.validation_prompts", {"source": "x", "cuont": 3}, r"cuont: unknown key.*'count'"),
        ("train.learning_rate", "fast", r"train\.learning_rate: .*number.*got 'fast'"),
        ("train.learning_rate", -1.0, r"train\.learning_rate: .*greater than 0.*got -1"),
        ("train.beta", float("inf"), r"train\.beta: .*finite"),
        ("train.weighting_bias", float("nan"), r"train\.weighting_bias: .*finite"),
        ("seed", True, r"seed: .*number.*got True"),
        ("train.steps", 1.5, r"train\.steps: .*integer.*got 1\.5"),
        ("generate.samples_per_prompt", 1, r"generate\.samples_per_prompt: .*greater than or equal to 2"),
        ("pairs.selection", "sums", r"pairs\.selection: .*; did you mean 'sum'\?, got 'sums'"),
        ("train.objective", "dop", r"train\.objective: .*capo, ipo, dpo; did you mean 'dpo'.*got 'dop'"),
        ("name", "../run", r"name: .*pattern.*got '\.\./run'"),
        ("rewards.0.name", "a/b", r"rewards\.0\.name: .*pattern"),
        ("rewards", [], r"rewards: .*at least 1"),
        ("rewards", [{"name": "a"}, {"name": "a"}], "rewards: .*'a' is repeated"),
        ("rewards.0.name", "a.inputs", r"rewards: 'a\.inputs' must not end in \.inputs"),
        ("rewards", [{"name": "a", "use": "evaluate"}], "rewards: at least one needs use: train"),
        ("rewards.0.exponent", 2.0, None),
        ("rewards.1.temperature", 2.0, r"temperature does not apply to comparison 'threshold'"),
        ("pairs.selection", "best-worst", r"pairs\.reward: best-worst needs the name of one reward"),
        ("pairs", {"selection": "best-worst", "reward": "third"}, "'third' is not a training reward"),
        ("pairs.reward", "first", r"pairs\.reward: .*best-worst, not to frontier"),
        ("train.per_device_batch_size", 5, r"per_device_batch_size: 5 does not divide global_batch_size 32"),
        ("pairs.max_skipped", 1.5, r"pairs\.max_skipped: .*less than or equal to 1"),
        ("train.beta", None, r"train\.beta: .*got None"),
        (
            "model.dtype",
            "float16",
            r"train\.dtype: gradients vanish in float16",
        ),
        ("train.adam_betas", [0.9, 1.0], r"train\.adam_betas\.1: .*less than 1, got 1"),
        ("train.timesteps", [], r"train\.timesteps: .*at least 1 item"),
        ("train.reference_offload", True, r"train\.reference_offload: .*adaptation full"),
        ("evaluate.prompts.source", "shapes:train", r"evaluate\.prompts\.source: .*trained on shapes:train"),
        (
            "train.validation_prompts",
            {"source": "shapes:train"},
            r"validation_prompts\.source: .*trained on shapes:train",
        ),
    ],
)
def test_bad_settings_are_named(recipe_values, key, value, message):
    values = changed(recipe_values, key, value)
    if message is None:
        assert parse_recipe(values)
        return
    with pytest.raises(RecipeError, match=message):
        parse_recipe(values, "tiny.yaml")


def test_all_problems_are_reported_at_once(recipe_values):
    del recipe_values["model"]["checkpoint"]
    values = changed(changed(recipe_values, "train.betta", 1), "seed", -1)
    values["pairs"] = {"reward": "first"}
    values["train"] |= {"per_device_batch_size": 5, "reference_offload": True, "patience": 2}
    assert problems(values) == {
        "seed": "Input should be greater than or equal to 0, got -1",
        "model.checkpoint": "missing",
        "train.betta": "unknown key; did you mean 'beta'?",
        "pairs.reward": "applies only to best-worst, not to frontier",
        "train.per_device_batch_size": "5 does not divide global_batch_size 32",
        "train.patience": "counts validations; set train.validation_prompts",
        "train.reference_offload": "applies only to adaptation full, which copies the reference",
    }
    # What may only follow from the default of an invalid field is not reported.
    values["train"]["global_batch_size"] = "many"
    assert "train.per_device_batch_size" not in problems(values)
    assert "train.reference_offload" in problems(values)


def problems(values):
    """Return the problems of a recipe by field."""
    with pytest.raises(RecipeError) as refused:
        parse_recipe(values, "tiny.yaml")
    first, *lines = str(refused.value).splitlines()
    assert first == "tiny.yaml:"
    found = dict(line.strip().split(": ", 1) for line in lines)
    assert len(found) == len(lines)
    return found


@pytest.mark.parametrize("wrong", [None, 5, [], {}, "x", [{"name": "a", "use": "x"}, 5, {"weight": 1}]])
@pytest.mark.parametrize("section", ["train", "rewards", "model", "evaluate", "pairs"])
def test_sections_of_any_shape_are_problems_and_no_crash(recipe_values, section, wrong):
    values = recipe_values | {section: wrong, "seed": -1}
    assert "seed" in problems(values)


def test_overrides_change_fields_as_yaml(recipe_file):
    recipe = load_recipe(
        recipe_file,
        [
            "train.steps=7",
            "train.lora_targets=[to_q, to_v]",
            "rewards.1.weight=2",
            "train.validation_prompts.source=shapes:validation",
            "prompts.count=null",
            "report.title=a = b",
        ],
    )
    assert recipe.train.steps == 7
    assert recipe.train.lora_targets == ("to_q", "to_v")
    assert recipe.rewards[1].weight == 2
    assert recipe.train.validation_prompts.source == "shapes:validation"
    assert recipe.prompts.count is None
    assert recipe.report.title == "a = b"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.steps", "expected KEY=VALUE"),
        ("=3", "expected KEY=VALUE"),
        ("train.stepz=3", r"train\.stepz: unknown key; did you mean 'steps'"),
        ("rewards.9.weight=3", r"no field 'rewards\.9\.weight'"),
        ("rewards.x.weight=3", r"no field 'rewards\.x\.weight'"),
        ("name.x=3", r"no field 'name\.x'"),
        ("train.steps=[", "not valid YAML"),
    ],
)
def test_bad_overrides_are_named(recipe_file, override, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe(recipe_file, [override])


def test_recipes_that_cannot_be_read(tmp_path):
    with pytest.raises(RecipeError, match=r"no recipe 'none\.yaml': .*neither a file nor one of"):
        load_recipe("none.yaml")
    for name, data, message in (
        ("list.yaml", b"- a", "mapping of sections"),
        ("empty.yaml", b"", "mapping of sections"),
        ("broken.yaml", b"a: [", "not valid YAML"),
        ("twice.yaml", b"a: {b: 1, b: 2}", r"not valid YAML: b is repeated\n.*line 1"),
        ("latin.yaml", b"name: caf\xe9", "not valid YAML"),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(RecipeError, match=message):
            load_recipe(tmp_path / name)


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join(['*' + before] * 9)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "aliases expand to more than"),
        ("name: &a [*a]", "contains itself"),
        ("name: &a {<<: *a}", "contains itself"),
        ("name: " + "[" * 5000 + "]" * 5000, "nested too deeply"),
        ("# " + "x" * 1_000_000, "more than 1,000,000"),
        ("name: !!bool maybe", r"not a valid bool[\s\S]*line 1, column 7"),
        ("name: !!map x", "expected a mapping"),
        ("name: 2001-02-30", "not a valid timestamp"),
        ("name: " + "9" * 5000, "not a valid int"),
    ],
    ids=lambda text: text[:20],
)
def test_yaml_that_cannot_be_values_of_a_recipe_is_rejected(tmp_path, text, message):
    (tmp_path / "bomb.yaml").write_text(text)
    with pytest.raises(RecipeError, match=rf"not valid YAML:[\s\S]*{message}"):
        load_recipe(tmp_path / "bomb.yaml")


def test_ordinary_aliases_work(tmp_path, recipe_values):
    prompts = {"source": "x.txt"}
    recipe_values["evaluate"]["prompts"] = recipe_values["train"]["validation_prompts"] = prompts
    text = yaml.safe_dump(recipe_values)
    assert "*id001" in text
    (tmp_path / "tiny.yaml").write_text(text)
    recipe = load_recipe(tmp_path / "tiny.yaml")
    assert recipe.evaluate.prompts == recipe.train.validation_prompts


@pytest.mark.parametrize(
    "tag", ["object/apply:os.mkdir", "object/new:os.mkdir", "name:os.mkdir", "module:os"]
)
def test_yaml_runs_no_code(tmp_path, tag):
    path, argument = tmp_path / "evil.yaml", f" [{tmp_path / 'marker'}]" if "object" in tag else ""
    path.write_text(f"name: !!python/{tag}{argument}")
    with pytest.raises(RecipeError, match=r"not valid YAML: could not determine a constructor"):
        load_recipe(path)
    assert not (tmp_path / "marker").exists()


def test_speed_settings_are_not_results(recipe_values):
    recipe = parse_recipe(recipe_values)
    assert "batch_size" not in recipe.generate.results()
    assert "per_device_batch_size" not in recipe.train.results()
    assert recipe.engine.results() == {}
    assert recipe.generate.results()["guidance_scale"] == 7.5


def test_every_field_of_a_recipe_is_an_input_of_an_artifact(recipe_values, monkeypatch):
    """A setting outside of all fingerprints could change without making anything stale."""
    from capo.pipeline.graph import steps_of

    monkeypatch.setattr("capo.rewards.resolve.reward_identity", lambda section: "weights")
    recipe = parse_recipe(recipe_values)
    held = {field for step in steps_of(recipe) for field in step.inputs}
    for name, info in Recipe.model_fields.items():
        section = getattr(recipe, name)
        # `start` has none of its own in a first round; benchmarks have a test of their own.
        if RUNTIME in info.metadata or name in ("rewards", "start", "benchmarks"):
            continue
        fields = [f"{name}.{f}" for f in section.results()] if hasattr(section, "results") else [name]
        for field in fields:
            assert any(f == field or f.startswith(field + ".") for f in held), field
    for reward in recipe.rewards:
        for field, value in reward.results().items():
            # An empty table has no fields; adding the first one is a change.
            assert value == {} or field == "name" or f"rewards.{reward.name}.{field}" in held, field
