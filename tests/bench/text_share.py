"""What looking for burned-in text costs an image, beside all else that the job does to it.

Real radiographs of 1024 px go one after another through the job's own functions on one core: decode, look for text (at
reduced and at full resolution), resize, obfuscate by an untrained PriCheXy-Net of the published size, encode. Ray and
storage are left out. Published at 256 px.

    python -m tests.bench.text_share [--images 24]
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import torch

from prichexy.deid.burned_in import clean, require_networks
from prichexy.imaging import decode, encode_png, from_unit, resize, to_unit
from prichexy.obfuscation import create_untrained, load
from tests.bench import report
from tests.bench.burned_in_text import radiographs


def main() -> None:
    parser = argparse.ArgumentParser(description="What burned-in text costs an image.")
    parser.add_argument("--images", type=int, default=24)
    given = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    require_networks()
    with tempfile.TemporaryDirectory() as folder:
        create_untrained("flow-field", Path(folder) / "model", 0, {})
        obfuscator = load(Path(folder) / "model")
    spent: dict[str, list[float]] = {}

    def timed(what: str, work: Callable[[], Any]) -> Any:
        began = time.process_time()
        result = work()
        spent.setdefault(what, []).append(1000 * (time.process_time() - began))
        return result

    for number, file in enumerate(radiographs("both")[: given.images]):
        data = file.read_bytes()
        radiograph = timed("decode", lambda data=data: decode(data))
        levels = radiograph.pixels
        pixels = timed("text", lambda levels=levels: clean(levels, 8, "redact")).pixels
        timed("text, full resolution", lambda levels=levels: clean(levels, 8, "redact", full_resolution=True))
        small = timed("resize", lambda pixels=pixels: resize(pixels, 256, 256))
        images = torch.from_numpy(to_unit(small, 8))[None, None]
        with torch.inference_mode():
            seeds = torch.tensor([number])
            output = timed("obfuscate", lambda images=images, seeds=seeds: obfuscator(images, seeds))
        timed("encode", lambda output=output: encode_png(from_unit(output[0, 0].numpy(), 8), 8))
    medians = {what: statistics.median(values) for what, values in spent.items()}
    rest = sum(value for what, value in medians.items() if not what.startswith("text"))
    report(
        "text_share",
        {
            "images": given.images,
            "CPU milliseconds an image, median": {what: round(value, 1) for what, value in medians.items()},
            "share of the job's CPU time": {
                what: round(medians[what] / (rest + medians[what]), 3) for what in ("text", "text, full resolution")
            },
        },
    )


if __name__ == "__main__":
    main()
