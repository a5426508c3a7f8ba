"""Data sets on the Hub, read by the Hub's client from a loopback server."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import loopback_hub
from capo.prompts import PromptsError, load_prompts
from capo.recipe import PromptsSection

CAPTIONS = [f"a cat, no. {i}" for i in range(60)]
SET = "hub:owner/name"
PICTURE = bytes(range(256)) * 1000


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A set with a split of two files that hold images, like Pick-a-Pic, and a JSON list."""
    folder = tmp_path / "set"
    (folder / "data").mkdir(parents=True)
    for part in range(2):
        half = CAPTIONS[30 * part : 30 * part + 30]
        table = {
            "caption": half,
            "jpg_0": [bytes([i]) + PICTURE for i in range(30)],
            "prompt_nsfw": pa.array([i / 30 for i in range(30)], pa.float32()),
        }
        pq.write_table(
            pa.table(table), folder / f"data/train-{part:05d}-of-00002.parquet", compression="none"
        )
    pq.write_table(pa.table({"caption": ["a dog"]}), folder / "data/test_unique-00000-of-00001.parquet")
    (folder / "benchmark.json").write_text('["a bird", "a fish"]')
    with loopback_hub.serving(folder) as server:
        loopback_hub.aim(monkeypatch, server.url)
        yield server


def texts(source, **fields):
    return [p.text for p in load_prompts(PromptsSection(source=source, **fields), 0)]


def test_a_split_is_read_in_order_without_its_images(hub):
    assert texts(SET) == CAPTIONS
    assert texts(SET, split="test_unique") == ["a dog"]
    whole = 2 * 30 * len(PICTURE)
    assert sum(end - start for _, start, end in hub.read) < whole / 2


def test_filters_and_drawing(hub):
    kept = texts(SET, where=[["prompt_nsfw", "<", 0.1]])
    assert kept == [*CAPTIONS[:3], *CAPTIONS[30:33]]
    drawn = texts(SET, where=[["prompt_nsfw", "<", 0.1]], count=4)
    assert len(drawn) == 4
    assert set(drawn) < set(kept)


def test_named_files_of_a_set(hub):
    assert texts("hub:owner/name/data/train-00001-*") == CAPTIONS[30:]
    assert texts("hub:owner/name/benchmark.json", revision=loopback_hub.SHA) == ["a bird", "a fish"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"source": SET, "split": "test"}, "no split 'test'.*test_unique-00000.*as hub:owner/name/FILES"),
        ({"source": "hub:owner/name/none.parquet"}, "has no such file"),
        ({"source": "hub:owner/other"}, "hub:owner/other cannot be read: FileNotFoundError"),
        ({"source": SET, "revision": "elsewhere"}, "cannot be read: FileNotFoundError"),
        ({"source": "hub:name"}, "is written hub:owner/name"),
        ({"source": "hub:owner/name/benchmark.json", "split": "train"}, "a split does not apply"),
        ({"source": SET, "column": "prompt"}, r"no column 'prompt' \(prompts.column\); .* are caption"),
        ({"source": SET, "column": "jpg_0"}, "jpg_0 is of type binary, not text"),
        ({"source": SET, "where": [["nsfw", "<", 1]]}, r"no column 'nsfw' \(prompts.where\)"),
        ({"source": SET, "where": [["caption", "<", 1]]}, "hub:owner/name cannot be read: .*string"),
    ],
)  # fmt: skip
def test_faults_are_named(hub, fields, message):
    with pytest.raises(PromptsError, match=message):
        load_prompts(PromptsSection(**fields), 0)


def test_an_unreachable_hub(hub, monkeypatch):
    loopback_hub.aim(monkeypatch, "http://127.0.0.1:9")
    with pytest.raises(PromptsError, match="hub:owner/name cannot be read: ConnectError"):
        load_prompts(PromptsSection(source=SET), 0)
