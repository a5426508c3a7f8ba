"""Benchmarks on a tiny real checkpoint: what they report, not how fast it is."""

import json
import math
from contextlib import nullcontext

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from capo.cli import app
from capo.cost.bench import BenchPart
from capo.cost.bench import scoring_speed as score_bench
from capo.cost.bench.benchmark import MEASUREMENTS, Benchmark, bench
from capo.cost.bench.conventional import Conventional
from capo.cost.bench.measure import Case, Row, measure
from capo.cost.bench.subject import Subject, changed
from capo.cost.bench.training_speed import effort, training_data
from capo.cost.gpus import peak_of
from capo.diffusion import load_family
from capo.recipe import dump_recipe
from tiny_training import recipe as tiny_recipe

CPU = torch.device("cpu")


@pytest.fixture
def recipe(tmp_path, sdxl):
    return tiny_recipe(tmp_path, sdxl, train={"per_device_batch_size": 2})


@pytest.fixture
def file(tmp_path, recipe):
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_recipe(recipe), encoding="utf-8")
    return str(path)


@pytest.fixture
def data(tmp_path, recipe):
    return training_data(Subject("tiny", recipe, CPU, tmp_path), recipe, 2)


def test_training_is_measured_against_the_conventional_loop(file):
    found = CliRunner().invoke(app, ["bench", "train", "--recipe", file, "--repeats", "1", "--json"])
    assert found.exit_code == 0, found.output
    values = json.loads(found.stdout)
    rows = {row["name"]: row for row in values["rows"]}
    assert next(iter(rows)) == "conventional"
    assert rows["conventional"]["speed"] == rows["conventional"]["memory"] == 1
    for row in rows.values():
        assert row["per_second"] == pytest.approx(2 / row["seconds"])  # a micro-batch of two pairs
        assert row["share_of_peak"] is None  # unknown for a CPU
    # capo's trainer neither holds nor runs the VAE and the text encoders.
    assert rows["LoRA"]["peak_bytes"] < rows["conventional"]["peak_bytes"]
    assert rows["LoRA, checkpointing"]["peak_bytes"] < rows["LoRA"]["peak_bytes"]
    assert rows["full"]["peak_bytes"] > rows["LoRA"]["peak_bytes"]
    assert values["settings"]["train"]["beta"] == 100


@pytest.mark.parametrize("adaptation", ["lora", "full"])
def test_effort_counts_the_denoisers_passes(adaptation, recipe, data):
    recipe = changed(recipe, train={"adaptation": adaptation, "global_batch_size": 2})
    family = load_family(recipe.model, CPU)
    one, conditioning = torch.zeros(1, 4, 8, 8), family.encode(["a"])
    # The counter does not know the CPU's fused kernels.
    plain = sdpa_kernel(SDPBackend.MATH)
    with plain, FlopCounterMode(display=False) as counter, torch.no_grad():
        family.predict(one, torch.tensor([5]), conditioning)
    forward = counter.get_total_flops()
    flops, parameters = effort(recipe, data)
    # Four rows pass through reference and policy. The backward pass costs one forward for the activations
    # and, in full training, one more for the weights. The first layers need no gradient of their inputs, and
    # the adapter adds some work.
    passes = flops / (4 * forward)
    if adaptation == "full":
        assert 3.9 < passes < 4
        assert parameters == sum(p.numel() for p in family.denoiser.parameters())
    else:
        assert 2.9 < passes < 3.9
        assert parameters < sum(p.numel() for p in family.denoiser.parameters())


def test_two_and_four_forward_passes_learn_the_same(recipe, data):
    losses = {}
    for together in (True, False):
        loop = Conventional(load_family(recipe.model, CPU), recipe.train, together)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            losses[together] = [loop.step(data.image_pairs()) for _ in range(3)]
    assert losses[True][0] == pytest.approx(math.log(2))
    assert losses[True][2] != losses[True][0]
    assert losses[True] == pytest.approx(losses[False], rel=1e-4)


def test_the_conventional_loop_trains_on_the_latents_of_the_images(recipe, data):
    family = load_family(recipe.model, CPU)
    images = [pair.chosen for pair in data.image_pairs()]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        found = Conventional(family, recipe.train, together=True).encode_images(images)
    again = family.decode(found)
    assert found.shape == (2, 4, 8, 8)
    assert [image.size for image in again] == [(32, 32)] * 2


@pytest.mark.parametrize("part", [BenchPart.GENERATE, BenchPart.DECODE, BenchPart.SCORE])
def test_other_parts_are_measured(part, file):
    *_, found = bench(part, None, file, [], repeats=1)
    assert found.unit == "images"
    assert all(row.per_second > 0 for row in found.rows)


def test_pairs_are_measured(file, monkeypatch):
    monkeypatch.setattr(score_bench, "PROMPTS", 50)
    *_, found = bench(BenchPart.PAIRS, None, file, [], repeats=1)
    assert [row.name for row in found.rows] == ["frontier", "sum", "best-worst"]


def test_only_the_wanted_cases_are_measured(file, monkeypatch):
    monkeypatch.setattr(score_bench, "PROMPTS", 50)
    found = [each.rows for each in bench(BenchPart.PAIRS, None, file, [], 1, ["sum", "frontier"])]
    assert [[row.name for row in rows] for rows in found] == [["frontier"], ["frontier", "sum"]]
    with pytest.raises(ValueError, match=r"--case: unknown case 'summ'; .*best-worst"):
        next(bench(BenchPart.PAIRS, None, file, [], 1, ["summ"]))


def test_out_of_memory_gives_a_row_without_measurements():
    def too_large():
        raise RuntimeError("lower it") from torch.OutOfMemoryError("no memory")

    row = measure(Case("full", nullcontext(too_large), 1, CPU, effort=lambda: (5, 3)), repeats=1)
    assert row == Row("full", flops=5, parameters=3)
    rows = [Row("conventional", per_second=2.0), row]
    assert Benchmark("train", "", "pairs", "cpu", 1, {}, {}, rows).ratios(row) == {
        "speed": None,
        "memory": None,
    }


@pytest.mark.parametrize(
    ("device", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-40GB", 312e12),
        ("NVIDIA H100 NVL", None),  # slower than the H100 in the table
        ("NVIDIA GeForce RTX 3090 Ti", None),
        ("Tesla T4", None),
    ],
)
def test_peak_of_a_device_name(device, peak):
    assert peak_of(device) == peak


def test_any_other_failure_stops_the_benchmark():
    def broken():
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        measure(Case("full", nullcontext(broken), 1, CPU), repeats=1)


def test_every_part_has_a_measurement():
    assert set(MEASUREMENTS) == set(BenchPart)


def test_an_unknown_part_is_wrong_usage():
    called = CliRunner().invoke(app, ["bench", "trian"])
    assert called.exit_code == 2
    assert "trian" in called.stderr
    assert "generate" in called.stderr
