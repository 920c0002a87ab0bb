"""Throughput of the anonymize job from 1 to 16 GPUs, whose stages sleep as long as they were measured to last.

The job is the real one, from listing the lake to `_SUCCESS`: its plan on Ray Data, chunks of 16 in order, one actor a
GPU, four cores a GPU (of which the actor takes one), real commits. Radiographs are phantoms of 64 px published at 256,
the model is the identity, and each stage then sleeps until the time has passed that `text_share` measured on one core
for a radiograph of 1024 px (decode, text and resize; the published network; encode), 20 % more or less from chunk to
chunk. GPUs and cores are numbers that Ray was told: nothing is said of how fast an accelerator is, nor of a network
that carries the pixels.

Throughput is that of the time in which all actors work (`_timed_job.Steady`); the rate from the first fetch to the last
chunk is told beside it, since the former is high for a while where ingest has a lead and starves later. `cores busy` is
what Ray, the job and the phantoms use of this machine: where it reaches the number of cores, the machine is too small
for the question.

    python -m tests.bench.scaling [--gpus 1 2 4 8 16] [--chunks 40] [--faster 1]
"""

import argparse
import json
import logging
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import ray

from prichexy.anonymize import anonymize
from tests.bench import RESULTS, report
from tests.bench._processes import cpu_time
from tests.bench._timed_job import Pace, configured, phantom_lake, steady, watched

CORES_PER_GPU = 4
ROWS_PER_SHARD = 128
CHUNK = 16


def measured_pace(faster: float, spread: float) -> Pace:
    """Seconds a chunk of each stage, from `results/text_share.json`."""
    recorded = json.loads((RESULTS / "text_share.json").read_text())["figures"]["CPU milliseconds an image, median"]

    def seconds(*parts: str) -> float:
        return CHUNK * float(sum(recorded[part] for part in parts)) / 1000 / faster

    return Pace(seconds("decode", "text", "resize"), seconds("obfuscate"), seconds("encode"), spread)


def run(folder: Path, gpus: int, pace: Pace, chunks: int) -> dict[str, Any]:
    """One job on so many simulated GPUs, with `chunks` or a few more for each."""
    shards = -(-gpus * chunks * CHUNK // ROWS_PER_SHARD)
    lake = phantom_lake(folder / f"lake-{gpus}", shards * ROWS_PER_SHARD, 64)
    config = configured(
        folder, lake, f"out-{gpus}", "identity",
        resolution="256", rows_per_shard=ROWS_PER_SHARD, chunk=CHUNK, deid={"burned_in_text": "off"},
    )  # fmt: skip
    ray.init(
        address="local", num_cpus=CORES_PER_GPU * gpus, num_gpus=gpus,
        include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR,
    )  # fmt: skip
    try:
        with cpu_time(1.0) as used, watched(folder / f"stamps-{gpus}", gpus, pace):
            summary = anonymize(config)
    finally:
        ray.shutdown()
    if (summary.rows, summary.quarantined) != (shards * ROWS_PER_SHARD, 0):
        raise RuntimeError(f"the job published {summary.published} of {summary.rows} phantoms")
    part = steady(folder / f"stamps-{gpus}")
    if part.workers != gpus:
        raise RuntimeError(f"{part.workers} of {gpus} actors worked")
    seconds = part.ended - part.began
    driver, whole = used.between(part.began, part.ended)
    chunks_done = part.chunks_per_second * seconds
    return {
        "images": summary.rows,
        "seconds in which all actors work": round(seconds, 1),
        "images a second": round(CHUNK * part.chunks_per_second, 3),
        "share of what the sleeps allow": round(part.chunks_per_second * pace.obfuscate / gpus, 3),
        "chunks in hand": {stage: round(chunks, 2) for stage, chunks in part.in_hand.items()},
        "images a second, first fetch to last chunk": round(CHUNK * part.whole_chunks_per_second, 3),
        "images a second, whole job": summary.images_per_second,
        "cores busy": round(whole / seconds, 2),
        "driver's CPU milliseconds a chunk": round(1000 * driver / chunks_done, 1),
        "all CPU milliseconds a chunk": round(1000 * whole / chunks_done, 1),
    }


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    pace = measured_pace(arguments.faster, arguments.spread)
    runs: dict[int, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="prichexy-bench-") as folder:
        for gpus in arguments.gpus:
            began = time.monotonic()
            runs[gpus] = run(Path(folder), gpus, pace, arguments.chunks)
            print(f"{gpus} GPUs: {runs[gpus]} in {time.monotonic() - began:.0f} s", flush=True)
    fewest = min(runs)
    rates = ("images a second", "images a second, first fetch to last chunk")
    return {
        "sleeps, seconds a chunk": {name: round(getattr(pace, name), 3) for name in ("ingest", "obfuscate", "encode")},
        "spread": pace.spread,
        "times as fast as measured": arguments.faster,
        "chunk": CHUNK,
        "cores a GPU": CORES_PER_GPU,
        f"against linear from {fewest}": {
            rate: {gpus: round(of[rate] / gpus / (runs[fewest][rate] / fewest), 3) for gpus, of in runs.items()}
            for rate in rates
        },
        "by GPUs": runs,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--chunks", type=int, default=40, help="for each GPU, at least")
    parser.add_argument("--faster", type=float, default=1.0, help="sleep so many times less than measured")
    parser.add_argument("--spread", type=float, default=0.2, help="of a chunk's times, as a share of them")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    arguments = parser.parse_args()
    suffix = "" if arguments.faster == 1 else f"_{arguments.faster:g}_times_faster"
    report(f"scaling{suffix}", measure(arguments))


if __name__ == "__main__":
    main()
