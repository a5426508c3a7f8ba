import pytest
import yaml

from capo.studies import StudyError, load_study, shipped_studies
from capo.studies.study_file import dump_study

BASIC = {
    "name": "basic",
    "title": "Which?",
    "recipe": "shapes",
    "set": {"train.steps": 20},
    "vary": {
        "objective": {
            "capo": {"set": {"train.objective": "capo", "train.beta": 40}},
            "dpo": {"set": {"train.objective": "dpo", "train.beta": 1.0e-5}, "tune": "best of two"},
        },
        "noise": {
            "own": {"set": {"train.noise": "independent"}},
            "shared": {"set": {"train.noise": "shared", "train.lora_targets": ["to_q"]}, "tune": "none"},
        },
    },
    "rows": [{"name": "both", "soup": ["capo-own", "dpo-own"]}],
}


def load(folder, **changed):
    path = folder / "study.yaml"
    values = {k: v for k, v in {**BASIC, **changed}.items() if v is not None}
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return load_study(path)


def test_axes_are_crossed_and_rows_follow(tmp_path):
    study = load(tmp_path)
    assert [row.name for row in study.rows] == ["capo-own", "capo-shared", "dpo-own", "dpo-shared", "both"]
    assert (study.against, study.seeds) == ("capo-own", (0, 1, 2))
    assert [row.tune for row in study.rows] == [None, "none", "best of two", "best of two; none", None]
    recipe = study.row_recipe(study.rows[3], 2)
    assert (recipe.name, recipe.seed, recipe.train.steps) == ("dpo-shared", 2, 20)
    assert (recipe.train.objective, recipe.train.beta, recipe.train.noise) == ("dpo", 1e-5, "shared")
    assert recipe.train.lora_targets == ("to_q",)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"title": None}, "title: missing"),
        ({"sets": {}}, "sets: unknown key; did you mean 'set'?"),
        ({"rows": [{"name": "x", "sett": {}}]}, "rows.0.sett: unknown key; did you mean 'set'?"),
        ({"rows": [{"name": "x y"}]}, "rows.0.name: "),
        ({"seeds": [0, 0]}, "seeds: a seed occurs more than once"),
        ({"seeds": []}, "seeds: "),
        ({"vary": {}, "rows": None}, "vary, rows: a study needs"),
        ({"rows": [{"name": "capo-own"}]}, "rows: 'capo-own' occurs more than once"),
        ({"rows": [{"name": "x", "soup": ["capo-own", "capo"]}]}, "rows.x.soup: no trained row 'capo'"),
        ({"rows": [{"name": "x", "soup": ["capo-own"]}]}, "rows.x.soup: a soup needs at least two rows"),
        (
            {"rows": [{"name": "x", "interpolation": "linear"}]},
            "rows.x.interpolation: only a soup has one",
        ),
        ({"against": "capo-won"}, "against: no row 'capo-won'; did you mean 'capo-own'?"),
        ({"set": {"seed": 3}}, "set: the study itself sets seed"),
        ({"set": {"train.stepz": 3}}, r"row capo-own: [\s\S]*train.stepz: unknown key; did you mean 'steps'"),
        ({"recipe": "shapez"}, "no recipe 'shapez'"),
        (
            {"vary": {"a": {"x": {"set": {"seed": 1}}}, "b": {"y": {"set": {"seed": 2}}}}, "rows": None},
            "vary: a and b both set seed",
        ),
        ({"rows": [{"name": "figures"}]}, "rows: 'figures' is the folder of the study's figures"),
    ],
)  # fmt: skip
def test_problems_are_named(tmp_path, changed, message):
    with pytest.raises(StudyError, match=message):
        load(tmp_path, **changed)


def test_a_repeated_key_is_an_error(tmp_path):
    """YAML itself would silently drop the first."""
    rows = "rows:\n  - {name: a, set: {train.beta: 1, train.beta: 2}}\n"
    (tmp_path / "study.yaml").write_text(f"name: x\ntitle: X\nrecipe: shapes\n{rows}")
    with pytest.raises(StudyError, match=r"not readable as YAML: train\.beta"):
        load_study(tmp_path / "study.yaml")


def test_an_unknown_study_lists_the_shipped_ones():
    with pytest.raises(StudyError, match=r"no study 'table3': .*fig5.*did you mean 'table[1-6]'"):
        load_study("table3")


@pytest.mark.parametrize("name", list(shipped_studies()))
def test_shipped_studies_have_valid_and_different_recipes(name):
    study = load_study(name)
    assert study.name == name
    text = shipped_studies()[name].read_text(encoding="utf-8")
    assert text.startswith("# "), "its first line says what it compares"
    recipes = [study.row_recipe(row, 0).model_dump(exclude={"name"}) for row in study.rows if not row.soup]
    assert all(recipes[i] != recipes[j] for i in range(len(recipes)) for j in range(i)), "no row comes twice"


def test_the_quick_form_is_small_whatever_its_rows_set():
    for name in shipped_studies():
        study = load_study(name, quick=True)
        assert (study.name, len(study.seeds)) == (f"{name}-quick", 1)
        for row in study.rows:
            recipe = study.row_recipe(row, 0)
            assert recipe.prompts.count == 4
            assert recipe.train.steps == 4
            assert recipe.evaluate.samples_per_prompt == 2


def test_the_file_that_a_quick_study_leaves_loads_as_a_quick_one(tmp_path):
    study = load_study("table6", quick=True)
    (tmp_path / "study.yaml").write_text(dump_study(study))
    for quick in (False, True):
        assert load_study(tmp_path / "study.yaml", quick=quick) == study
