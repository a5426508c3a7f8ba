"""Hostile image data: malformed and huge images, and tables that name files and addresses outside."""

import io
import os
import random
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, PngImagePlugin
from tries import Try
from watched import forked, warm

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
    """Import images as the samples of a run; return the fault, and how many could not be read."""
    source, run = folder / f"images-{batch}", f"run-{batch}"
    source.mkdir()
    with (source / "metadata.jsonl").open("w") as table:
        for n, (name, data) in enumerate([("good.png", saved("PNG")), *images]):
            (source / f"{n}-{name}").write_bytes(data)
            print(f'{{"file_name": "{n}-{name}", "text": "prompt {n % 50}"}}', file=table)
    recipe = folder / f"{batch}.yaml"
    recipe.write_text(RECIPE.replace("SOURCE", source.name))
    forked("prompts", recipe.name, "--run", run, folder=folder)
    ended = forked("generate", recipe.name, "--run", run, folder=folder, seconds=300)
    fault = ended.fault((), (0,))
    if fault:
        return fault, 0
    import json

    summary = json.loads((folder / run / "samples" / "manifest.json").read_text())["summary"]
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


def tables(folder: Path) -> Iterator[tuple[str, Callable[[], str]]]:
    """Tables and folders that point outside."""
    secret = folder / "secret.png"
    secret.write_bytes(saved("PNG"))
    served, requests = listen_for_requests()
    outside = [
        "../secret.png",
        str(secret),
        "a/../../secret.png",
        "/etc/passwd",
        "..\\secret.png",
        served,
        f"file://{secret}",
        "\\\\host\\share\\x.png",
        "link.png",
        "folder/secret.png",
        "pipe.png",
        "device.png",
        "x" * 5000 + ".png",
        "a\0b.png",
        "con",
        "\x1b[31mred.png",
        "",
        ".",
        "..",
        "./..",
        "~root/x.png",
        "$HOME/x.png",
    ]

    def folder_table(n: int, name: str, as_csv: bool) -> str:
        import csv
        import json

        source = folder / f"outside-{n}-{as_csv}"
        source.mkdir()
        (source / "link.png").symlink_to(secret)
        (source / "folder").symlink_to(folder)
        os.mkfifo(source / "pipe.png")
        (source / "device.png").symlink_to("/dev/zero")
        (source / "good.png").write_bytes(saved("PNG"))
        with (source / f"metadata.{'csv' if as_csv else 'jsonl'}").open("w", newline="") as out:
            if as_csv:
                csv.writer(out).writerows([["file_name", "text"], [name, "a"]])
            else:
                out.write(json.dumps({"file_name": name, "text": "a"}) + "\n")
        ended = forked("data", "show", source.name, folder=folder)
        return ended.fault(["metadata"], (1,))

    for n, name in enumerate(outside):
        yield f"table names {name[:30]!r}", lambda n=n, name=name: folder_table(n, name, False)
        yield f"CSV names {name[:30]!r}", lambda n=n, name=name: folder_table(n, name, True)

    def parquet(n: int, column: object, kind: str) -> str:
        source = folder / f"parquet-{n}-{kind}.parquet"
        pq.write_table(pa.table({"text": ["a", "b"], "image": column}), source)
        recipe = folder / f"p{n}-{kind}.yaml"
        recipe.write_text(RECIPE.replace("SOURCE", source.name))
        forked("prompts", recipe.name, "--run", f"p{n}-{kind}", folder=folder)
        ended = forked("generate", recipe.name, "--run", f"p{n}-{kind}", folder=folder)
        if ended.code == 0:
            rows = pq.read_table(folder / f"p{n}-{kind}" / "samples" / "shard-00000.parquet").num_rows
            if rows != 1:
                return f"{rows} images were taken"
        return ended.fault([source.name], (0, 1)) or "sent a request" * bool(requests)

    good = saved("PNG")
    for n, name in enumerate([*outside, None]):
        column = pa.array([{"bytes": None, "path": name}, {"bytes": good, "path": name}])
        yield f"Parquet with path {str(name)[:30]!r}", lambda n=n, column=column: parquet(n, column, "path")

    def columns(n: int, columns: dict[str, object]) -> str:
        source = folder / f"columns-{n}.parquet"
        pq.write_table(pa.table(columns), source)
        return forked("data", "show", source.name, folder=folder).fault([source.name], (0, 1))

    nasty: list[dict[str, object]] = [
        {"text": ["a"], "image": ["/etc/passwd"]},
        {"text": ["a"], "image": [[b"x"]]},
        {"text": [1], "image": [b"x"]},
        {"text": [None], "image": [b"x"]},
        {"text": [["a"]], "image": [b"x"]},
        {"text": [b"\xff"], "image": [b"x"]},
        {"image": [b"x"]},
        {"text": ["a"], "jpg_0": [b""], "jpg_1": [b""], "label_0": [float("nan")]},
        {"text": ["a"], "jpg_0": [b""], "jpg_1": [b""], "label_0": ["x"]},
        {"text": ["a"], "jpg_0": [b""], "jpg_1": [b""], "label_0": [7.0]},
        {"text": ["a"], "jpg_0": [1], "jpg_1": [2], "label_0": [1]},
        {"text": pa.array([], pa.string()), "image": pa.array([], pa.binary())},
        {"te\x1b[31mxt": ["a"], "image": [b""]},
        {"text": ["a\x1b[31m"], "image": [b""]},
        {"text": ["x" * 100_000], "image": [b""]},
    ]
    for n, each in enumerate(nasty):
        yield f"Parquet columns {n}", lambda n=n, each=each: columns(n, each)


def broken_parquet(folder: Path) -> Iterator[tuple[str, Callable[[], str]]]:
    """A Parquet file of images with bytes changed all over: refused, or with the images that it had."""
    good = [saved("PNG", picture(size=(8, 8 + n))) for n in range(8)]
    source = folder / "broken.parquet"
    pq.write_table(
        pa.table({"text": [f"prompt {n}" for n in range(8)], "image": good}), source, row_group_size=4
    )
    data, rng = source.read_bytes(), random.Random(1)
    recipe = folder / "broken.yaml"
    recipe.write_text(RECIPE.replace("SOURCE", source.name))

    def attempt(n: int) -> str:
        source.write_bytes(mutated(data, rng))
        first = forked("prompts", recipe.name, "--run", f"broken-{n}", folder=folder)
        if first.code:
            return first.fault(["broken.parquet"], (1,))
        return forked("generate", recipe.name, "--run", f"broken-{n}", folder=folder).fault(
            ["broken.parquet"], (0, 1)
        )

    for n in range(60):
        yield f"change {n}", lambda n=n: attempt(n)


def listen_for_requests() -> tuple[str, list[str]]:
    """Return the address of a server that no command may contact, and the list of what it was asked."""
    import socket

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
        warm(stage, "shapes", "--run", "warm", *settings, folder=folder)
    odd, cut = list(odd_images()), list(truncated_images())
    yield from as_image_set("odd but valid images", folder, odd, len(odd))
    yield from as_image_set("truncated images", folder, cut, 0)
    yield from as_image_set("image bombs", folder, list(bombs()))
    yield from as_image_set("malformed images", folder, list(malformed()))
    for name, look in tables(folder):
        yield Try("paths and addresses outside", name, look())
    for name, look in broken_parquet(folder):
        yield Try("broken Parquet", name, look())
