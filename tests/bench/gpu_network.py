"""The network on an NVIDIA GPU: speed against the measured ceilings, an actor's loop, and what its results are.

It needs a CUDA GPU and torch, and nothing of Ray. Sections follow each other until the time is used up; one that fails
says why, and the next has its turn; figures are kept after each. The network is PriCheXy-Net's U-Net of the published
size, on radiographs of 256 x 256: of a trained model (--model), or with weights by the golden vectors' rule.

    python -m tests.bench.gpu_network [--seconds 240] [--images 32] [--folder PNGS] [--model FOLDER]

Goals (figures of an H100): 8,000 images/s in one actor's loop, 25 % of the bfloat16 ceiling in the network, at most one
grey level of 255 between bfloat16 on the GPU and float32 on the CPU at mu 0.01. `--rehearse` runs everything small on
the CPU, where no figure means anything, and keeps none.
"""

import argparse
import contextlib
import io
import json
import time
from pathlib import Path
from typing import Any

import torch

from tests.bench import _gpu_results as results
from tests.bench import _gpu_speed as speed
from tests.bench import report
from tests.bench._gpu_setup import Bench, Section, tried

SECTIONS: dict[str, Section] = {
    "device": speed.device,
    "ceilings": speed.ceilings,
    "grey scale": results.grey_scale,
    "network": speed.batches,
    "start": speed.start,
    "loop": speed.loops,
    "differences": results.differences,
    "determinism": results.determinism,
    "native warp, ms": speed.native,
    "float32, errors": results.float32_is_float32,
    "profile, microseconds an image": speed.profile,
    "bias and ReLU": speed.epilogues,
    "cuDNN's choices, graph of 16": speed.choices_by_the_clock,
    "torch.compile": speed.compiled,
}


def main() -> None:
    parser = argparse.ArgumentParser(description="The network on a GPU.")
    parser.add_argument("--seconds", type=float, default=240, help="after which no further measurement begins")
    parser.add_argument("--images", type=int, default=32, help="compared with the CPU")
    parser.add_argument("--folder", type=Path, help="of radiographs as PNG; phantoms where there are none")
    parser.add_argument("--model", type=Path, help="folder of a trained flow-field model")
    parser.add_argument("--only", nargs="*", choices=list(SECTIONS), help="sections to run")
    parser.add_argument("--rehearse", action="store_true", help="all of it, small, on the CPU; keeps nothing")
    given = parser.parse_args()
    if not given.rehearse and not torch.cuda.is_available():
        print("no CUDA GPU here: nothing to measure")
        return
    device = "cpu" if given.rehearse else "cuda"
    bench = Bench(device, given.rehearse, given.images, given.folder, given.model, time.monotonic() + given.seconds)
    figures: dict[str, Any] = {}
    for name in given.only or SECTIONS:
        figures[name] = _figures(bench, SECTIONS[name])
        print(name, json.dumps(figures[name]), flush=True)
        if not given.rehearse:
            with contextlib.redirect_stdout(io.StringIO()):
                report("gpu_network", figures, device)
    if not given.rehearse:
        report("gpu_network", figures, device)
    print(_told(figures))


def _figures(bench: Bench, section: Section) -> dict[str, Any]:
    if bench.late():
        return {"failed": "not begun: the time was used up"}
    began, figures = time.monotonic(), dict[str, Any]()

    def gather() -> None:
        for name, value in section(bench):
            figures[name] = value

    failed = tried(gather)
    if failed:
        figures["failed"] = failed
    figures["seconds"] = round(time.monotonic() - began, 1)
    return figures


def _told(figures: dict[str, Any]) -> str:
    """The goals and what was found of them, last, where it is seen."""
    network, loops = (
        [part for what, part in figures.get(name, {}).items() if what.startswith(kind) and isinstance(part, dict)]
        for name, kind in (("network", "bfloat16, graph"), ("loop", "batch"))
    )
    best = max((part.get("share of the ceiling", 0) for part in network), default=None)
    rate = max((part.get("images/s", 0) for part in loops), default=None)
    level = figures.get("differences", {}).get("bfloat16, at size")
    failed = [name for name, part in figures.items() if "failed" in part]
    return "\n".join(
        [
            f"images/s in an actor's loop (goal 8,000): {rate}",
            f"share of the bfloat16 ceiling in the network (goal 0.25): {best}",
            f"grey levels between bfloat16 here and float32 on the CPU (goal 1): {level}",
            f"sections that failed or did not begin: {failed}",
        ]
    )


if __name__ == "__main__":
    main()
