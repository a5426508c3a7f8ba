"""Draw `base-and-aligned.png` from a finished run: `python docs/images/base_and_aligned.py runs/shapes`.

The first evaluation prompt of every category, with its first six seeds: no image is picked by eye.
"""

import io
import sys
from itertools import islice
from pathlib import Path

import pyarrow.parquet as pq
from PIL import Image, ImageDraw, ImageFont

SEEDS, PER_CATEGORY, ENLARGED = 6, 1, 64
MARGIN, GUTTER, LINE = 16, 28, 22


def main(run: Path) -> None:
    """Write the picture next to this file."""
    prompts = pq.read_table(
        run / "baseline/prompts.parquet", columns=["prompt_id", "text", "category"]
    ).to_pylist()
    shown = []
    for category in dict.fromkeys(row["category"] for row in prompts):
        shown += islice((row for row in prompts if row["category"] == category), PER_CATEGORY)
    panels = {"base": _images(run / "baseline/images/base"), "tuned": _images(run / "evaluate/images/tuned")}
    strip = SEEDS * ENLARGED
    width, height = 2 * MARGIN + 2 * strip + GUTTER, 2 * MARGIN + 26 + len(shown) * (ENLARGED + LINE)
    sheet = Image.new("RGB", (width, height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=15)
    for column, title in enumerate(("base", "aligned")):
        draw.text(
            (MARGIN + column * (strip + GUTTER), MARGIN - 4), title, "black", ImageFont.load_default(size=19)
        )
    for row, prompt in enumerate(shown):
        top = MARGIN + 26 + row * (ENLARGED + LINE)
        draw.text((MARGIN, top), prompt["text"], "#444444", font)
        for column, model in enumerate(("base", "tuned")):
            for seed in range(SEEDS):
                left = MARGIN + column * (strip + GUTTER) + seed * ENLARGED
                picture = panels[model][prompt["prompt_id"], seed].resize(
                    (ENLARGED, ENLARGED), Image.Resampling.NEAREST
                )
                sheet.paste(picture, (left, top + LINE - 2))
    sheet.save(Path(__file__).parent / "base-and-aligned.png", optimize=True)


def _images(folder: Path) -> dict[tuple[str, int], Image.Image]:
    found = {}
    for shard in sorted(folder.glob("shard-*.parquet")):
        for row in pq.read_table(shard, columns=["prompt_id", "sample", "image"]).to_pylist():
            found[row["prompt_id"], row["sample"]] = Image.open(io.BytesIO(row["image"]["bytes"])).convert(
                "RGB"
            )
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]))
