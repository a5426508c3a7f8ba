"""Hostile image data: malformed and huge images, and tables that name files and addresses outside."""

import csv
import io
import json
import os
import random
import socket
import struct
import threading
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from forks import run_in, warm
from PIL import Image, PngImagePlugin
from tries import Try

RECIPE = """
name: hostile
model: {checkpoint: shapes}
prompts: {source: images}
images: {source: SOURCE}
rewards: [{name: r, source: shapes-aesthetic}]
pairs: {max_skipped: 1}
train: {beta: 1}
evaluate: {prompts: {source: 'shapes:test', count: 4}}
"""


def picture(mode: str = "RGB", size: tuple[int, int] = (24, 20)) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (*size[::-1], 4), dtype=np.uint8)
    return Image.fromarray(pixels, "RGBA").convert(mode)


def saved(form: str, image: Image.Image | None = None, **options: object) -> bytes:
    buffer = io.BytesIO()
    (image or picture()).save(buffer, form, **options)
    return buffer.getvalue()


def rotated_exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "x" * 200
    return exif


def odd_images() -> Iterator[tuple[str, bytes]]:
    """Valid images that are not plain RGB."""
    frames = [picture(size=(8 + 8 * (n == 0), 8)) for n in range(1)] + [picture()] * 3
    text = PngImagePlugin.PngInfo()
    text.add_text("comment", "<script>alert(1)</script>" * 100, zip=True)
    yield "1x1.png", saved("PNG", picture(size=(1, 1)))
    yield "1x1.webp", saved("WEBP", picture(size=(1, 1)))
    yield "1x1.jpg", saved("JPEG", picture(size=(1, 1)))
    yield "strip.png", saved("PNG", picture(size=(1, 3000)))
    yield "gray16.png", saved("PNG", Image.fromarray(np.arange(400, dtype=np.uint16).reshape(20, 20) * 160))
    for mode in ("1", "L", "LA", "P", "RGBA"):
        yield f"{mode}.png", saved("PNG", picture("RGB").convert(mode) if mode == "P" else picture(mode))
    yield "cmyk.jpg", saved("JPEG", picture("CMYK"))
    yield "gray.jpg", saved("JPEG", picture("L"))
    yield "progressive.jpg", saved("JPEG", progressive=True)
    yield "rotated.jpg", saved("JPEG", exif=rotated_exif())
    yield "rotated.png", saved("PNG", exif=rotated_exif())
    yield "rotated.webp", saved("WEBP", exif=rotated_exif())
    yield "lossless.webp", saved("WEBP", lossless=True)
    yield "alpha.webp", saved("WEBP", picture("RGBA"))
    yield "animated.webp", saved("WEBP", frames[1], save_all=True, append_images=frames[1:])
    yield "animated.png", saved("PNG", frames[1], save_all=True, append_images=frames[1:])
    yield "text.png", saved("PNG", pnginfo=text)
    yield "profile.png", saved("PNG", icc_profile=b"not a profile")


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def crafted_png(width: int, height: int, *more: bytes, data: bytes = b"") -> bytes:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(more) + png_chunk(b"IDAT", data) + png_chunk(b"IEND", b"")


def bombs() -> Iterator[tuple[str, bytes]]:
    """Small files that would decode to very much, or that claim to."""
    zeros = zlib.compress(bytes(60_000 * 3_000), 9)
    yield "header-20000.png", crafted_png(20_000, 20_000)
    yield "header-max.png", crafted_png(2**31 - 1, 2**31 - 1)
    yield "zero.png", crafted_png(0, 0)
    yield "zero-height.png", crafted_png(5, 0)
    yield "zeros-20000.png", crafted_png(20_000, 20_000, data=zeros)
    yield (
        "text-bomb.png",
        crafted_png(8, 8, png_chunk(b"zTXt", b"c\0\0" + zeros), data=zlib.compress(bytes(8 * 25))),
    )
    yield (
        "profile-bomb.png",
        crafted_png(8, 8, png_chunk(b"iCCP", b"c\0\0" + zeros), data=zlib.compress(bytes(8 * 25))),
    )
    yield (
        "international-text-bomb.png",
        crafted_png(8, 8, png_chunk(b"iTXt", b"c\0\1\0\0\0" + zeros), data=zlib.compress(bytes(8 * 25))),
    )
    many = png_chunk(b"tEXt", b"a\0" + b"b" * 1000) * 3000
    yield "many-texts.png", crafted_png(8, 8, many, data=zlib.compress(bytes(8 * 25)))
    yield "too-much-data.png", crafted_png(8, 8, data=zeros)
    jpeg = bytearray(saved("JPEG"))
    place = jpeg.index(b"\xff\xc0") + 5
    jpeg[place : place + 4] = struct.pack(">HH", 65_500, 65_500)
    yield "header-65500.jpg", bytes(jpeg)
    webp = bytearray(saved("WEBP", lossless=True))
    place = webp.index(b"VP8L") + 9
    webp[place : place + 4] = struct.pack("<I", (16383 | (16383 << 14)))
    yield "header-16384.webp", bytes(webp)
    yield "plain-16000.webp", saved("WEBP", Image.new("L", (9200, 9200)).convert("RGB"), quality=1, method=0)


def malformed() -> Iterator[tuple[str, bytes]]:
    """Not images, other formats under our endings, and mutations of small valid images."""
    yield "empty.png", b""
    yield "magic.png", b"\x89PNG\r\n\x1a\n"
    yield "magic.jpg", b"\xff\xd8\xff"
    yield "magic.webp", b"RIFF\x00\x00\x00\x00WEBP"
    yield "text.jpg", b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>"
    yield "zip.png", b"PK\x03\x04" + bytes(60)
    for form in ("GIF", "BMP", "TIFF", "AVIF", "PPM", "TGA", "ICO", "EPS", "PDF", "DDS", "JPEG2000"):
        with suppress(KeyError, OSError, ValueError):  # a format that Pillow here cannot write
            yield f"really-{form}.png", saved(form)
    rng = random.Random(0)
    for name, data in [
        *odd_images(),
        ("plain.png", saved("PNG")),
        ("plain.jpg", saved("JPEG")),
        ("plain.webp", saved("WEBP")),
    ]:
        if len(data) > 20_000:
            continue
        stem, _, suffix = name.rpartition(".")
        for n in range(40):
            yield f"mutated-{stem}-{n}.{suffix}", mutated(data, rng)
    try:
        avif = saved("AVIF")
    except (KeyError, OSError):
        return
    for n in range(20):
        yield f"mutated-avif-{n}.png", mutated(avif, rng)


def truncated_images() -> Iterator[tuple[str, bytes]]:
    """Valid images cut off: none of them may be taken, with grey where the rest was."""
    for name, data in (
        ("cut.png", saved("PNG")),
        ("cut.jpg", saved("JPEG")),
        ("cut.webp", saved("WEBP")),
        ("cut-l.webp", saved("WEBP", lossless=True)),
    ):
        stem, _, suffix = name.rpartition(".")
        for part in range(1, 20):
            yield f"{stem}-{part}.{suffix}", data[: len(data) * part // 20]


def mutated(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at = rng.randrange(len(changed))
        match rng.randrange(5):
            case 0:
                changed[at] ^= 1 << rng.randrange(8)
            case 1:
                changed[at : at + 4] = rng.choice((b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff", b"\x80\0\0\0"))
            case 2:
                del changed[at : at + rng.randrange(1, 9)]
            case 3:
                changed[at:at] = rng.randbytes(rng.randrange(1, 9))
            case 4:
                changed[at : at + 16] = changed[:16]
    return bytes(changed)


def imported(folder: Path, images: list[tuple[str, bytes]], batch: int) -> tuple[str, int]:
    """Import images of a folder as the samples of a run; return the fault, and how many cannot be read."""
    source = folder / f"images-{batch}"
    source.mkdir()
    with (source / "metadata.jsonl").open("w") as table:
        for n, (name, data) in enumerate([("good.png", saved("PNG")), *images]):
            (source / f"{n}-{name}").write_bytes(data)
            print(json.dumps({"file_name": f"{n}-{name}", "text": f"prompt {n % 50}"}), file=table)
    return stored(folder, source.name, (0,))


def stored(folder: Path, source: str, codes: tuple[int, ...] = (0, 1)) -> tuple[str, int]:
    """Import a data set as the samples of a run; return the fault, and how many images cannot be read."""
    number = len(list(folder.glob("*.yaml")))
    recipe, run = folder / f"{number}.yaml", f"run-{number}"
    recipe.write_text(RECIPE.replace("SOURCE", source))
    for stage in ("prompts", "generate"):
        ended = run_in(folder, stage, recipe.name, "--run", run, seconds=400)
        if ended.code or ended.fault((), (0,), 400):
            return ended.fault([source], codes, 400), 0
    summary = json.loads((folder / run / "manifests" / "samples.json").read_text())["summary"]
    return "", summary["unreadable"]


def as_image_set(
    case: str, folder: Path, images: list[tuple[str, bytes]], readable: int | None = None
) -> Iterator[Try]:
    """Import images together; in halves if that fails. `readable` of them must be taken, if that is known."""
    fault, unreadable = imported(folder, images, len(list(folder.glob("*.yaml"))))
    if fault and len(images) > 1:
        half = len(images) // 2
        yield from as_image_set(case, folder, images[:half])
        yield from as_image_set(case, folder, images[half:])
        return
    taken = len(images) - unreadable
    if not fault and readable not in (None, taken):
        fault = f"{taken} of {len(images)} were taken, not {readable}"
    for number, (name, _) in enumerate(images):
        yield Try(case, name, fault, "accepted" if number < taken else "rejected")


def outside_names(secret: Path, address: str) -> list[str]:
    """Return names of images that are not files inside a folder of images."""
    return [
        "../secret.png", str(secret), "a/../../secret.png", "/etc/passwd", "..\\secret.png", address,
        f"file://{secret}", "\\\\host\\share\\x.png", "link.png", "folder/secret.png", "pipe.png",
        "device.png", "x" * 5000 + ".png", "a\0b.png", "con", "\x1b[31mred.png", "", ".", "..", "./..",
        "~root/x.png", "$HOME/x.png",
    ]  # fmt: skip


def tables(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield names and faults of tables that name files and addresses outside their folder."""
    secret, source = folder / "secret.png", folder / "outside"
    secret.write_bytes(saved("PNG"))
    address, requests = listen_for_requests()
    names = outside_names(secret, address)
    source.mkdir()
    (source / "link.png").symlink_to(secret)
    (source / "folder").symlink_to(folder)
    os.mkfifo(source / "pipe.png")
    (source / "device.png").symlink_to("/dev/zero")
    (source / "good.png").write_bytes(saved("PNG"))
    for name in names:
        (source / "metadata.jsonl").write_text(json.dumps({"file_name": name, "text": "a"}) + "\n")
        ended = run_in(folder, "data", "show", source.name)
        yield f"table names {name[:30]!r}", ended.fault(["metadata.jsonl"], (1,))
    (source / "metadata.jsonl").unlink()
    with (source / "metadata.csv").open("w", newline="") as out:
        csv.writer(out).writerows([["file_name", "text"], ["../secret.png", "=cmd|' /C calc'!A0"]])
    ended = run_in(folder, "data", "show", source.name)
    yield "CSV names '../secret.png'", ended.fault(["metadata.csv"], (1,))
    cells = [{"bytes": None, "path": name} for name in [*names, None]]
    good = {"bytes": saved("PNG"), "path": "/etc/passwd"}
    texts = [f"prompt {n}" for n in range(len(cells) + 1)]
    pq.write_table(pa.table({"text": texts, "image": pa.array([*cells, good])}), folder / "paths.parquet")
    fault, unreadable = stored(folder, "paths.parquet")
    fault = fault or "sent a request" * bool(requests)
    for cell in cells:
        wrong = "an image was read from elsewhere" if unreadable != len(cells) else ""
        yield f"Parquet with path {str(cell['path'])[:30]!r}", fault or wrong


def columns(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield names and faults of Parquet files with columns of the wrong kinds."""
    compared: dict[str, Any] = {"text": ["a"], "jpg_0": [b""], "jpg_1": [b""]}
    kinds: list[dict[str, Any]] = [
        {"text": ["a"], "image": ["/etc/passwd"]},
        {"text": ["a"], "image": [[b"x"]]},
        {"text": [1], "image": [b"x"]},
        {"text": [None], "image": [b"x"]},
        {"text": [["a"]], "image": [b"x"]},
        {"text": [b"\xff"], "image": [b"x"]},
        {"image": [b"x"]},
        {**compared, "label_0": [float("nan")]},
        {**compared, "label_0": ["x"]},
        {**compared, "label_0": [7.0]},
        {"text": ["a"], "jpg_0": [1], "jpg_1": [2], "label_0": [1]},
        {"text": pa.array([], pa.string()), "image": pa.array([], pa.binary())},
        {"te\x1b[31mxt": ["a"], "image": [b""]},
        {"text": ["a\x1b[31m"], "image": [b""]},
        {"text": ["x" * 100_000], "image": [b""]},
    ]
    for number, each in enumerate(kinds):
        source = folder / f"columns-{number}.parquet"
        pq.write_table(pa.table(each), source)
        yield source.name, run_in(folder, "data", "show", source.name).fault([source.name], (0, 1))


def broken_parquet(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield names and faults of a Parquet file of images with bytes changed all over."""
    good = [saved("PNG", picture(size=(8, 8 + n))) for n in range(8)]
    source = folder / "broken.parquet"
    texts = [f"prompt {n}" for n in range(8)]
    pq.write_table(pa.table({"text": texts, "image": good}), source, row_group_size=4)
    data, rng = source.read_bytes(), random.Random(1)
    for number in range(40):
        source.write_bytes(mutated(data, rng))
        yield f"change {number}", stored(folder, source.name)[0]


def listen_for_requests() -> tuple[str, list[str]]:
    """Return the address of a server that no command may contact, and the list of what it was asked."""

    listening = socket.create_server(("127.0.0.1", 0))
    requests: list[str] = []

    def serve() -> None:
        while True:
            connection, _ = listening.accept()
            requests.append(connection.recv(1000).decode(errors="replace"))
            connection.close()

    threading.Thread(target=serve, daemon=True).start()
    return f"http://127.0.0.1:{listening.getsockname()[1]}/x.png", requests


def attack(folder: Path) -> Iterator[Try]:
    """Import hostile images, and look at hostile tables of images."""
    small = ("prompts.count=1", "generate.samples_per_prompt=2", "benchmarks=[]")
    settings = [word for setting in small for word in ("--set", setting)]
    for stage in ("prompts", "generate"):
        warm(folder, stage, "shapes", "--run", "warm", *settings)
    odd, cut = list(odd_images()), list(truncated_images())
    yield from as_image_set("odd but valid images", folder, odd, len(odd))
    yield from as_image_set("truncated images", folder, cut, 0)
    yield from as_image_set("image bombs", folder, list(bombs()))
    yield from as_image_set("malformed images", folder, list(malformed()))
    for case, faults in (
        ("paths and addresses outside", tables(folder)),
        ("columns of the wrong kind", columns(folder)),
        ("broken Parquet", broken_parquet(folder)),
    ):
        for name, fault in faults:
            yield Try(case, name, fault)
