"""The GPU day in its tiny form: parts in processes, results that survive a kill, and the table."""

import importlib.metadata
import json
import re
import time
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from capo.cost.bench import scoring_speed

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def gpu_day(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu_day

    return gpu_day


@pytest.mark.parametrize(("last", "limit", "state"), [("wait", 1, "killed"), ("exit 0", 60, "done")])
def test_a_part_ends_with_its_children_and_files_and_keeps_its_results(
    gpu_day, tmp_path, monkeypatch, last, limit, state
):
    child = tmp_path / "child"
    (tmp_path / "x.json").write_text('{"part": "x", "benchmarks": [1]}')
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(gpu_day.tempfile, "tempdir", str(tmp_path / "temporary"))
    script = f"sleep 60 & echo $! > {child}; mktemp -d; {last}"
    started = time.monotonic()
    result = gpu_day.run_part("x", ["sh", "-c", script], tmp_path, limit)
    assert time.monotonic() - started < 30
    assert result == json.loads((tmp_path / "x.json").read_text())
    assert (result["state"], result["benchmarks"]) == (state, [1])
    assert not [*(tmp_path / "temporary").iterdir()]
    for _ in range(100):
        state = Path(f"/proc/{int(child.read_text())}/stat")
        if not state.exists() or state.read_text().split()[2] == "Z":
            break
        time.sleep(0.1)
    else:
        pytest.fail("the child of a part that ended still runs")


def test_a_part_that_fails_says_why(gpu_day, tmp_path):
    result = gpu_day.run_part("x", ["sh", "-c", "echo no GPU >&2; exit 3"], tmp_path, limit=60)
    assert (result["state"], result["output"]) == ("failed", "no GPU\n")


def test_no_part_starts_without_time(gpu_day, tmp_path, capsys):
    assert gpu_day.run_all(tmp_path, ["tests", "score"], tiny=True, minutes=0.0) == []
    assert "score: no time left" in capsys.readouterr().out


def test_all_parts_together_end_in_time(gpu_day, tmp_path, monkeypatch):
    """Though each takes all the time that it may, and as much again as a kill may take."""
    clock, given = [1000.0], {}

    def run_part(name, command, out, limit):
        given[name] = limit
        clock[0] += limit + gpu_day.KILL_SECONDS
        return {"part": name, "state": "killed", "seconds": limit}

    monkeypatch.setattr(gpu_day, "run_part", run_part)
    monkeypatch.setattr(gpu_day.time, "monotonic", lambda: clock[0])
    gpu_day.run_all(tmp_path, list(gpu_day.PARTS), tiny=True, minutes=gpu_day.MINUTES)
    assert list(given) == ["tests", "world", "train-sdxl", "train-sd3", "generate"]
    assert clock[0] - 1000 == 60 * gpu_day.MINUTES


def test_wheels_and_machine_together_have_every_package():
    """Otherwise a missing dependency would show up only on a machine without a network."""
    machine = re.search(r"machine must have (.*?)\.\s", (BENCHMARKS / "gpu-day.md").read_text(), re.DOTALL)
    packed = re.search(r'^packages="(.*?)"', (BENCHMARKS / "pack_wheels.sh").read_text(), re.DOTALL | re.M)
    carried = {canonicalize_name(name) for name in packed[1].split()}
    present = set[str]()
    waiting = [canonicalize_name(name) for name in re.split(r", | and |,?\n", machine[1])]
    while waiting:
        if (name := waiting.pop()) not in present:
            present.add(name)
            waiting += needs(name)
    wanted = {name for package in [*carried, "capo-diffusion"] for name in needs(package)}
    assert wanted <= present | carried
    assert carried <= wanted | {"beartype"}  # which checks tensors in the tests


def needs(package):
    """Names of the packages that a package requires on the GPU machine, extras left out."""
    requirements = map(Requirement, importlib.metadata.requires(package) or ())
    machine = {"python_version": "3.12", "python_full_version": "3.12.0", "extra": ""}
    return [
        canonicalize_name(each.name)
        for each in requirements
        if each.marker is None or each.marker.evaluate(machine)
    ]


def test_every_case_of_the_day_exists(gpu_day):
    """A misspelled case would be discovered only on the GPU."""
    from capo.cost.bench.benchmark import MEASUREMENTS
    from capo.cost.bench.subject import subject

    for benches in (gpu_day.BENCHES, gpu_day.TINY_BENCHES):
        for measured in (each for part in benches.values() for each in part if each.cases):
            known = set()
            for device in ("cpu", "meta"):
                changes = [*measured.overrides, f"engine.device={device}"]
                with subject(measured.architecture, None, changes) as chosen:
                    known |= {case.name for case in MEASUREMENTS[measured.part].cases(chosen)}
            assert set(measured.cases) <= known


def test_tiny_rewards_are_measured_and_put_in_the_table(gpu_day, tmp_path, monkeypatch):
    monkeypatch.setattr(scoring_speed, "IMAGES", 2)
    (tmp_path / "work").mkdir()
    monkeypatch.setattr(gpu_day, "TINY_IMAGES", 2)
    result = gpu_day.measure("score")(gpu_day.Settings(tmp_path, tmp_path / "work", tiny=True))
    written = json.loads((tmp_path / "score.json").read_text())
    assert (written["state"], written["benchmarks"]) == ("running", result["benchmarks"])
    rows = {row["name"]: row for row in written["benchmarks"][-1]["rows"]}
    assert list(rows) == ["clip-h, one at a time", "clip-h", "vlm-7b, one at a time", "vlm-7b"]
    assert all(row["per_second"] > 0 for row in rows.values())
    text = gpu_day.table([written | {"seconds": 1.0}])
    assert all(f"| tiny-sdxl, {name} | {row['seconds']:.3g} |" in text for name, row in rows.items())


def test_a_case_that_fails_does_not_stop_the_others(gpu_day, tmp_path, monkeypatch):
    def benchmarks(measured, settings):
        if measured.attention == "flash":
            raise RuntimeError("no kernel\nat all")
        yield {"rows": [], "case": measured.attention}

    monkeypatch.setattr(gpu_day, "_benchmarks", benchmarks)
    kinds = [gpu_day.Measured(gpu_day.BenchPart.GENERATE, "sd3", (), attention=a) for a in ("flash", "cudnn")]
    monkeypatch.setitem(gpu_day.BENCHES, "generate", tuple(kinds))
    gpu_day.measure("generate")(gpu_day.Settings(tmp_path, tmp_path, tiny=False))
    failed, other = json.loads((tmp_path / "generate.json").read_text())["benchmarks"]
    assert (failed["error"].splitlines()[0], other["case"]) == (
        "sd3 flash attention: RuntimeError: no kernel",
        "cudnn",
    )


def test_outcomes_of_tests_are_written_one_by_one(gpu_day, tmp_path, monkeypatch):
    """By a stand-in for pytest that looks at what is written before it ends."""
    lines = ["tests/a.py::test_x[1] PASSED [ 50%]", "tests/a.py::test_y FAILED [100%]"]
    lines.append("FAILED tests/a.py::test_y - assert 1 == 2")
    place, script = tmp_path / "tests.json", tmp_path / "pytest.py"
    script.write_text(
        "import pathlib, time\n"
        f"for line in {lines!r}:\n    print(line, flush=True)\n"
        f"while '1 == 2' not in (p := pathlib.Path({str(place)!r})).read_text(): time.sleep(0.01)\n"
        "raise SystemExit(1)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    result = gpu_day.run_tests(gpu_day.Settings(tmp_path, tmp_path, tiny=True))
    assert result["exit code"] == 1
    assert [(t["test"], t["outcome"], t["why"]) for t in result["tests"]] == [
        ("test_x[1]", "passed", ""),
        ("test_y", "failed", "assert 1 == 2"),
    ]


def test_seconds_of_stages_are_written_one_by_one(gpu_day, tmp_path, monkeypatch):
    """By a stand-in for capo that ends once what it has recorded is written."""
    place = tmp_path / "world.json"
    (tmp_path / "capo.py").write_text(
        "import json, pathlib, sys, time\n"
        "run = pathlib.Path(sys.argv[sys.argv.index('--run') + 1])\n"
        "(run / 'evaluate').mkdir(parents=True)\n"
        "(run / 'evaluate/results.json').write_text('[7]')\n"
        "(run / 'timings.jsonl').write_text(json.dumps({'stage': 'prompts', 'seconds': 1}) + '\\n')\n"
        f"while not (p := pathlib.Path({str(place)!r})).exists() or 'prompts' not in p.read_text():\n"
        "    time.sleep(0.01)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    result = gpu_day.run_world(gpu_day.Settings(tmp_path, tmp_path, tiny=True))
    assert result == {"timings": [{"stage": "prompts", "seconds": 1}], "results": [7]}
    assert json.loads(place.read_text())["timings"] == result["timings"]


def test_the_table_compares_equal_work_with_the_targets(gpu_day):
    from gpu_day_table import table

    def row(name, speed, memory, share=None):
        fields = {"seconds": 1.0, "per_second": speed, "peak_bytes": memory, "share_of_peak": share}
        return {"name": name, **fields}

    def found(part, subject, rows, pairs=2, **more):
        settings = {"train": {"global_batch_size": pairs}}
        about = {"part": part, "subject": subject, "unit": "x", "device": "A GPU", "settings": settings}
        return {**about, "changes": [], "attention": None, "rows": rows, **more}

    train = [
        found("train", "sdxl", [row("conventional", 1.0, 100), row("LoRA", 2.5, 50)]),
        found("train", "sdxl", [row("LoRA", 3.0, 70)], changes=["model.channels_last=true"]),
        found("train", "sdxl", [row("LoRA", 4.0, 70)], pairs=8),  # nothing with as many pairs to compare with
    ]
    generate = [
        found("generate", "sd3", [row("conventional", 1.0, 1), row("conventional, batches of 4", 2.0, 1)]),
        found("generate", "sd3", [row("batches of 4", 1.9, 1)], attention="cudnn"),
    ]
    sd3 = [found("train", "sd3", [row("LoRA", 1.0, 1, share=0.41)])]
    parts = {"train-sdxl": train, "train-sd3": sd3, "generate": generate}
    text = table([{"part": n, "state": "done", "seconds": 1.0, "benchmarks": b} for n, b in parts.items()])
    assert text.startswith("A GPU\n")
    *_, goals = text.split("\n\n")
    measured = [line.strip("| ").split(" | ") for line in goals.strip().splitlines()[2:]]
    assert [(cells[1], cells[3]) for cells in measured] == [
        ("2.50× the speed, 50% of the memory", "yes"),
        ("3.00× the speed, 70% of the memory", "no"),
        ("41% of the peak", "yes"),
        ("0.95× the bare pipeline", "no"),
    ]
