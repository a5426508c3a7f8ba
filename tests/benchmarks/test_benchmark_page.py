"""The page about benchmarks agrees with the code, and its program runs."""

import re
import sys
from pathlib import Path

import pytest
from PIL import Image

from capo.benchmarks.dpg_bench import DPG_BENCH
from capo.benchmarks.registry import SHIPPED, load_benchmark
from capo.prompts import make_prompt

PAGE = (Path(__file__).parents[2] / "docs" / "benchmarks.md").read_text(encoding="utf-8")

MODELSCOPE = """
def pipeline(task, model):
    assert task == "visual-question-answering" and "mplug" in model
    return lambda pair: {"text": answer(**pair)}


def answer(image, question):
    return "yes" if image.size == (8, 8) and "dog" in question else "no"
"""


def cells(section):
    text = PAGE.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    return [[re.sub(r"^`([^`]*)`$", r"\1", cell.strip()) for cell in row] for row in rows[2:]]


def test_the_licenses_are_those_of_the_code():
    rows = {(name, part): license for name, part, license in cells("Licenses")}
    expected = {
        (name, part): license
        for name in SHIPPED
        for part, license in load_benchmark(name, "benchmarks").licenses.items()
    }
    assert rows == expected


def test_the_table_of_benchmarks_names_all_judges():
    rows = {row[0]: " ".join(row) for row in cells("The benchmarks") if row[0] in SHIPPED}
    assert rows.keys() == SHIPPED.keys()
    for name, text in rows.items():
        assert all(judge in text for judge in load_benchmark(name, "benchmarks").judges), name


def test_the_program_for_mplug_answers_questions(tmp_path):
    (program,) = re.findall(r"^```python\n(# mplug\.py.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    (tmp_path / "mplug.py").write_text(program)
    (tmp_path / "modelscope").mkdir()
    (tmp_path / "modelscope" / "__init__.py").touch()
    (tmp_path / "modelscope" / "pipelines.py").write_text(MODELSCOPE)
    judge = DPG_BENCH.judges["reward"](name="mplug", command=f"{sys.executable} {tmp_path / 'mplug.py'}")
    asked = [
        {"id": n, "question": question, "category": "entity - whole", "depends": []}
        for n, question in enumerate(("Is there a dog?", "Is there a cat?"), start=1)
    ]
    prompt = make_prompt("a dog", metadata={"questions": asked})
    judge.check([prompt])
    (judgment,) = judge.load("cpu")([Image.new("RGB", (8, 8))], [prompt])
    assert [question["correct"] for question in judgment["questions"]] == [True, False]
    assert judgment["score"] == pytest.approx(0.5)
