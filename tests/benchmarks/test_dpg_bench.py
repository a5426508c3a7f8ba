"""DPG-Bench: questions, dependencies, and the two faults of the authors' script."""

from itertools import product

import numpy as np
import pytest
from PIL import Image

from capo.benchmarks.definition import FAILED
from capo.benchmarks.dpg_bench import DPG_BENCH, with_dependencies
from capo.benchmarks.judges import question_answers
from capo.prompts import PromptsError, make_prompt
from capo.prompts.benchmark_prompts import find_benchmark, read_benchmark

HEADER = (
    "item_id,text,keywords,proposition_id,dependency,category_broad,category_detailed,tuple,"
    "question_natural_language\n"
)
CSV = HEADER + (
    'a1,"A red dog, sitting.",,1,0,entity,whole,entity - whole (dog),Is there a dog?\n'
    'a1,"A red dog, sitting.",,2,1,attribute,color,"attribute - color (dog, red)",Is the dog red?\n'
    "b2,Two cats,,1,0,entity,whole,entity - whole (cats),Are there cats?\n"
    'b2,Two cats,,2,"1",other,count,"other - count (cats, ==2)","Are there two cats, exactly?"\n'
    'b2,Two cats,,3,"1, 2",global,,global (photo),Is this a photo?\n'
)
PARENTS = {1: [], 2: [1], 3: [2], 4: [1, 3], 5: []}


def questions(answers, first=False):
    return [
        {"id": n, "category": "entity - whole", "depends": PARENTS[n], "correct": yes}
        | ({"first": True} if first and n == 1 else {})
        for n, yes in answers.items()
    ]


def test_an_answer_counts_only_if_all_it_depends_on_count():
    def counts(n, answers):
        return answers[n] and all(counts(parent, answers) for parent in PARENTS[n])

    for values in product([False, True], repeat=5):
        answers = dict(zip(PARENTS, values, strict=True))
        expected = {n: counts(n, answers) for n in PARENTS}
        assert with_dependencies(questions(answers)) == expected


def test_without_its_first_question_an_item_fails_if_others_depend_on_it():
    answers = dict.fromkeys(PARENTS, True)
    assert with_dependencies(questions(answers, first=True), skip_first=True) is None
    alone = [question | {"depends": []} for question in questions(answers, first=True)]
    assert with_dependencies(alone, skip_first=True) == dict.fromkeys([2, 3, 4, 5], True)
    assert with_dependencies(questions(answers, first=True)) == answers
    orphan = [{"id": 2, "depends": [9], "correct": True}]
    assert with_dependencies(orphan) == {2: True}
    assert with_dependencies(orphan, skip_first=True) is None


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "prompts").mkdir()
    for item, text in (("a1", "A red dog, sitting."), ("b2", "Two cats")):
        (tmp_path / "prompts" / f"{item}.txt").write_text(text)
    (tmp_path / "dpg_bench.csv").write_text(CSV)
    return tmp_path


def prompts_in(folder):
    rows = read_benchmark("dpg", folder)
    return [make_prompt(row.text, row.category, row.metadata) for row in rows]


def test_questions_are_read_from_beside_the_prompts_or_above(folder):
    dog, cats = prompts_in(folder / "prompts")
    assert dog.metadata["questions"] == [
        {"id": 1, "question": "Is there a dog?", "category": "entity - whole", "depends": [], "first": True},
        {"id": 2, "question": "Is the dog red?", "category": "attribute - color", "depends": [1]},
    ]
    assert [q["depends"] for q in cats.metadata["questions"]] == [[], [1], [1, 2]]
    assert cats.metadata["questions"][2]["category"] == "global"
    assert folder / "dpg_bench.csv" in find_benchmark("dpg", folder / "prompts")
    (folder / "dpg_bench.csv").write_text(HEADER + "a1,x,,one,0,,,entity (dog),Is it?\n")
    with pytest.raises(PromptsError, match=r"dpg_bench\.csv:2: proposition_id is 'one'"):
        prompts_in(folder / "prompts")
    (folder / "dpg_bench.csv").write_text("item_id,text\na1,x\n")
    with pytest.raises(PromptsError, match="no text in proposition_id"):
        prompts_in(folder / "prompts")


class Picky:
    """Answers yes if the question names a cat, and fails on questions about photos of dark images."""

    name, comparison = "picky", None

    def score(self, images, prompts):
        dark = [np.asarray(image).mean() < 100 for image in images]
        return [
            float("nan") if shadow and "photo" in question else 0.9 if "cats" in question else 0.5
            for shadow, question in zip(dark, prompts, strict=True)
        ]


def test_a_judgment_has_all_answers_and_a_failed_question_is_a_gap(folder, monkeypatch):
    monkeypatch.setattr(question_answers, "load_reward", lambda section, device: Picky())
    judge = DPG_BENCH.judges["qwen3-vl"]()
    dog, cats = prompts_in(folder / "prompts")
    light, dark = Image.new("RGB", (8, 8), "white"), Image.new("RGB", (8, 8))
    first, second, third = judge.load("cpu")([light, light, dark], [dog, cats, cats])
    assert [q["correct"] for q in first["questions"]] == [False, False]
    assert [q["correct"] for q in second["questions"]] == [True, True, False]
    assert [a["answer"] for a in second["answers"]] == ["yes", "yes", "no"]
    assert list(third) == [FAILED]


def test_prompts_without_questions_are_rejected_with_where_they_are_published(folder):
    (folder / "dpg_bench.csv").unlink()
    with pytest.raises(ValueError, match=r"2 of 2 prompts.*a1.*dpg_bench\.csv.*TencentQQGYLab/ELLA"):
        DPG_BENCH.judges["qwen3-vl"]().check(prompts_in(folder / "prompts"))


def rows_of(folder, answers):
    """Rows of all images: answers by item and image, one letter per question."""
    items = {prompt.metadata["item_id"]: prompt.metadata["questions"] for prompt in prompts_in(folder)}
    return [
        {
            "prompt": number,
            "image": image,
            "category": None,
            "questions": [q | {"correct": a == "y"} for q, a in zip(items[item], said, strict=True)],
        }
        for number, (item, images) in enumerate(answers.items())
        for image, said in enumerate(images)
    ]


def test_the_fixed_variant_counts_every_question_of_every_image(folder):
    rows = rows_of(folder / "prompts", {"a1": ["yy", "ny", "yn", "nn"], "b2": ["yyy", "yny", "nyy", "yyn"]})
    summary = DPG_BENCH.summarize(rows, "fixed")
    assert summary.details == {}
    scores = {s.name: s.value for s in summary.scores}
    dog, cats = (1 + 0 + 0.5 + 0) / 4, (1 + 1 / 3 + 0 + 2 / 3) / 4
    assert scores == pytest.approx(
        {
            "overall": (dog + cats) / 2,
            "entity": (2 + 3) / 8, "entity - whole": (2 + 3) / 8,
            "attribute": 1 / 4, "attribute - color": 1 / 4,
            "other": 2 / 4, "other - count": 2 / 4, "global": 1 / 4,
        }
    )  # fmt: skip


def test_the_official_variant_has_the_faults_of_the_script(folder):
    rows = rows_of(folder / "prompts", {"a1": ["yy", "ny", "yn", "nn"], "b2": ["yyy", "yny", "nyy", "nyy"]})
    summary = DPG_BENCH.summarize(rows, "official")
    assert list(summary.details.values()) == [[0]]
    scores = {s.name: s.value for s in summary.scores}
    assert scores == pytest.approx(
        {
            "overall": (1 + 1 / 3 + 0 + 0) / 4,  # a1 fails: its first question is the first of the file
            # the last image alone, before dependencies
            "entity": 0, "entity - whole": 0, "other": 1, "other - count": 1, "global": 1,
        }
    )  # fmt: skip


def test_a_program_answers_as_the_official_judge():
    judge = DPG_BENCH.judges["reward"](name="mplug", command="/envs/mplug/bin/python mplug.py")
    assert judge.official
    assert judge.reward.command == ("/envs/mplug/bin/python", "mplug.py")
    assert not DPG_BENCH.judges["reward"](name="mine", url="http://127.0.0.1:1").official
    assert not DPG_BENCH.judges["qwen3-vl"]().official
    with pytest.raises(ValueError, match="command"):
        DPG_BENCH.judges["reward"](name="mplug")


def test_the_layout_is_a_grid_named_by_the_item():
    assert DPG_BENCH.layout.tiles == 4
    assert DPG_BENCH.layout.path(7, make_prompt("x", metadata={"item_id": "whoops3"}), 0) == "whoops3.png"
