"""A day with an SDXL of one's own: from one file and someone else's LoRA to a result on the Hub.

The guide `docs/guides/your-own-sdxl.md` tells it in words. Its recipe is the one that runs here, with tiny
weights and few steps. A folder with the small files of a model stands in for the one on the Hub that
`model.config` names.
"""

import html
import io
import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner

import loopback_hub
import tiny
from capo.cli import app
from capo.diffusion.original_layout import original_file, original_unet
from capo.diffusion.policy import Policy
from capo.pretrained.model_loading import quiet
from capo.recipe import TrainSection
from capo.rewards.rgb_images import decode_image
from capo.store import Run
from comfy_reader import with_lora
from diffusion_cases import family_of

GUIDE = (Path(__file__).parents[1] / "docs/guides/your-own-sdxl.md").read_text(encoding="utf-8")
PUBLISHED = "stabilityai/stable-diffusion-xl-base-1.0"
SMALL = [
    "model.config=config",
    "model.dtype=float32",
    "prompts.count=4",
    "generate={samples_per_prompt: 4, num_inference_steps: 2, height: 32, width: 32, batch_size: 4}",
    "train={beta: 100, steps: 2, global_batch_size: 2, lora_rank: 2, learning_rate: 0.01, validate_every: 2, "
    "validation_prompts: {source: photos, count: 2}}",
    "evaluate.samples_per_prompt=1",
    "engine.device=cpu",
]
"""What makes the guide's recipe a matter of seconds, in a precision that exact comparisons need."""


def capo(*arguments, code=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, f"{result.output}\n{result.exception!r}"
    return result


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", GUIDE, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """The user's folder: a model, a LoRA, photos with captions beside them, rewards, and a recipe."""
    folder = tmp_path_factory.mktemp("day")
    with quiet():
        sdxl = tiny.sdxl(tmp_path_factory.mktemp("published") / "sdxl", width_2=24)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        original_file(family_of(sdxl).networks, folder / "my-sdxl.safetensors")
        shutil.copytree(sdxl, folder / "config", ignore=shutil.ignore_patterns("*.safetensors"))
        _download_a_style(sdxl, folder)
        (folder / "photos").mkdir()
        for n in range(30):
            Image.new("RGB", (48, 40), (8 * n, 100, 200)).save(folder / f"photos/{n:02}.png")
            (folder / f"photos/{n:02}.txt").write_text(f"a {('red', 'blue')[n % 2]} cat, photo {n}\n")
        (folder / "other-prompts.txt").write_text("a cat on a mat\na dog\n")
        (folder / "my_rewards.py").write_text(next(b for b in blocks("python") if "def framed" in b))
        (folder / "my.yaml").write_text(next(b for b in blocks("yaml") if "rewards:" in b))
        values = [option for setting in SMALL for option in ("--set", setting)]
        capo("run", "my.yaml", "--run", "runs/mine", *values)
        shutil.copy(folder / "runs/mine/recipe.yaml", folder / "small.yaml")
        yield folder


def _download_a_style(sdxl, folder):
    """A LoRA in kohya's format."""
    family = family_of(sdxl)
    policy = Policy(family, TrainSection(beta=1.0, lora_rank=2, lora_alpha=3.0), seed=5)
    generator = torch.Generator().manual_seed(5)
    for parameter in policy.parameters().values():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    (folder / "style").mkdir()
    policy.save(folder / "style", {})
    shutil.move(folder / "style/kohya.safetensors", folder / "style.safetensors")
    shutil.rmtree(folder / "style")


@pytest.fixture
def run(home):
    return home / "runs/mine"


def contents(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder): path.read_bytes() for path in files if path.name != ".lock"}


def test_the_morning_ends_with_a_report(run):
    report = (run / "report/index.html").read_text(encoding="utf-8")
    assert "bright" in report
    results = json.loads((run / "evaluate/results.json").read_text())
    assert {reward["name"] for reward in results["rewards"]} == {"bright", "framed"}


def test_a_reward_that_draws_on_its_images_spoils_no_other(run):
    opened = Run(run)
    rows = opened.artifact("samples").read_table("shard-00000.parquet").to_pylist()
    pixels = [np.asarray(decode_image(row["image"]["bytes"]), dtype=float) for row in rows]
    expected = {"bright": [p.mean() / 255 for p in pixels], "framed": [_framed(p) for p in pixels]}
    for name, values in expected.items():
        scores = opened.artifact(f"scores/{name}").read_table("shard-00000.parquet")["score"].to_pylist()
        assert scores == pytest.approx(values, abs=1e-6)


def _framed(pixels):
    framed = pixels.copy()
    framed[:4] = 255
    return framed.std() / 255


def test_every_printed_snippet_runs(home, run, monkeypatch, tmp_path):
    report = (run / "report/index.html").read_text(encoding="utf-8")
    code, command = (
        html.unescape(c) for c in re.findall(r"data-wall-clock><code>(.*?)</code>", report, re.S)
    )
    scope = {}
    with quiet():
        exec(code, scope)
    made = np.asarray(Image.open("tuned.png"), dtype=int)
    rows = Run(run).artifact("evaluate").read_table("images/tuned/shard-00000.parquet").to_pylist()
    tuned = [np.asarray(decode_image(row["image"]["bytes"]), dtype=int) for row in rows]
    assert min(np.abs(made - image).max() for image in tuned) <= 1
    capo(*shlex.split(command)[1:])
    again = home / "runs/mine-again"
    assert (again / "evaluate/results.json").read_bytes() == (run / "evaluate/results.json").read_bytes()
    # The card's code, on another machine.
    shutil.copytree(run / "train/best", tmp_path / "policy")
    for name in ("my-sdxl.safetensors", "style.safetensors"):
        shutil.copy(home / name, tmp_path / name)
    shutil.copytree(home / "config", tmp_path / "config")
    card = (tmp_path / "policy/README.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path / "policy")
    with quiet():
        exec(re.search(r"```python\n(.*?)```", card, re.DOTALL)[1], scope)
    assert scope["image"].size == (32, 32)


def test_comfyui_and_diffusers_make_the_same_model_of_the_parts(home, run):
    prefix = "model.diffusion_model."

    def network(file):
        return {k.removeprefix(prefix): t for k, t in load_file(file).items() if k.startswith(prefix)}

    styled = with_lora(network(home / "my-sdxl.safetensors"), home / "style.safetensors", 0.8)
    tuned = with_lora(styled, run / "train/best/kohya.safetensors")
    assert any(not torch.equal(tuned[key], styled[key]) for key in tuned)
    capo("export", "runs/mine", "--to", "mine.safetensors", "--layout", "single-file")
    exported = network(home / "mine.safetensors")
    assert exported.keys() == tuned.keys()
    for key, tensor in exported.items():
        torch.testing.assert_close(tuned[key], tensor, rtol=0, atol=1e-6)
    # The guide's code loads that model too.
    scope = {}
    (code,) = (b for b in blocks("python") if "from_single_file" in b)
    with quiet():
        exec(code.replace(PUBLISHED, "config").replace("bfloat16", "float32"), scope)
        pipeline = scope["pipeline"]
        pipeline.fuse_lora()
        pipeline.unload_lora_weights()
    loaded = dict(original_unet(pipeline.unet.state_dict(), pipeline.unet.config))
    for key, tensor in exported.items():
        torch.testing.assert_close(loaded[prefix + key], tensor, rtol=0, atol=1e-6)


def test_the_tracker_has_numbers_and_pictures(run):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    (folder,) = (run / "tensorboard").iterdir()
    events = accumulator.EventAccumulator(str(folder))
    events.Reload()
    assert {"train/loss", "validation/win_rate"} <= set(events.Tags()["scalars"])
    (image, *_) = events.Images("validation/images")
    assert Image.open(io.BytesIO(image.encoded_image_string)).size[0] > 32


def test_the_result_goes_to_the_hub(run, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_made_up")
    with loopback_hub.serving(None, kind="models") as hub:
        loopback_hub.aim(monkeypatch, hub.url)
        capo("push", "runs/mine", "owner/name", "--yes")
        assert hub.pushed["kohya.safetensors"] == (run / "train/best/kohya.safetensors").read_bytes()


def test_five_bad_settings_with_force_lose_nothing(home, run, monkeypatch):
    before = contents(run)
    for setting in (
        "generate.height=33",
        "generate.scheduler=DDIMSheduler",
        "model.checkpoint=my-sdx1.safetensors",
        "train.lora_targets=[to_zz]",
        "train.optimizer=adamw-8bit",
    ):
        result = capo("run", "small.yaml", "--run", "runs/mine", "--force", "--set", setting, code=1)
        assert setting.partition("=")[0] in result.stderr
        assert contents(run) == before


def test_from_another_working_directory(run, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    states = json.loads(capo("status", "--run", run, "--json").stdout)
    assert {state["state"] for state in states["artifacts"]} == {"done"}
    capo("report", "--run", run)


def test_a_moved_model_is_named_and_found_again(home, run):
    model, moved = home / "my-sdxl.safetensors", home / "models/my-sdxl.safetensors"
    moved.parent.mkdir()
    model.rename(moved)
    try:
        checked = json.loads(capo("check", "small.yaml", "--run", "runs/new", "--json", code=1).stdout)
        (message,) = [f["message"] for f in checked["findings"] if f["field"] == "model.checkpoint"]
        assert "my-sdxl.safetensors does not exist" in message
        recipe = yaml.safe_load((home / "small.yaml").read_text())
        recipe["model"]["checkpoint"] = "models/my-sdxl.safetensors"
        (home / "moved.yaml").write_text(yaml.safe_dump(recipe))
        before = contents(run)
        capo("run", "moved.yaml", "--run", "runs/mine")
        assert contents(run).keys() == before.keys()
    finally:
        moved.rename(model)
