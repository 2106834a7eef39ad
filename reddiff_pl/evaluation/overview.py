"""One picture: reference, measurement and restored image side by side, with PSNR."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont


@dataclass
class Row:
    """A row of the picture: (caption, image) from left to right."""

    cells: Sequence[tuple[str, Image.Image]]


def draw_overview(path: Path, groups: Sequence[tuple[str, Sequence[Row]]], scale: int = 3) -> None:
    """Draw groups of rows below their titles, two rows beside each other.

    Args:
        path: where the PNG goes; folders are made.
        groups: (title, rows).
        scale: enlargement of the images, without smoothing.
    """
    font, bold = ImageFont.load_default(15), ImageFont.load_default(19)
    first = groups[0][1][0].cells
    side = first[0][1].width * scale
    gap, caption, title = 8, 24, 44
    row_width = len(first) * (side + gap) + 3 * gap
    row_height = side + caption + gap
    lines = [(len(rows) + 1) // 2 for _, rows in groups]
    size = (2 * row_width + gap, sum(title + n * row_height for n in lines) + gap)
    canvas = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(canvas)
    top = 0
    for (name, rows), n in zip(groups, lines, strict=True):
        pen.text((2 * gap, top + title // 2), name, fill="black", font=bold, anchor="lm")
        for i, row in enumerate(rows):
            left, y = 2 * gap + (i % 2) * row_width, top + title + (i // 2) * row_height
            for text, image in row.cells:
                enlarged = image.convert("RGB").resize((side, side), Image.Resampling.NEAREST)
                canvas.paste(enlarged, (left, y))
                pen.text(
                    (left + side // 2, y + side + caption // 2), text, fill="#333333", font=font, anchor="mm"
                )
                left += side + gap
        top += title + n * row_height
    out = io.BytesIO()
    canvas.save(out, "PNG")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(out.getvalue())
