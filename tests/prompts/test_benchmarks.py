"""Benchmark files as their authors publish them: small samples, and the real files if available."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from capo.prompts import PromptsError, load_prompts, source_identity
from capo.prompts.benchmark_prompts import BENCHMARKS
from capo.recipe import PromptsSection

PUBLISHED = Path(__file__).parents[3] / "shared" / "data" / "prompts"
COMPBENCH = ("color", "shape", "texture", "spatial", "non_spatial", "complex", "3d_spatial", "numeracy")


def load(source):
    return load_prompts(PromptsSection(source=source), 0)


@pytest.fixture
def write(tmp_path):
    def write(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
        return path

    return write


def test_partiprompts_keeps_quotation_marks(write):
    path = write(
        "PartiPrompts.tsv", 'Prompt\tCategory\tChallenge\tNote\r\n"Hi" on a sign\tArts\tBasic\tan "odd\r\n'
    )
    (prompt,) = load(f"partiprompts:{path.parent}")
    assert (prompt.text, prompt.category) == ('"Hi" on a sign', "Arts")
    assert prompt.metadata == {"Challenge": "Basic", "Note": 'an "odd'}


def test_geneval_metadata_is_what_its_evaluator_reads(write):
    line = {
        "tag": "counting",
        "include": [{"class": "cat", "count": 2}],
        "exclude": [{"class": "cat", "count": 3}],
    }
    path = write("evaluation_metadata.jsonl", json.dumps(line | {"prompt": "a photo of two cats"}))
    (prompt,) = load(f"geneval:{path}")
    assert (prompt.text, prompt.category, prompt.metadata) == ("a photo of two cats", "counting", line)


def test_geneval2_metadata_has_questions_and_skills(write):
    line = {"atom_count": 3, "vqa_list": [["Is the cat red?", "Yes"]], "skills": ["attribute"]}
    path = write("geneval2_data.jsonl", json.dumps({"prompt": "a red cat"} | line))
    (prompt,) = load(f"geneval2:{path.parent}")
    assert (prompt.text, prompt.category, prompt.metadata) == ("a red cat", "3 atoms", line)
    write("geneval2_data.jsonl", json.dumps({"prompt": "a red cat"}))
    with pytest.raises(PromptsError, match=r":1: atom_count"):
        load(f"geneval2:{path.parent}")


def test_dpg_reads_a_folder_of_text_files(write):
    write("prompts/b2.txt", "A dog,\r\nand a cat.\r\n")
    path = write("prompts/a1.txt", "\ufeffA bird.")
    bird, dog = load(f"dpg:{path.parent}")
    assert (bird.text, bird.metadata) == ("A bird.", {"item_id": "a1"})
    assert (dog.text, dog.metadata) == ("A dog,\nand a cat.", {"item_id": "b2"})


def test_compbench_categories_come_from_file_names(write):
    for name in COMPBENCH:
        path = write(f"dataset/{name}_val.txt", f"one {name}\r\ntwo {name}\r\n")
    write("dataset/color_train.txt", "another")
    prompts = load(f"t2i-compbench:{path.parent}")
    assert [(p.text, p.category) for p in prompts[:3]] == [
        ("one color", "color"),
        ("two color", "color"),
        ("one shape", "shape"),
    ]
    assert len(prompts) == 16
    (train,) = load(f"t2i-compbench:{path.parent / 'color_train.txt'}")
    assert (train.text, train.category) == ("another", "color")
    with pytest.raises(PromptsError, match="must begin with one of color, shape"):
        load(f"t2i-compbench:{write('words.txt', 'x')}")


def test_genai_bench_skills(write):
    images = {
        "00000": {"prompt": "a baker", "models": {}},
        "00001": {"prompt": "no baker"},
        "00002": {"prompt": "x"},
    }
    path = write("genai/genai_image.json", json.dumps(images))
    write("genai/genai_skills.json", '{"basic": [0], "scene": [0, 1], "advanced": [1], "negation": [1]}')
    prompts = load(f"genai-bench:{path.parent}")
    assert [(p.text, p.category) for p in prompts] == [
        ("a baker", "basic"),
        ("no baker", "advanced"),
        ("x", None),
    ]
    assert [p.metadata for p in prompts] == [
        {"id": "00000", "skills": ["basic", "scene"]},
        {"id": "00001", "skills": ["scene", "advanced", "negation"]},
        {"id": "00002", "skills": []},
    ]


def test_drawbench_and_hpdv2(write):
    path = write("drawbench.csv", 'Prompts,Category\r\n"A cat, red.",Colors\r\n')
    assert [(p.text, p.category) for p in load(f"drawbench:{path}")] == [("A cat, red.", "Colors")]
    for style in ("anime", "concept-art", "paintings", "photo"):
        path = write(f"benchmark/{style}.json", json.dumps([f"{style} a", f"{style} b"]))
    prompts = load(f"hpdv2:{path.parent}")
    assert len(prompts) == 8
    assert (prompts[3].text, prompts[3].category) == ("concept-art b", "concept-art")
    assert prompts[3].metadata == {"style": "concept-art", "index": 1}


@pytest.mark.parametrize(
    ("source", "data", "message"),
    [
        ("partiprompts", "Prompt\tCategory\na\n", ":2: the number of cells"),
        ("partiprompts", "text\tCategory\na\tb\n", ":2: no text in Prompt"),
        (
            "geneval",
            '{"prompt": "a", "tag": "x", "include": []}\n{"prompt": "a", "tag": "x"}',
            ":2: no field .include",
        ),
        ("geneval", '{"prompt": "a", "tag": "x", "include": []}\n{', ":2: not JSON"),
        (
            "geneval",
            '{"prompt": "a", "tag": "\\u0007", "include": []}',
            r":1: control .* U\+0007 in the category",
        ),
        ("dpg", '{"item_id": 5, "prompt": "a"}', ":1: no text in item_id"),
        ("drawbench", "a\n\x1bb", r":2: control character U\+001B"),
        ("genai-bench", '{"id": "1", "prompt": "a"}', "no .*skills.json"),
    ],
)
def test_bad_lines_are_named(write, source, data, message):
    suffix = {"partiprompts": ".tsv", "drawbench": ".txt"}.get(source, ".jsonl")
    path = write(f"my_prompts{suffix}", data)
    with pytest.raises(PromptsError, match=message):
        load(f"{source}:{path}")


def test_the_identity_covers_every_file(write):
    prompts, skills = write("x_prompts.jsonl", '{"id": "1", "prompt": "a"}'), write("x_skills.json", "{}")
    section = PromptsSection(source=f"genai-bench:{prompts}")
    before = source_identity(section)
    skills.write_text('{"scene": [1]}')
    assert source_identity(section) != before
    skills.unlink()
    with pytest.raises(PromptsError, match=re.escape(f"no {skills}")):
        source_identity(section)


@pytest.mark.parametrize(
    ("source", "place", "count", "categories"),
    [
        ("partiprompts", "partiprompts", 1632, {"Abstract": 51, "Produce & Plants": 50}),
        ("geneval", "geneval", 553, {"single_object": 80, "two_object": 99, "counting": 80, "colors": 94,
                                     "position": 100, "color_attr": 100}),
        ("geneval2", "geneval2", 800, {f"{atoms} atoms": 100 for atoms in range(3, 11)}),
        ("dpg", "dpg_bench", 1065, {None: 1065}),
        ("t2i-compbench", "t2i_compbench", 2400, dict.fromkeys(COMPBENCH, 300)),
        ("genai-bench", "genai_bench/genai_1600_prompts.jsonl", 1600,
         {"basic": 722, "advanced": 871, None: 7}),
        ("genai-bench", "genai_bench/genai_527_prompts.jsonl", 527, {"basic": 214, "advanced": 313}),
        ("drawbench", "drawbench/drawbench_unique.txt", 200, {None: 200}),
        ("hpdv2", "hpdv2/hpdv2_benchmark_photo_800_unordered.txt", 800, {None: 800}),
    ],
)  # fmt: skip
def test_the_published_files(source, place, count, categories):
    if not (PUBLISHED / place).exists():
        pytest.skip(f"the files of {source} are not available")
    prompts = load(f"{source}:{PUBLISHED / place}")
    assert len(prompts) == len({p.prompt_id for p in prompts}) == count
    assert Counter(p.category for p in prompts).items() >= categories.items()
    assert not any(p.text != p.text.strip() or "\r" in p.text for p in prompts)


def test_all_benchmarks_are_tested_and_documented():
    text = Path(__file__).read_text()
    page = (Path(__file__).parents[2] / "docs" / "guides" / "prompts.md").read_text()
    assert all(f'("{name}", ' in text and f"`{name}:" in page for name in BENCHMARKS)
