"""Burned-in text on real radiographs: recall of drawn text, what else is covered, laterality marks kept, and time.

Parameters were chosen on the first half of the images (by name; patients don't cross the halves); the other half is
the one to report. The radiographs carry marks of their own: `burned_in_marks.csv` holds the boxes found in them that
show one (letters, arrows, technicians' initials), each judged by eye. What is covered outside those boxes is false.

    python -m tests.bench.burned_in_text [--half reported|chosen|both] [--seed 20261123] [--full-resolution]

The radiographs: chestxray14/images_1024 in PRICHEXY_REAL_DATA, by default ../shared/data beside the checkout.
"""

import argparse
import csv
import importlib.metadata
import os
import statistics
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from prichexy.deid.burned_in import Cleaned, clean, require_networks
from prichexy.errors import Quarantined
from tests.bench import report
from tests.deid.drawn_text import Marked, marked

MARKS = Path(__file__).with_name("burned_in_marks.csv")
BESIDE = Path(__file__).resolve().parents[3] / "shared" / "data"

Mask = NDArray[np.bool_]


def radiographs(half: str) -> list[Path]:
    folder = Path(os.environ.get("PRICHEXY_REAL_DATA", BESIDE)) / "chestxray14" / "images_1024"
    files = sorted(folder.glob("*.png"))
    if not files:
        raise SystemExit("no radiographs: set PRICHEXY_REAL_DATA to the folder that holds chestxray14/")
    middle = len(files) // 2
    while middle and files[middle].name[:8] == files[middle - 1].name[:8]:
        middle -= 1  # a patient's images stay together
    return {"chosen": files[:middle], "reported": files[middle:], "both": files}[half]


def own_marks() -> dict[str, list[tuple[int, int, int, int]]]:
    """Boxes (x, y, width, height) of the marks that an image came with, by file name."""
    boxes: dict[str, list[tuple[int, int, int, int]]] = {}
    with MARKS.open(newline="") as lines:
        for row in csv.DictReader(lines):
            boxes.setdefault(row["image"], []).append((int(row["x"]), int(row["y"]), int(row["w"]), int(row["h"])))
    return boxes


def covered(cleaned: Cleaned) -> Mask:
    boxes = [(r.x, r.y, r.width, r.height) for r in cleaned.regions if r.kind == "text"]
    return _filled(boxes, cleaned.pixels.shape)


def _filled(boxes: list[tuple[int, int, int, int]], shape: tuple[int, ...]) -> Mask:
    mask = np.zeros(shape, bool)
    for x, y, w, h in boxes:
        mask[y : y + h, x : x + w] = True
    return mask


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    require_networks()
    cv2.setNumThreads(1)
    marks, inked, hit, false, unmarked, all_covered = own_marks(), 0, 0, 0, 0, 0
    set_aside = 0
    by_text: list[tuple[float, int, str]] = []
    kept, named, seconds, megapixels = [], [], [], []
    files = radiographs(arguments.half)
    for number, file in enumerate(files):
        image = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
        untouched = covered(clean(image, 8, "redact", arguments.full_resolution))
        own = _filled(marks.get(file.name, []), image.shape)
        false += int((untouched & ~own).sum())
        unmarked += int((~own).sum())
        all_covered += int(untouched.sum())

        drawn: Marked = marked(image, arguments.seed + number)
        start = time.process_time()
        try:
            cleaned = clean(drawn.pixels, 8, "redact", arguments.full_resolution)
        except Quarantined:  # too much of it looks like text: nothing of it is published
            set_aside += 1
            continue
        seconds.append(time.process_time() - start)
        megapixels.append(image.size / 1e6)
        cover = covered(cleaned)
        for text in drawn.texts:
            found = int(cover[text.ink].sum())
            hit, inked = hit + found, inked + int(text.ink.sum())
            by_text.append((found / int(text.ink.sum()), text.size, text.style))
        kept.append(bool(cover[drawn.mark].mean() < 0.05))
        named.append(any(r.letter == drawn.letter and bool(drawn.mark[_place(r)].any()) for r in cleaned.regions))
    return {
        "half": arguments.half,
        "images": len(files),
        "seed": arguments.seed,
        "rapidocr": importlib.metadata.version("rapidocr"),
        "openvino": importlib.metadata.version("openvino"),
        "set aside whole": set_aside,
        "texts drawn": len(by_text),
        "pixel recall": round(hit / inked, 5),
        "texts of 10 to 19 px, pixel recall": round(statistics.mean(r for r, size, _ in by_text if size < 20), 5),
        "texts covered by less than 0.98": [f"{r:.2f} of {size} px, {style}" for r, size, style in by_text if r < 0.98],
        "unmarked pixels covered in untouched images, percent": round(100 * false / unmarked, 4),
        "all pixels covered in untouched images, percent": round(100 * all_covered / (1e6 * sum(megapixels)), 4),
        "laterality mark kept": round(statistics.mean(kept), 4),
        "laterality mark read rightly": round(statistics.mean(named), 4),
        "laterality mark kept or read": round(statistics.mean(map(bool.__or__, kept, named)), 4),
        "CPU milliseconds a megapixel": round(1000 * sum(seconds) / sum(megapixels), 1),
        "CPU milliseconds an image, median": round(1000 * statistics.median(seconds), 1),
    }


def _place(region: Any) -> tuple[slice, slice]:
    return slice(region.y, region.y + region.height), slice(region.x, region.x + region.width)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--half", choices=["reported", "chosen", "both"], default="reported")
    parser.add_argument("--seed", type=int, default=20261123)
    parser.add_argument("--full-resolution", action="store_true")
    report("burned_in_text", measure(parser.parse_args()))


if __name__ == "__main__":
    main()
