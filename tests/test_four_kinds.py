"""A whole run with four kinds of rewards: a model, a function, a program and a server."""

import html
import io
import json
import re
import shlex
import sys

import numpy as np
import pytest
from PIL import Image

from capo.engine.events import StageResult, TrainingStep, ValidationStep
from capo.pipeline import run
from capo.recipe import RewardSection, dump_recipe, load_recipe, parse_recipe
from capo.rewards import load_reward, reward_identity
from capo.store import Run
from served_reward import serving

FUNCTION = """
import numpy as np

def warmth(images, prompts):
    means = [np.asarray(image, dtype=float).mean(axis=(0, 1)) / 255 for image in images]
    return [float(red - blue) for red, _, blue in means]

warmth.comparison = "bradley-terry"
"""

PROGRAM = """
from capo_reward import serve_stdio

def darkness(images, prompts):
    return [255 - sum(image.convert("L").resize((1, 1)).getdata()) for image in images]

serve_stdio(darkness, comparison={"comparison": "bradley-terry", "temperature": 20.0})
"""

SMALL = {
    "prompts": {"count": 4},
    "generate": {"samples_per_prompt": 4, "num_inference_steps": 2},
    "train": {
        "steps": 2, "warmup_steps": 0, "global_batch_size": 4, "checkpoint_every": 2, "validate_every": 2,
        "validation_prompts": {"count": 2}, "validation_samples": 2,
    },
    "evaluate": {"prompts": {"count": 3}, "samples_per_prompt": 2},
    "benchmarks": [{"name": "shapes", "count": 4, "images": 1}],
    "engine": {"device": "cpu"},
}  # fmt: skip


@pytest.fixture
def server():
    """A shipped reward served over HTTP on this machine."""
    section = RewardSection(name="shapes-vqa")
    with serving(load_reward(section, "cpu"), reward_identity(section)) as service:
        yield service.url


def merged(values, changes):
    for name, change in changes.items():
        values[name] = merged(values[name], change) if isinstance(change, dict) else change
    return values


def _check_events(events, result):
    """Every line of the logs, and every stage, was an event."""
    train = Run("run").artifact("train")
    for kind, name in ((TrainingStep, "metrics.jsonl"), (ValidationStep, "validation.jsonl")):
        rows = [{"step": e.step, **e.measures} for e in events if isinstance(e, kind)]
        assert rows == train.read_json_lines(name)
    assert [event for event in events if isinstance(event, StageResult)] == list(result.stages)
    last = next(event for event in reversed(events) if isinstance(event, ValidationStep))
    prompts = Run("run").artifact("validation").read_table("prompts.parquet")["text"].to_pylist()
    assert [shown.prompt for shown in last.images()] == prompts
    assert {image.size for shown in last.images() for image in (shown.base, shown.policy)} == {(32, 32)}


def test_rewards_of_four_kinds_run_from_prompts_to_the_report(server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "four_kinds_warmth.py").write_text(FUNCTION)
    (tmp_path / "darkness.py").write_text(PROGRAM)
    rewards = [
        {"name": "preference", "source": "shapes-preference"},
        {"name": "warmth", "source": "four_kinds_warmth:warmth", "temperature": 0.1},
        {"name": "darkness", "command": [sys.executable, "darkness.py"]},
        {"name": "shapes-vqa", "url": server, "use": "evaluate"},
    ]
    values = merged(load_recipe("shapes").model_dump(mode="json"), SMALL) | {"rewards": rewards}
    recipe = parse_recipe(values)
    events = []
    result = run(recipe, "run", callbacks=[events.append])
    assert result.report.is_file()
    assert [each["name"] for each in result.results["rewards"]] == [each["name"] for each in rewards]
    rates = [each["win_rate"] for each in result.results["rewards"]]
    assert [reward.win_rate for reward in result.evaluation.rewards] == rates
    _check_events(events, result)
    for reward in rewards:
        manifest = json.loads(
            (tmp_path / "run" / "manifests" / "scores" / f"{reward['name']}.json").read_text()
        )
        assert (manifest["summary"]["scored"], manifest["summary"]["missing"]) == (16, 0)
    assert all(stage.skipped for stage in run(parse_recipe(values), "run").stages)
    assert dump_recipe(recipe) == (tmp_path / "run" / "recipe.yaml").read_text()
    run_printed_code(tmp_path, monkeypatch)


def run_printed_code(folder, monkeypatch):
    """Run the code of the report and of the model card as printed, in the folders that they name."""
    page = (folder / "run/report/index.html").read_text(encoding="utf-8")
    assert "Too few to say" in page
    assert 'alt="policy at step 2: ' in page
    blocks = [html.unescape(block) for block in re.findall(r"<code>(.*?)</code>", page, re.DOTALL)]
    report, repeat = [block for block in blocks if block.startswith(("import torch", "capo run"))]
    card = (folder / "run/train/best/README.md").read_text(encoding="utf-8")
    (own,) = re.findall(r"^```python\n(.*?)^```", card, re.DOTALL | re.MULTILINE)
    exec(report, {})
    monkeypatch.chdir("run/train/best")
    exec(own + "\nimage.save('../../../card.png')\n", {})
    tuned = pixels((folder / "tuned.png").read_bytes())
    assert pixels((folder / "card.png").read_bytes()).shape == tuned.shape
    shard = (
        Run(folder / "run").artifact("evaluate").read_table("images/tuned/shard-00000.parquet").to_pylist()
    )
    shown = next(row for row in shard if f"manual_seed({row['seed']})" in report)
    assert np.abs(pixels(shown["image"]["bytes"]) - tuned).max() <= 1
    _, _, recipe, _, again = shlex.split(repeat)
    assert load_recipe(folder / recipe) == load_recipe(folder / "run" / "recipe.yaml")
    assert not (folder / again).exists()


def pixels(data):
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"), dtype=int)
