import copy
import json
import unicodedata

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

import fake_stages
from capo.prompts import PromptsError, load_prompts, source_identity
from capo.prompts.table import read_prompts
from capo.recipe import PromptsSection, parse_recipe
from capo.sampling.collect_prompts import collect
from capo.store import Run
from capo.store.step import Job


@pytest.fixture
def recipe_values():
    return copy.deepcopy(fake_stages.VALUES)


@pytest.fixture
def load(tmp_path):
    """Write `data` to a file and load its prompts."""

    def load(data, name="prompts.txt", seed=0, **fields):
        path = tmp_path / name
        path.write_bytes(data if isinstance(data, bytes) else data.encode("utf-8", "surrogatepass"))
        return load_prompts(PromptsSection(source=str(path), **fields), seed)

    return load


def texts(prompts):
    return [prompt.text for prompt in prompts]


def test_lines_are_stripped_and_blank_ones_skipped(load):
    assert texts(load("a cat\n\n  a dog \t\n   \na cat on a mat")) == ["a cat", "a dog", "a cat on a mat"]


@pytest.mark.parametrize("data", [b"\xef\xbb\xbfa cat\r\na dog\r\n", b"a cat\na dog", b"a cat\na dog\n\n"])
def test_byte_order_marks_and_line_ends_are_ignored(load, data):
    assert texts(load(data)) == ["a cat", "a dog"]


def test_only_line_feeds_end_a_line(load):
    assert texts(load("a\u2028b\nc\u0085d"[:3])) == ["a\u2028b"]


def test_only_exact_duplicates_are_dropped(load):
    composed, decomposed = unicodedata.normalize("NFC", "café"), unicodedata.normalize("NFD", "café")
    prompts = load("\n".join(["a cat", "A cat", "a  cat", " a cat ", composed, decomposed, "a cat"]))
    assert texts(prompts) == ["a cat", "A cat", "a  cat", composed, decomposed]
    assert len({p.prompt_id for p in prompts}) == len(prompts)


def test_any_script_and_length_is_accepted(load):
    strange = [
        "👩‍👩‍👧 family",
        "\u200fשלום\u200e",
        "word " * 10_000,
        "../../etc/passwd",
        "<script>",
        "%s {0}",
    ]
    prompts = load("\n".join(strange))
    assert texts(prompts) == [s.strip() for s in strange]
    assert all(len(p.prompt_id) == 16 and p.prompt_id.isalnum() for p in prompts)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"a cat\nb\0d\n", r"prompts\.txt:2: control character U\+0000"),
        (b"a cat\ra dog", r"prompts\.txt:1: control character U\+000D"),
        (b"a cat\n\n\x1b[31mred", r"prompts\.txt:3: control character U\+001B"),
        (b"a cat\n\xff\xfe", r"prompts\.txt:2: not UTF-8"),
        ("a\n\ud800", r"prompts\.txt:2: not UTF-8"),
        (b"", r"prompts\.txt: no prompt"),
        (b"a\n" + b"x" * 100_000, r"prompts\.txt:2: 100,000 characters, more than 65,536 in the prompt"),
        (b"\n \r\n", r"prompts\.txt: no prompt"),
    ],
)
def test_unusable_text_is_rejected_with_its_line(load, data, message):
    with pytest.raises(PromptsError, match=message):
        load(data)


def test_json_lines_carry_metadata(load):
    lines = ['{"prompt": "a cat", "Category": "animals", "tag": {"n": 1}}', "", '{"prompt": "a dog"}']
    cat, dog = load("\n".join(lines), "p.jsonl")
    assert (cat.text, cat.category, cat.metadata) == ("a cat", "animals", {"tag": {"n": 1}})
    assert (dog.text, dog.category, dog.metadata) == ("a dog", None, {})


@pytest.mark.parametrize(("name", "mark"), [("p.csv", ","), ("p.tsv", "\t")])
def test_tables(load, name, mark):
    rows = [["Prompt", "Category", "Note"], ['"a ""big"" cat\n, old"', "animals", "x"], ["a dog", "", ""]]
    cat, dog = load("\n".join(mark.join(row) for row in rows), name)
    assert (cat.text, cat.category, cat.metadata) == ('a "big" cat\n, old', "animals", {"Note": "x"})
    assert (dog.text, dog.category) == ("a dog", None)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("p.jsonl", '{"text": "a"}\n{', r"p\.jsonl:2: not JSON"),
        ("p.jsonl", '["a"]', r"p\.jsonl:1: expected a JSON object"),
        ("p.jsonl", '{"words": "a"}', r"p\.jsonl:1: no column text, prompt or caption"),
        ("p.jsonl", '{"text": 5}', r"p\.jsonl:1: text is 5, not text"),
        ("p.jsonl", '{"text": "\\ud800"}', r"p\.jsonl:1: control character U\+D800"),
        ("p.jsonl", '{"text": "a", "text": "b"}', r"p\.jsonl:1: not JSON: 'text' is repeated"),
        ("p.csv", "text,note,text\na,b,c\n", r"p\.csv:1: several columns are named 'text'"),
        ("p.jsonl", "[" * 100_000, r"p\.jsonl:1: not JSON"),
        ("p.json", "[" * 100_000, r"p\.json: not JSON"),
        (
            "p.jsonl",
            '{"text": "a", "category": "\\u001b[2J"}',
            r"p\.jsonl:1: control .* U\+001B in the category",
        ),
        ("p.csv", "text,category\na,b\nc,\x1bd\n", r"p\.csv:3: control character U\+001B in the category"),
        ("p.csv", "text,note\na,b\nc,d,e\n", r"p\.csv:3: the number of cells"),
        ("p.csv", "text,note\na\n", r"p\.csv:2: the number of cells"),
        ("p.csv", 'text\n"a', r"p\.csv:\d: unexpected end of data"),
        ("p.json", '{"prompt": "a"}', r"p\.json: expected a list of prompts, or of objects"),
        ("p.json", '["a", 5]', r"p\.json:2: expected a prompt, or an object"),
        ("p.json", '["a", {"prompt": null}]', r"p\.json:2: prompt is None, not text"),
        ("p.json", '["a",]', r"p\.json: not JSON"),
        ("p.parquet", "PAR1", r"p\.parquet cannot be read"),
        ("p.yaml", "- a", r"p\.yaml: .*end in \.txt, \.json, \.jsonl, \.csv, \.tsv, \.parquet"),
    ],
)
def test_faults_name_the_file_and_line(load, name, data, message):
    with pytest.raises(PromptsError, match=message):
        load(data, name)


def test_json_lists(load):
    bom = "\ufeff"
    cat, dog = load(bom + '["a cat",\r\n {"prompt": "a dog", "category": "animals", "id": 7}, " "]', "p.json")
    assert (cat.text, cat.category, cat.metadata) == ("a cat", None, {})
    assert (dog.text, dog.category, dog.metadata) == ("a dog", "animals", {"id": 7})


ROWS = [
    {"prompt": "a cat", "english": "cat", "nsfw": 0.5, "width": 512, "sampler": "ddim"},
    {"prompt": "a dog", "english": "dog", "nsfw": 0.05, "width": 512, "sampler": "ddim"},
    {"prompt": "a dog", "english": "dog", "nsfw": 0.01, "width": 768, "sampler": "plms"},
    {"prompt": "a fish", "english": "fish", "nsfw": 0.01, "width": 768, "sampler": None},
]


def rows_file(folder, kind):
    """Write `ROWS` to a file; CSV cannot express a missing value."""
    path = folder / f"rows.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    elif kind == "jsonl":
        path.write_text("\n".join(map(json.dumps, ROWS)))
    else:
        lines = [",".join(ROWS[0]), *(",".join(map(str, row.values())) for row in ROWS)]
        path.write_text("\n".join(lines))
    return str(path)


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "csv"])
@pytest.mark.parametrize(
    ("where", "kept"),
    [
        ([["nsfw", "<", 0.1]], ["a dog", "a fish"]),
        ([["nsfw", ">=", 0.5]], ["a cat"]),
        ([["width", "==", 512], ["nsfw", "<=", 0.05]], ["a dog"]),
        ([["width", "!=", 512]], ["a dog", "a fish"]),
        ([["sampler", "in", ["ddim", "euler"]]], ["a cat", "a dog"]),
        ([["sampler", "not in", ["ddim"]]], ["a dog", "a fish"]),
        ([["prompt", ">", "a cat"]], ["a dog", "a fish"]),
    ],
)
def test_conditions_mean_the_same_in_every_format(tmp_path, kind, where, kept):
    section = PromptsSection(source=rows_file(tmp_path, kind), where=where)
    assert texts(load_prompts(section, 0)) == kept


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_a_missing_value_meets_no_condition(tmp_path, kind):
    section = PromptsSection(source=rows_file(tmp_path, kind), where=[["sampler", "!=", "ddim"]])
    assert texts(load_prompts(section, 0)) == ["a dog"]


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "csv"])
def test_prompts_column(tmp_path, kind):
    section = PromptsSection(source=rows_file(tmp_path, kind), column="english")
    assert texts(load_prompts(section, 0)) == ["cat", "dog", "fish"]


def test_unusable_rows_of_parquet_are_skipped_and_counted(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("CAPO_QUIET")
    path = tmp_path / "p.parquet"
    rows = {"prompt": [" a cat\n", "b\0d", None, "", "a\r\nb", "a dog", "a fish", "x" * 100_000]}
    rows["category"] = [*[""] * 6, "\x1b[2J", ""]
    pq.write_table(pa.table(rows), path)
    assert texts(load_prompts(PromptsSection(source=str(path)), 0)) == ["a cat", "a dog"]
    assert capsys.readouterr().err.startswith(f"{path}: skipped 4 rows")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"column": "x"}, r"p\.csv:2: no column 'x' \(prompts\.column\); the columns are text, n"),
        ({"where": [["x", "<", 1]]}, r"p\.csv:2: no column 'x' \(prompts\.where\); the columns are text, n"),
        ({"where": [["text", "<", 1]]}, r"p\.csv:2: text is 'a', which does not compare with 1"),
        ({"where": [["n", "==", True]]}, r"p\.csv:2: n is '1', which does not compare with True"),
        ({"where": [["n", ">", 1]]}, r"p\.csv: no prompt that meets prompts\.where"),
        ({"split": "train"}, r"prompts\.split does not apply to .*p\.csv: only a data set on the Hub"),
    ],
)
def test_settings_that_do_not_apply_to_the_file(load, fields, message):
    with pytest.raises(PromptsError, match=message):
        load("text,n\na,1\n", "p.csv", **fields)


def test_errors_name_the_recipe_field(tmp_path):
    (tmp_path / "p.csv").write_text("text,n\na,1\n")

    def message(field, **settings):
        with pytest.raises(PromptsError) as raised:
            load_prompts(PromptsSection(**{"source": str(tmp_path / "p.csv")} | settings), 0, field)
        return str(raised.value)

    assert "(evaluate.prompts.column)" in message("evaluate.prompts", column="x")
    assert "(evaluate.prompts.where)" in message("evaluate.prompts", where=[["x", "==", 1]])
    assert "train.validation_prompts.count is 2" in message("train.validation_prompts", count=2)
    assert "train.validation_prompts.split does" in message("train.validation_prompts", split="a")
    assert message("evaluate.prompts", source="none.txt").startswith("evaluate.prompts.source: ")
    with pytest.raises(PromptsError, match=r"^evaluate\.prompts\.source: .*none\.txt"):
        source_identity(PromptsSection(source="none.txt"), "evaluate.prompts")


def test_captions_beside_images(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("CAPO_QUIET", "0")
    files = {"b.png": "a cat", "a/b.GIF": "\ufeffa dog,\r\nasleep\n", "c.webp": "a cat", "none.jpg": None}
    for name, caption in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
        if caption:
            (tmp_path / name).with_suffix(".txt").write_text(caption, newline="")
    (tmp_path / "notes.txt").write_text("beside no image")
    section = PromptsSection(source=str(tmp_path))
    assert texts(load_prompts(section, 0)) == ["a dog,\nasleep", "a cat"]
    assert "1 images have no caption" in capsys.readouterr().err
    identity = source_identity(section)
    (tmp_path / "notes.txt").write_text("still beside no image")
    assert source_identity(section) == identity
    (tmp_path / "c.txt").write_text("a \x1b[31mcat")
    assert source_identity(section) != identity
    with pytest.raises(PromptsError, match=r"c\.txt: control character"):
        load_prompts(section, 0)
    for column in ({"column": "text"}, {"where": [["n", "<", 1]]}):
        with pytest.raises(PromptsError, match="which has no columns"):
            load_prompts(PromptsSection(source=str(tmp_path), **column), 0)
    (tmp_path / "empty").mkdir()
    with pytest.raises(PromptsError, match=r"no captions beside images.*validation_prompts\.source"):
        load_prompts(PromptsSection(source=str(tmp_path / "empty")), 0, "train.validation_prompts")


def test_settings_that_do_not_apply_to_the_source(load):
    with pytest.raises(
        PromptsError, match=r"prompts\.where does not apply to .*p\.txt, which has no columns"
    ):
        load("a", "p.txt", where=[["n", "<", 1]])
    with pytest.raises(
        PromptsError, match=r"prompts\.column does not apply to geneval:x: the columns of geneval"
    ):
        load_prompts(PromptsSection(source="geneval:x", column="prompt"), 0)
    with pytest.raises(PromptsError, match=r"prompts\.skip does not apply to shapes:train"):
        load_prompts(PromptsSection(source="shapes:train", skip=50), 0)
    for condition in (["n", "in", 1], ["n", "<", [1]], ["n", "~", 1], ["n", "==", None]):
        with pytest.raises(ValidationError, match="where"):
            PromptsSection(source="x", where=[condition])


def test_drawing_depends_on_the_seed_and_not_on_the_order(load):
    lines = [f"prompt {i}" for i in range(50)]
    drawn = texts(load("\n".join(lines), count=10))
    assert len(drawn) == 10
    assert drawn == [line for line in lines if line in drawn]
    assert set(texts(load("\n".join(reversed(lines)), count=10))) == set(drawn)
    assert set(texts(load("\n".join(lines), count=10, seed=1))) != set(drawn)
    assert set(drawn) < set(texts(load("\n".join(lines), count=20)))


def test_count_is_of_distinct_prompts(load):
    assert texts(load("a\na\nb", count=2)) == ["a", "b"]
    with pytest.raises(PromptsError, match=r"prompts\.count is 3, but it has 2 distinct"):
        load("a\na\nb", count=3)


def test_missing_sources(tmp_path):
    for use in (lambda s: load_prompts(s, 0), source_identity):
        with pytest.raises(PromptsError, match=r"none\.txt.*a file, .*, or one of shapes:NAME"):
            use(PromptsSection(source=str(tmp_path / "none.txt")))
    with pytest.raises(
        PromptsError, match=r"shapes:tests: no split 'tests'; the splits are train, validation"
    ):
        load_prompts(PromptsSection(source="shapes:tests"), 0)


def test_the_embedded_grammar():
    section = PromptsSection(source="shapes:train", count=12)
    prompts = load_prompts(section, 3)
    assert len(prompts) == len({p.text for p in prompts}) == 12
    assert load_prompts(section, 3) == prompts
    assert all(p.category and p.metadata for p in prompts)
    assert source_identity(section) is None


def test_the_first_of_equal_prompts_is_kept(load):
    first, other = load("text,category\na,x\nb,x\na,y\n", "p.csv")
    assert (first.text, first.category, other.text) == ("a", "x", "b")


def test_identity_is_the_digest_of_the_contents(tmp_path):
    for name, data in (("a.txt", "a"), ("b.txt", "a"), ("c.txt", "c")):
        (tmp_path / name).write_text(data)
    a, b, c = (source_identity(PromptsSection(source=str(tmp_path / n))) for n in ("a.txt", "b.txt", "c.txt"))
    assert a == b != c


def test_read_prompts_returns_what_the_stage_wrote(tmp_path, recipe_values):
    (tmp_path / "p.jsonl").write_text(
        '{"text": "a cat", "category": "animals", "n": 1}\n{"text": "a cat"}\n{"text": "b"}'
    )
    recipe = parse_recipe(recipe_values | {"prompts": {"source": str(tmp_path / "p.jsonl")}})
    with Run.open(tmp_path / "run") as run:
        artifact = run.artifact("prompts")
        artifact.begin({})
        collect(Job(recipe, run, (artifact,)))
        assert artifact.summary == {"prompts": 2, "duplicates": 1}
        assert read_prompts(run) == load_prompts(recipe.prompts, 0)
        table = artifact.read_table("prompts.parquet")
    assert table.column_names == ["prompt_id", "text", "category", "metadata"]
    assert [json.loads(m.as_py()) for m in table["metadata"]] == [{"n": 1}, {}]
