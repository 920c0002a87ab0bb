"""What Ray costs: the anonymize job on a local Ray of two cores against a bare loop of its stages in two processes.

Two jobs: the default one (1024 px PNG in, native size out, text redacted, the published network), and one of next to no
work an image (256 px out, the identity, text off), which shows what a chunk costs. Each runs on Ray, then as a bare
loop (two processes, each calls ingest, Obfuscate, encode and publish for every second shard), and again; both publish
the same bytes, or this fails. On both sides the first chunk waits until both workers have loaded the model, and the
rate is that of the time in which both obfuscate (`_timed_job.Steady`): starting Ray, processes and models, planning,
the first chunks, and the end, when one is done, are outside. Stages use the threads that the job gives them: one.

    python -m tests.bench.ray_overhead [--rounds 3] [--images 192] [--small-images 1536]
"""

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import ray

from prichexy.anonymize import anonymize, plan
from prichexy.anonymize import job as job_module
from prichexy.anonymize.stages import publish
from prichexy.anonymize.work import Work
from prichexy.config import AnonymizeConfig
from prichexy.obfuscation import to_bytes
from tests.bench import report
from tests.bench._processes import cpu_time
from tests.bench._timed_job import Steady, configured, phantom_lake, stamping, steady, watched

CORES = 2
CHUNK = 16


@dataclass(frozen=True)
class Run:
    """One run: its steady part, the CPU seconds that the whole family used in it, and what it published."""

    part: Steady
    cpu_seconds: float
    published: dict[str, str]

    @property
    def cpu_a_chunk(self) -> float:
        return self.cpu_seconds / (self.part.chunks_per_second * (self.part.ended - self.part.began))


def on_ray(config: AnonymizeConfig, stamps: Path) -> tuple[Run, Work]:
    """The job, and what its workers were told."""
    told: list[Work] = []

    def work_of(*given: Any) -> Work:
        told.append(plan.work_of(*given))
        return told[0]

    with patch.object(job_module, "work_of", work_of), cpu_time() as used, watched(stamps, CORES):
        anonymize(config)
    return _ended(used, stamps, Path(config.destination)), told[0]


def bare(work: Work, model: bytes, destination: Path, stamps: Path) -> Run:
    """The same stages in two processes without Ray."""
    stamps.mkdir()
    work = replace(work, destination=str(destination))
    context = multiprocessing.get_context("spawn")
    loops = [context.Process(target=_loop, args=(work, model, stamps, number)) for number in range(CORES)]
    with cpu_time() as used:
        for loop in loops:
            loop.start()
        while any(loop.is_alive() for loop in loops):
            if any(loop.exitcode for loop in loops):
                for loop in loops:
                    loop.kill()  # the others would wait for the one that has failed
            loops[0].join(0.1)
            time.sleep(0.1)
    if any(loop.exitcode for loop in loops):
        raise RuntimeError("a bare loop failed")
    return _ended(used, stamps, destination)


def _loop(work: Work, model: bytes, stamps: Path, first: int) -> None:
    """Every second shard, one chunk after another."""
    ingest, obfuscate, encode = stamping(stamps, CORES)
    uncounted = SimpleNamespace(add=SimpleNamespace(remote=lambda *_: None))
    with patch.object(ray, "get", lambda kept: kept):  # the model comes as bytes, not as a reference
        worker = obfuscate([model], work)
    for shard in range(first, work.job.shards, CORES):
        start, stop = work.job.span(shard)
        spans = np.array([(row, min(row + work.job.chunk, stop)) for row in range(start, stop, work.job.chunk)])
        chunks = [
            encode(worker(ingest(pa.table({"id": [number]}), spans, work)), work, uncounted)
            for number in range(len(spans))
        ]
        publish(pa.concat_tables(chunks), work)


def _ended(used: Any, stamps: Path, destination: Path) -> Run:
    part = steady(stamps)
    if part.workers != CORES:
        raise RuntimeError(f"{part.workers} workers obfuscated")
    files = sorted(destination.glob("data/*.parquet"))
    digests = {file.name: sha256(file.read_bytes()).hexdigest() for file in files}
    return Run(part, used.between(part.began, part.ended)[1], digests)


def compared(folder: Path, images: int, rounds: int, kind: str, **settings: Any) -> dict[str, Any]:
    """One job on Ray and bare, in turn."""
    lake = folder / "lake"
    runs: dict[str, list[Run]] = {"Ray": [], "bare": []}
    phantom_lake(lake, images, 1024)
    for number in range(rounds):
        config = configured(
            folder, lake, f"ray-{number}", kind,
            chunk=CHUNK, rows_per_shard=2 * CHUNK, ray={"num_cpus": CORES}, **settings,
        )  # fmt: skip
        run, work = on_ray(config, folder / f"stamps-ray-{number}")
        runs["Ray"].append(run)
        run = bare(work, to_bytes(Path(config.model)), folder / f"bare-{number}", folder / f"stamps-bare-{number}")
        runs["bare"].append(run)
        if run.published != runs["Ray"][-1].published or not run.published:
            raise RuntimeError("Ray and the bare loop did not publish the same")
        print({name: round(CHUNK * each[-1].part.chunks_per_second, 2) for name, each in runs.items()}, flush=True)
    rates = {name: [CHUNK * run.part.chunks_per_second for run in each] for name, each in runs.items()}
    cpu = {name: statistics.median(run.cpu_a_chunk for run in each) for name, each in runs.items()}
    medians = {name: statistics.median(each) for name, each in rates.items()}
    return {
        "images": images,
        "median images a second": {name: round(rate, 2) for name, rate in medians.items()},
        "time over that of the bare loop": round(medians["bare"] / medians["Ray"] - 1, 4),
        "CPU time over that of the bare loop": round(cpu["Ray"] / cpu["bare"] - 1, 4),
        "CPU milliseconds a chunk, median": {name: round(1000 * seconds, 1) for name, seconds in cpu.items()},
        "images a second": {name: [round(rate, 2) for rate in each] for name, each in rates.items()},
    }


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    jobs = {
        "default job": (arguments.images, "flow-field", {}),
        "identity, no text": (
            arguments.small_images, "identity", {"resolution": "256", "deid": {"burned_in_text": "off"}},
        ),
    }  # fmt: skip
    figures: dict[str, Any] = {"chunk": CHUNK, "cores": CORES, "rounds": arguments.rounds}
    for name, (images, kind, settings) in jobs.items():
        if images:
            with tempfile.TemporaryDirectory(prefix="prichexy-bench-") as folder:
                figures[name] = compared(Path(folder), images, arguments.rounds, kind, **settings)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=192, help="of the default job; 0 leaves it out")
    parser.add_argument("--small-images", type=int, default=1536, help="of the other; 0 leaves it out")
    # Ray sets this for its workers; the bare loop gets the same. No other cluster is asked.
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ.pop("RAY_ADDRESS", None)
    report("ray_overhead", measure(parser.parse_args()))


if __name__ == "__main__":
    main()
