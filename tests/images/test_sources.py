"""Data sets of images as people have them, written to disk and read back."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import loopback_hub
from capo.images import ExchangeError, images_identity, open_images, summary
from capo.recipe import ImagesSection


def picture(seed, form="PNG", size=(8, 6)):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


def found(path, **section):
    """(caption, images, labels) of every entry."""
    source = open_images(ImagesSection(source=str(path), **section))
    return [(e.prompt.text, [source.read(place) for place in e.images], e.labels) for e in source.entries]


def put(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def test_a_folder_with_json_lines(tmp_path):
    """As `datasets` has it; byte-order mark, CRLF and blank lines are no harm, and captions group."""
    rows = [("a.png", "a cat"), ("sub/b.jpg", " ein Käse "), ("c.webp", "a cat"), ("d.png", "")]
    lines = [json.dumps({"file_name": name, "text": text}, ensure_ascii=False) for name, text in rows]
    put(
        tmp_path,
        {
            name: picture(i, {"g": "PNG", "p": "WEBP"}.get(name[-1], "PNG"))
            for i, (name, _) in enumerate(rows)
        },
    )
    put(tmp_path, {"metadata.jsonl": "\ufeff" + "\r\n\r\n".join(lines)})
    read = [(tmp_path / name).read_bytes() for name, _ in rows]
    assert found(tmp_path) == [("a cat", [read[0], read[2]], None), ("ein Käse", [read[1]], None)]
    source = open_images(ImagesSection(source=str(tmp_path)))
    assert summary(source) == {
        "prompts": 2,
        "images": 3,
        "most_images_a_prompt": 2,
        "with_label": 0,
        "ties": 0,
        "without_caption": 1,
    }


def test_a_folder_with_a_table(tmp_path):
    put(tmp_path, {"metadata.csv": 'file_name,what\nx.png,"one, two"\n', "x.png": picture(0)})
    assert found(tmp_path, column="what") == [("one, two", [picture(0)], None)]
    with pytest.raises(
        ExchangeError, match=r"metadata.csv:2: no column caption or prompt or text .*file_name, what"
    ):
        found(tmp_path)


def test_one_folder_a_prompt(tmp_path):
    put(
        tmp_path,
        {"a dog/1.png": picture(1), "a dog/0.jpeg": picture(0, "JPEG"), "a dog/notes.md": "no image"},
    )
    put(tmp_path, {"00001/prompt.txt": "a red\N{NO-BREAK SPACE}cube\n", "00001/x.png": picture(2)})
    put(tmp_path, {".cache/x.png": picture(3), "blank/prompt.txt": " \n", "blank/x.png": picture(4)})
    assert open_images(ImagesSection(source=str(tmp_path))).without_caption == 1
    assert found(tmp_path) == [
        ("a red\N{NO-BREAK SPACE}cube", [picture(2)], None),
        ("a dog", [picture(0, "JPEG"), picture(1)], None),
    ]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ('{"file_name": "../x.png", "text": "a"}', r"metadata.jsonl:1: ../x.png is outside of the folder"),
        ('{"file_name": "/x.png", "text": "a"}', r":1: /x.png is outside"),
        ('{"file_name": "y.png", "text": "a"}', r":1: .*y.png is not there"),
        ('\n{"file_name": "x.png", "text": 3}', r":2: the caption is 3, not text"),
        ('{"file_name": "x.png", "text": "\\ud800"}', r":1: control character U\+D800"),
        ('{"text": "a"}', r":1: an image is named None"),
        ("[1]", r":1: expected a JSON object"),
        ("{", r":1: not JSON"),
        ("", r"no images with captions; there must be pairs.jsonl, metadata.jsonl"),
    ],
)
def test_a_bad_line_is_named(tmp_path, lines, message):
    put(tmp_path, {"metadata.jsonl": lines, "x.png": picture(0)})
    with pytest.raises(ValueError, match=message):
        found(tmp_path)


@pytest.mark.parametrize("feature", [True, False], ids=["image feature", "bytes"])
def test_parquet_of_images(tmp_path, feature):
    """Rows come back by number whatever the row groups, files and order of asking."""
    images = [picture(i) for i in range(100)]
    captions = [f"prompt {i % 7}" if i % 10 else None for i in range(100)]
    captions[50] = "a \0 caption"
    for part, rows in (("b", range(60, 100)), ("a", range(60))):
        column = [{"bytes": images[i], "path": None} if feature else images[i] for i in rows]
        table = pa.table({"image": column, "text": [captions[i] for i in rows]})
        pq.write_table(table, tmp_path / f"{part}.parquet", row_group_size=25)
    texts = list(dict.fromkeys(text for text in captions if text and "\0" not in text))
    assert found(tmp_path) == [
        (text, [images[i] for i in range(100) if captions[i] == text], None) for text in texts
    ]
    source = open_images(ImagesSection(source=str(tmp_path)))
    assert source.without_caption == 10
    backwards = [place for entry in reversed(source.entries) for place in reversed(entry.images)]
    assert sorted(source.read(place) for place in backwards) == sorted(
        image for image, text in zip(images, captions, strict=True) if text in texts
    )


def test_columns_of_pick_a_pic(tmp_path):
    """A comparison is an entry of its own; a half is a tie; rows that nobody judged have no labels."""
    rows = [
        {"caption": "a", "label_0": 1.0, "label_1": 0.0, "has_label": True, "delta_reward": None},
        {"caption": "a", "label_0": 0.0, "label_1": 1.0, "has_label": True, "delta_reward": 0.5},
        {"caption": "b", "label_0": 0.5, "label_1": 0.5, "has_label": True, "delta_reward": None},
        {"caption": "b", "label_0": 0.0, "label_1": 0.0, "has_label": False, "delta_reward": None},
        {"caption": "c", "label_0": 0.7, "label_1": 0.3, "has_label": None, "delta_reward": None},
    ]
    rows = [row | {"jpg_0": picture(i), "jpg_1": picture(i + 50)} for i, row in enumerate(rows)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet")
    entries = found(tmp_path / "train.parquet")
    assert [images for _, images, _ in entries] == [[row["jpg_0"], row["jpg_1"]] for row in rows]
    assert [(text, labels) for text, _, labels in entries] == [
        ("a", (1.0, 0.0)),
        ("a", (0.25, 0.75)),  # preferred by ΔR = 0.5
        ("b", (0.5, 0.5)),
        ("b", None),
        ("c", (0.7, 0.3)),
    ]
    source = open_images(ImagesSection(source=str(tmp_path)))
    assert len({entry.prompt.prompt_id for entry in source.entries}) == 5
    assert summary(source)["ties"] == 1


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"jpg_0": [b""], "jpg_1": [b""], "label_0": [2.0], "caption": ["a"]},
            r"row 0: label_0 2.0 .* in \[0, 1\]",
        ),
        (
            {"jpg_0": [b""], "jpg_1": [b""], "label_0": ["yes"], "caption": ["a"]},
            r"row 0: label_0 'yes' must be a number",
        ),
        ({"one": [b""], "two": [b""], "text": ["a"]}, r"several columns hold images, of one, two, text"),
        ({"text": ["a"]}, "no column holds images"),
        ({"image": [b""], "text": [""]}, "no images with captions"),
    ],
)
def test_bad_columns_are_named(tmp_path, columns, message):
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    with pytest.raises(ExchangeError, match=message):
        open_images(ImagesSection(source=str(tmp_path)))


def test_hidden_files_are_none_of_the_data_set(tmp_path):
    """As macOS leaves beside each file on foreign disks, and the Hub's client in a folder of its own."""
    pq.write_table(pa.table({"image": [b""], "text": ["a"]}), tmp_path / "x.parquet")
    seen = images_identity(ImagesSection(source=str(tmp_path)))
    put(tmp_path, {"._x.parquet": b"not Parquet", ".cache/y.parquet": b"nor this"})
    assert len(open_images(ImagesSection(source=str(tmp_path))).entries) == 1
    assert images_identity(ImagesSection(source=str(tmp_path))) == seen


def test_what_is_no_data_set_is_refused(tmp_path):
    put(tmp_path, {"x.zip": b"", "x.parquet": b"PAR1 but not really"})
    for name, message in (
        ("nowhere", "is not there"),
        ("x.zip", "neither a folder nor a Parquet file"),
        ("x.parquet", "not readable as Parquet"),
    ):
        with pytest.raises(ExchangeError, match=message):
            open_images(ImagesSection(source=str(tmp_path / name)))
    with pytest.raises(ExchangeError, match="a data set on the Hub is written hub:owner/name"):
        open_images(ImagesSection(source="hub:nobody"))


def test_a_data_set_on_the_hub(tmp_path, monkeypatch):
    """Through the Hub's own client, and with captions and labels read before any image."""
    rows = [
        {
            "caption": f"prompt {i}",
            "jpg_0": picture(i) * 50,
            "jpg_1": picture(i + 50) * 50,
            "label_0": 1.0,
            "label_1": 0.0,
        }
        for i in range(40)
    ]
    (tmp_path / "data").mkdir()
    for part in range(2):
        table = pa.Table.from_pylist(rows[part * 20 : part * 20 + 20])
        pq.write_table(table, tmp_path / f"data/train-{part:05d}-of-00002.parquet", row_group_size=5)
    with loopback_hub.serving(tmp_path) as server:
        loopback_hub.aim(monkeypatch, server.url)
        assert found("hub:owner/name") == [
            (row["caption"], [row["jpg_0"], row["jpg_1"]], (1.0, 0.0)) for row in rows
        ]
        with pytest.raises(ExchangeError, match=r"images.source: hub:owner/name has no split 'dev'"):
            found("hub:owner/name", split="dev")


def test_identity_follows_the_data_and_not_its_place(tmp_path, monkeypatch):
    monkeypatch.setenv("CAPO_CACHE", str(tmp_path / "cache"))

    def identity(name):
        return images_identity(ImagesSection(source=str(tmp_path / name)))

    line = '{"file_name": "x.png", "text": "%s"}'
    put(tmp_path, {"a/metadata.jsonl": line % "one", "a/x.png": picture(0)})
    put(tmp_path, {"b/metadata.jsonl": line % "one", "b/x.png": picture(0), "b/.cache": "hidden"})
    assert identity("a") == identity("b")
    put(tmp_path, {"b/metadata.jsonl": line % "two"})
    assert identity("a") != identity("b")
    put(tmp_path, {"b/metadata.jsonl": line % "one", "b/x.png": picture(0, size=(9, 9))})
    assert identity("a") != identity("b")
    other = bytearray(picture(0))
    other[-20] ^= 1  # of the same size
    put(tmp_path, {"b/x.png": bytes(other)})
    assert identity("a") != identity("b")
    put(tmp_path, {"b/x.png": picture(0)})
    assert identity("a") == identity("b")
    (tmp_path / "cache" / "digests.sqlite").write_bytes(b"no database")
    assert identity("a") == identity("b")
    hub = {name: images_identity(ImagesSection(source="hub:a/b", revision=name)) for name in ("v1", None)}
    assert hub == {"v1": "hub:a/b@v1", None: "hub:a/b@main"}
