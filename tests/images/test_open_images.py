"""Data sets of images in all supported layouts, written to disk and read back."""

import io
import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import loopback_hub
from capo.images import ImagesError, count_entries, images_identity, open_images
from capo.recipe import ImagesSection


def picture(seed, form="PNG", size=(8, 6)):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


def read_all(path, **section):
    """Return (caption, images, labels) of every entry."""
    source = open_images(ImagesSection(source=str(path), **section))
    return [(e.prompt.text, [source.read(place) for place in e.images], e.labels) for e in source.entries]


def write(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def test_a_folder_with_json_lines(tmp_path):
    """As `datasets` reads it, with a byte-order mark, CRLF and blank lines; equal captions are one entry."""
    rows = [("a.png", "a cat"), ("sub/b.jpg", " ein Käse "), ("c.webp", "a cat"), ("d.png", "")]
    lines = [json.dumps({"file_name": name, "text": text}, ensure_ascii=False) for name, text in rows]
    write(
        tmp_path,
        {
            name: picture(i, {"g": "PNG", "p": "WEBP"}.get(name[-1], "PNG"))
            for i, (name, _) in enumerate(rows)
        },
    )
    write(tmp_path, {"metadata.jsonl": "\ufeff" + "\r\n\r\n".join(lines)})
    read = [(tmp_path / name).read_bytes() for name, _ in rows]
    assert read_all(tmp_path) == [("a cat", [read[0], read[2]], None), ("ein Käse", [read[1]], None)]
    source = open_images(ImagesSection(source=str(tmp_path)))
    assert count_entries(source) == {
        "prompts": 2,
        "images": 3,
        "most_images_a_prompt": 2,
        "with_label": 0,
        "ties": 0,
        "without_caption": 1,
    }


def test_a_folder_with_a_table(tmp_path):
    write(tmp_path, {"metadata.csv": 'file_name,what\nx.png,"one, two"\n', "x.png": picture(0)})
    assert read_all(tmp_path, column="what") == [("one, two", [picture(0)], None)]
    with pytest.raises(
        ImagesError, match=r"metadata.csv:2: no column caption or prompt or text .*file_name, what"
    ):
        read_all(tmp_path)


def test_a_folder_for_each_prompt(tmp_path):
    write(
        tmp_path,
        {"a dog/1.png": picture(1), "a dog/0.jpeg": picture(0, "JPEG"), "a dog/notes.md": "no image"},
    )
    write(tmp_path, {"00001/prompt.txt": "a red\N{NO-BREAK SPACE}cube\n", "00001/x.png": picture(2)})
    write(tmp_path, {".cache/x.png": picture(3), "blank/prompt.txt": " \n", "blank/x.png": picture(4)})
    assert open_images(ImagesSection(source=str(tmp_path))).without_caption == 1
    assert read_all(tmp_path) == [
        ("a red\N{NO-BREAK SPACE}cube", [picture(2)], None),
        ("a dog", [picture(0, "JPEG"), picture(1)], None),
    ]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ('{"file_name": "../x.png", "text": "a"}', r"metadata.jsonl:1: ../x.png is outside the folder"),
        ('{"file_name": "/x.png", "text": "a"}', r":1: /x.png is outside"),
        ('{"file_name": "y.png", "text": "a"}', r":1: .y.png.: no such file"),
        (json.dumps({"file_name": "y" * 5000, "text": "a"}), r":1: .yyy.*: no such file"),
        ('{"file_name": "y\\u0000", "text": "a"}', r":1: .y.*: no such file"),
        ('\n{"file_name": "x.png", "text": 3}', r":2: the caption is 3, not text"),
        ('{"file_name": "x.png", "text": "\\ud800"}', r":1: control character U\+D800"),
        ('{"text": "a"}', r":1: an image is named None"),
        ("[1]", r":1: expected a JSON object"),
        ("{", r":1: not JSON"),
        ("", r"no images with captions; expected pairs.jsonl, metadata.jsonl"),
    ],
)
def test_errors_name_the_line(tmp_path, lines, message):
    write(tmp_path, {"metadata.jsonl": lines, "x.png": picture(0)})
    with pytest.raises(ValueError, match=message):
        read_all(tmp_path)


def test_damaged_parquet_is_named_and_its_other_rows_are_read(tmp_path):
    images = [picture(i) for i in range(4)]
    table = pa.table({"text": ["a", "b", "c", "d"], "image": images})
    path = tmp_path / "x.parquet"
    pq.write_table(table, path, row_group_size=2, compression="none", use_dictionary=False)
    data, metadata = path.read_bytes(), pq.ParquetFile(path).metadata

    def damage(group, column):
        start = metadata.row_group(group).column(column).data_page_offset
        path.write_bytes(data[:start] + b"\xff" * 8 + data[start + 8 :])

    damage(0, 1)
    source = open_images(ImagesSection(source=str(path)))
    places = [entry.images[0] for entry in source.entries]
    for place in (places[0], places[1], places[0]):
        with pytest.raises(ValueError, match="damaged rows"):
            source.read(place)
    assert [source.read(place) for place in places[2:]] == images[2:]
    damage(1, 0)
    with pytest.raises(ImagesError, match=r"x\.parquet: not readable as Parquet"):
        open_images(ImagesSection(source=str(path)))


@pytest.mark.parametrize("feature", [True, False], ids=["image feature", "bytes"])
def test_parquet_of_images(tmp_path, feature):
    """Any row can be read in any order, across row groups and files."""
    images = [picture(i) for i in range(100)]
    captions = [f"prompt {i % 7}" if i % 10 else None for i in range(100)]
    captions[50] = "a \0 caption"
    for part, rows in (("b", range(60, 100)), ("a", range(60))):
        column = [{"bytes": images[i], "path": None} if feature else images[i] for i in rows]
        table = pa.table({"image": column, "text": [captions[i] for i in rows]})
        pq.write_table(table, tmp_path / f"{part}.parquet", row_group_size=25)
    texts = list(dict.fromkeys(text for text in captions if text and "\0" not in text))
    assert read_all(tmp_path) == [
        (text, [images[i] for i in range(100) if captions[i] == text], None) for text in texts
    ]
    source = open_images(ImagesSection(source=str(tmp_path)))
    assert source.without_caption == 10
    backwards = [place for entry in reversed(source.entries) for place in reversed(entry.images)]
    assert sorted(source.read(place) for place in backwards) == sorted(
        image for image, text in zip(images, captions, strict=True) if text in texts
    )


def test_columns_of_pick_a_pic(tmp_path):
    """Every comparison is an entry; a half is a tie; rows without a judgment have no labels."""
    rows = [
        {"caption": "a", "label_0": 1.0, "label_1": 0.0, "has_label": True, "delta_reward": None},
        {"caption": "a", "label_0": 0.0, "label_1": 1.0, "has_label": True, "delta_reward": 0.5},
        {"caption": "b", "label_0": 0.5, "label_1": 0.5, "has_label": True, "delta_reward": None},
        {"caption": "b", "label_0": 0.0, "label_1": 0.0, "has_label": False, "delta_reward": None},
        {"caption": "c", "label_0": 0.7, "label_1": 0.3, "has_label": None, "delta_reward": None},
    ]
    rows = [row | {"jpg_0": picture(i), "jpg_1": picture(i + 50)} for i, row in enumerate(rows)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet")
    entries = read_all(tmp_path / "train.parquet")
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
    assert count_entries(source)["ties"] == 1


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
def test_errors_name_the_column(tmp_path, columns, message):
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    with pytest.raises(ImagesError, match=message):
        open_images(ImagesSection(source=str(tmp_path)))


def test_hidden_files_are_ignored(tmp_path):
    """macOS and the Hub's client create such files."""
    pq.write_table(pa.table({"image": [b""], "text": ["a"]}), tmp_path / "x.parquet")
    seen = images_identity(ImagesSection(source=str(tmp_path)))
    write(tmp_path, {"._x.parquet": b"not Parquet", ".cache/y.parquet": b"nor this"})
    assert len(open_images(ImagesSection(source=str(tmp_path))).entries) == 1
    assert images_identity(ImagesSection(source=str(tmp_path))) == seen


def test_only_regular_files_inside_the_folder_count(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("CAPO_QUIET")
    folder = tmp_path / "images"
    write(tmp_path, {"secret.txt": "secret", "other/x.png": picture(9), "images/a dog/0.png": picture(0)})
    os.mkfifo(folder / "a dog/pipe.png")
    links = {"out.png": tmp_path / "other/x.png", "zero.png": "/dev/zero", "1.png": folder / "a dog/0.png"}
    for name, target in links.items():
        (folder / "a dog" / name).symlink_to(target)
    (folder / "a cat").symlink_to(tmp_path / "other")
    identity = images_identity(ImagesSection(source=str(folder)))
    assert read_all(folder) == [("a dog", [picture(0)] * 2, None)]
    skipped = capsys.readouterr().err
    for name in ("a dog/pipe.png", "a dog/out.png", "a dog/zero.png", "a cat"):
        assert f"{name!r} (" in skipped
    write(tmp_path, {"other/x.png": picture(8)})
    assert images_identity(ImagesSection(source=str(folder))) == identity


def test_a_listed_link_to_outside_is_rejected(tmp_path):
    folder = tmp_path / "images"
    write(tmp_path, {"x.png": picture(0), "images/metadata.jsonl": '{"file_name": "x.png", "text": "a"}'})
    (folder / "x.png").symlink_to(tmp_path / "x.png")
    with pytest.raises(ImagesError, match=r"metadata.jsonl:1: 'x.png': a link to outside the folder"):
        read_all(folder)


@pytest.mark.parametrize("name", ["a dog/prompt.txt", "metadata.jsonl", "pairs.jsonl"])
def test_captions_never_come_from_outside_the_folder(tmp_path, name):
    folder = tmp_path / "images"
    write(
        tmp_path,
        {"secret": '{"file_name": "a dog/0.png", "text": "secret"}', "images/a dog/0.png": picture(0)},
    )
    (folder / name).symlink_to(tmp_path / "secret")
    with pytest.raises(ImagesError, match=f"'{name}': a link to outside the folder"):
        read_all(folder)
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(ImagesError, match=f"'{name}': not a regular file"):
        read_all(folder)


def test_an_image_replaced_by_a_link_after_opening_is_rejected(tmp_path):
    write(tmp_path, {"images/a dog/0.png": picture(0), "x.png": picture(1)})
    source = open_images(ImagesSection(source=str(tmp_path / "images")))
    (tmp_path / "images/a dog/0.png").unlink()
    (tmp_path / "images/a dog/0.png").symlink_to(tmp_path / "x.png")
    with pytest.raises(ImagesError, match="a link to outside"):
        source.read(source.entries[0].images[0])


@pytest.mark.parametrize("caption", ["a \x1b[31mdog", "x" * 100_000], ids=["escape", "long"])
def test_captions_follow_the_rule_for_prompts(tmp_path, caption):
    write(
        tmp_path, {"metadata.jsonl": json.dumps({"file_name": "x.png", "text": caption}), "x.png": picture(0)}
    )
    with pytest.raises(ValueError, match=r"metadata.jsonl:1: .* in the caption"):
        read_all(tmp_path)
    (tmp_path / "metadata.jsonl").unlink()
    rows = {"image": [picture(0), picture(1)], "text": [caption, "a cat"]}
    pq.write_table(pa.table(rows), tmp_path / "x.parquet")
    assert read_all(tmp_path) == [("a cat", [picture(1)], None)]


def test_captions_beside_the_images(tmp_path):
    write(
        tmp_path,
        {
            "a.png": picture(0), "a.txt": "\ufeffa red\tcat,\r\nasleep \n", "b/b.JPG": picture(1, "JPEG"),
            "b/b.txt": "a dog", "b/c.png": picture(2), "b/empty.png": picture(3), "b/empty.txt": " ",
            "notes.txt": "not a caption",
        },
    )  # fmt: skip
    assert read_all(tmp_path) == [
        ("a red\tcat,\nasleep", [picture(0)], None),
        ("a dog", [picture(1, "JPEG")], None),
    ]
    assert open_images(ImagesSection(source=str(tmp_path))).without_caption == 2
    write(tmp_path, {"a.txt": "a \x1b[31mcat"})
    with pytest.raises(ValueError, match=r"a\.txt: .* in the caption"):
        read_all(tmp_path)


def test_the_file_of_a_folders_prompt_is_not_beside_an_image(tmp_path):
    write(tmp_path, {"x/prompt.png": picture(0), "x/other.png": picture(1), "x/prompt.txt": "a cat"})
    assert read_all(tmp_path) == [("a cat", [picture(1), picture(0)], None)]


@pytest.mark.parametrize("ending", ["gif", "bmp", "TIFF"])
def test_images_of_other_formats_are_rejected_by_name(tmp_path, ending):
    write(tmp_path, {"a cat/0.png": picture(0), f"a cat/moving.{ending}": b"GIF89a"})
    with pytest.raises(ImagesError, match=rf"a cat/moving\.{ending}: .*PNG, JPEG or WebP"):
        read_all(tmp_path)
    row = {"file_name": f"a cat/moving.{ending}", "text": "a cat"}
    write(tmp_path, {"metadata.jsonl": json.dumps(row)})
    with pytest.raises(ImagesError, match=rf"metadata.jsonl:1: .*moving\.{ending}"):
        read_all(tmp_path)


def test_the_column_that_is_taken_is_named_once(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("CAPO_QUIET", "0")
    rows = [{"file_name": f"{n}.png", "text": "no", "caption": f"cat {n}", "prompt": "no"} for n in (0, 1)]
    write(
        tmp_path,
        {"0.png": picture(0), "1.png": picture(1), "metadata.jsonl": "\n".join(map(json.dumps, rows))},
    )
    assert [caption for caption, *_ in read_all(tmp_path)] == ["cat 0", "cat 1"]
    (line,) = capsys.readouterr().err.splitlines()
    assert "column 'caption', not 'prompt', 'text'" in line
    assert "metadata.jsonl:" in line
    assert "images.column" in line


def test_invalid_sources_are_rejected(tmp_path):
    write(tmp_path, {"x.zip": b"", "x.parquet": b"PAR1 but not really"})
    for name, message in (
        ("nowhere", "does not exist"),
        ("x.zip", "neither a folder nor a Parquet file"),
        ("x.parquet", "not readable as Parquet"),
    ):
        with pytest.raises(ImagesError, match=message):
            open_images(ImagesSection(source=str(tmp_path / name)))
    with pytest.raises(ImagesError, match="a data set on the Hub is written hub:owner/name"):
        open_images(ImagesSection(source="hub:owner"))


def test_a_data_set_on_the_hub(tmp_path, monkeypatch):
    """Read by the Hub's own client, captions and labels before any image."""
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
        assert read_all("hub:owner/name") == [
            (row["caption"], [row["jpg_0"], row["jpg_1"]], (1.0, 0.0)) for row in rows
        ]
        with pytest.raises(ImagesError, match=r"images.source: hub:owner/name has no split 'dev'"):
            read_all("hub:owner/name", split="dev")


def test_identity_depends_on_the_data_and_not_on_its_location(tmp_path):
    def identity(name):
        return images_identity(ImagesSection(source=str(tmp_path / name)))

    line = '{"file_name": "x.png", "text": "%s"}'
    write(tmp_path, {"a/metadata.jsonl": line % "one", "a/x.png": picture(0)})
    write(tmp_path, {"b/metadata.jsonl": line % "one", "b/x.png": picture(0), "b/.cache": "hidden"})
    assert identity("a") == identity("b")
    write(tmp_path, {"b/metadata.jsonl": line % "two"})
    assert identity("a") != identity("b")
    write(tmp_path, {"b/metadata.jsonl": line % "one", "b/x.png": picture(0, size=(9, 9))})
    assert identity("a") != identity("b")
    other = bytearray(picture(0))
    other[-20] ^= 1  # of the same size
    write(tmp_path, {"b/x.png": bytes(other)})
    assert identity("a") != identity("b")
    write(tmp_path, {"b/x.png": picture(0)})
    assert identity("a") == identity("b")
    hub = {name: images_identity(ImagesSection(source="hub:a/b", revision=name)) for name in ("v1", None)}
    assert hub == {"v1": "hub:a/b@v1", None: "hub:a/b@main"}
