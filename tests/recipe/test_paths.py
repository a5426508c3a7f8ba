"""Relative paths in recipes are resolved once: by the folder of the file, or else the current directory."""

import yaml

import fake_stages
from capo.recipe import load_recipe, parse_recipe


def write(folder, name, **sections):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(yaml.safe_dump(fake_stages.VALUES | sections))
    return folder / name


def test_paths_are_relative_to_the_folder_of_the_recipe(tmp_path, monkeypatch):
    conf, work = tmp_path / "conf", tmp_path / "work"
    files = ("conf/mv1/index.json", "conf/data/p.txt", "conf/reward.py", "work/data/p.txt", "work/w.txt")
    for path in files:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    file = write(
        conf,
        "my.yaml",
        model={"checkpoint": "./mv1"},
        prompts={"source": "parti:data/p.txt"},
        evaluate={"prompts": {"source": "w.txt"}, "policy": "../conf/mv1"},
        rewards=[{"name": "mine", "command": ["python", "reward.py", "--fast"]}],
    )
    monkeypatch.chdir(work)
    recipe = load_recipe(file, ["train.validation_prompts.source=data/p.txt"])
    assert recipe.model.checkpoint == str(conf / "mv1")
    assert recipe.prompts.source == f"parti:{conf / 'data/p.txt'}"
    assert recipe.evaluate.prompts.source == str(work / "w.txt"), "only the current directory has it"
    assert recipe.evaluate.policy == str(conf / "mv1")
    assert recipe.train.validation_prompts.source == str(work / "data/p.txt"), "as an option of the shell"
    assert recipe.rewards[0].command == ("python", str(conf / "reward.py"), "--fast")
    assert recipe.written == file.read_text()
    assert load_recipe("../conf/my.yaml") == load_recipe(file)
    assert parse_recipe(yaml.safe_load(file.read_text())).evaluate.prompts.source == str(work / "w.txt")


def test_a_missing_model_in_an_existing_folder_is_a_path(tmp_path):
    (tmp_path / "models").mkdir()
    for model, expected in (
        ({"checkpoint": "models/mv1"}, str(tmp_path / "models/mv1")),
        ({"checkpoint": "models/mv1", "revision": "main"}, "models/mv1"),
        ({"checkpoint": "owner/name"}, "owner/name"),
    ):
        file = write(tmp_path, "my.yaml", model=model)
        assert load_recipe(file).model.checkpoint == expected
    for path, on_hub in (("models/style", False), ("owner/name@v2", True), ("owner/x.safetensors", False)):
        (lora,) = load_recipe(
            write(tmp_path, "my.yaml", model={"checkpoint": "owner/name", "loras": [{"path": path}]})
        ).model.loras
        assert lora.on_hub == on_hub


def test_what_is_no_path_stays(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("shapes", "train", "a", "python"):
        (tmp_path / name).mkdir()
    file = write(
        tmp_path,
        "my.yaml",
        model={"checkpoint": "shapes"},
        prompts={"source": "shapes:train"},
        evaluate={"prompts": {"source": "hub:a/b"}, "policy": "./gone", "against": "owner/name"},
        rewards=[{"name": "one", "checkpoint": "package:a"}, {"name": "two", "command": ["python", "x.py"]}],
    )
    recipe = load_recipe(file)
    assert recipe.model.checkpoint == "shapes"
    assert recipe.prompts.source == "shapes:train"
    assert recipe.evaluate.prompts.source == "hub:a/b"
    assert (recipe.evaluate.policy, recipe.evaluate.against) == ("./gone", "owner/name")
    assert recipe.rewards[0].checkpoint == "package:a"
    assert recipe.rewards[1].command == ("python", "x.py")


def test_images_as_a_source_of_prompts_is_the_section_and_no_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    file = write(tmp_path, "my.yaml", prompts={"source": "images"}, images={"source": "images"})
    recipe = load_recipe(file)
    assert recipe.prompts.source == "images"
    assert recipe.images.source == str(tmp_path / "images")
    assert load_recipe(file, ["prompts.source=images"]).prompts.source == "images"
    file = write(tmp_path, "my.yaml", prompts={"source": "./images"})
    assert load_recipe(file).prompts.source == str(tmp_path / "images")


def test_a_recipe_saved_in_a_run_directory_names_nothing_inside_it(tmp_path, monkeypatch):
    """Version 0.1 saved paths as they were written, relative to the directory where it ran."""
    run = tmp_path / "runs/first"
    for folder in (run / "manifests", run / "samples", tmp_path / "samples"):
        folder.mkdir(parents=True)
    file = write(run, "recipe.yaml", evaluate={"prompts": {"source": "shapes:test"}, "policy": "samples"})
    monkeypatch.chdir(tmp_path)
    assert load_recipe(file).evaluate.policy == str(tmp_path / "samples")
    assert load_recipe(file).written is None
    monkeypatch.chdir(run)
    (run / "samples").rmdir()
    assert load_recipe(file).evaluate.policy == "samples"
