"""Throughput of the anonymize job on a local Ray of two cores, against that of its slowest stage alone.

The job is run as it is, and timed while both workers obfuscate (`_timed_job.Steady`). Then two processes, one a core,
do nothing but one stage, on chunks that are at hand, for some seconds each: ingest (fetch from disk, decode, text,
resize), obfuscate, encode, publish. The stage that gives the fewest images a second is the slowest.

Without GPUs all stages share the cores, so a job can't come nearer to its slowest stage than that stage's share of the
cores' time allows. This bound (the rate at which two processes would do all stages in turn, over the slowest's rate) is
told beside the ratio, and the job against it: what is lost to Ray and to waiting. On a machine with GPUs, where the
network has hardware of its own, `scaling` tells how much of the network's pace the job keeps.

    python -m tests.bench.slowest_stage [--rounds 3] [--chunks 14] [--seconds 4]
"""

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import ray

from prichexy.anonymize.ingest import ingest
from prichexy.anonymize.stages import Obfuscate, encode, publish
from prichexy.anonymize.work import Work
from prichexy.obfuscation import to_bytes
from tests.bench import report
from tests.bench._timed_job import configured, phantom_lake
from tests.bench.ray_overhead import CORES, on_ray

STAGES = ("ingest", "obfuscate", "encode", "publish")
JOBS: dict[str, dict[str, Any]] = {
    "256 px out, no text": {"chunk": 64, "resolution": "256", "deid": {"burned_in_text": "off"}},
    "default job": {"chunk": 16},
    "default job, engine winograd": {"chunk": 16, "generator": {"engine": "winograd"}},
}
"""Chunks are those that the job takes for a large lake."""


def alone(work: Work, model: bytes, folder: Path, seconds: float) -> dict[str, float]:
    """Images a second of each stage, in two processes that do nothing else."""
    context = multiprocessing.get_context("spawn")
    together, results = context.Barrier(CORES), context.Queue()
    processes = [
        context.Process(
            target=_worker, args=(replace(work, destination=str(folder / f"{n}")), model, n, seconds, together, results)
        )
        for n in range(CORES)
    ]
    for process in processes:
        process.start()
    rates: list[dict[str, float]] = [results.get(timeout=600) for _ in processes]
    for process in processes:
        process.join()
    return {stage: sum(rate[stage] for rate in rates) for stage in STAGES}


def _worker(work: Work, model: bytes, shard: int, seconds: float, together: Any, results: Any) -> None:
    """The rates of one process, each stage beginning when the other process begins it too."""
    uncounted = SimpleNamespace(add=SimpleNamespace(remote=lambda *_: None))
    with patch.object(ray, "get", lambda kept: kept):  # the model comes as bytes, not as a reference
        obfuscate = Obfuscate([model], work)
    start, stop = work.job.span(shard)
    chunk = work.job.chunk
    spans = np.array([(row, min(row + chunk, stop)) for row in range(start, stop, chunk)])
    ingested = [ingest(pa.table({"id": [number]}), spans, work) for number in range(len(spans))]
    obfuscated = [obfuscate(table) for table in ingested]
    encoded = pa.concat_tables([encode(table, work, uncounted) for table in obfuscated])
    stages: dict[str, tuple[Callable[[], Any], int]] = {
        "ingest": (lambda: ingest(pa.table({"id": [0]}), spans, work), ingested[0].num_rows),
        "obfuscate": (lambda: obfuscate(ingested[0]), ingested[0].num_rows),
        "encode": (lambda: encode(obfuscated[0], work, uncounted), obfuscated[0].num_rows),
        "publish": (lambda: publish(encoded, work), encoded.num_rows),
    }
    rates = {}
    for name in STAGES:
        run, images = stages[name]
        together.wait(timeout=600)
        began, done = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            run()
            done += images
        rates[name] = done / (time.perf_counter() - began)
    results.put(rates)


def compared(folder: Path, chunks: int, rounds: int, seconds: float, chunk: int, **settings: Any) -> dict[str, Any]:
    """One job, whole and stage by stage, in turn."""
    lake = phantom_lake(folder / "lake", chunks * chunk, 1024)
    whole: list[float] = []
    stages: list[dict[str, float]] = []
    for number in range(rounds):
        config = configured(
            folder, lake, f"out-{number}", "flow-field",
            chunk=chunk, rows_per_shard=2 * chunk, ray={"num_cpus": CORES}, **settings,
        )  # fmt: skip
        run, work = on_ray(config, folder / f"stamps-{number}")
        whole.append(chunk * run.part.chunks_per_second)
        stages.append(alone(work, to_bytes(Path(config.model)), folder / f"alone-{number}", seconds))
        print(round(whole[-1], 2), {name: round(rate, 2) for name, rate in stages[-1].items()}, flush=True)
    rates = {name: statistics.median(each[name] for each in stages) for name in STAGES}
    slowest = min(rates, key=lambda name: rates[name])
    in_turn = statistics.median(1 / sum(1 / rate for rate in each.values()) for each in stages)
    return {
        "images": chunks * chunk,
        "chunk": chunk,
        "slowest stage": slowest,
        "job over its slowest stage alone": round(statistics.median(whole) / rates[slowest], 3),
        "bound: stages share the cores": round(in_turn / rates[slowest], 3),
        "job over all stages in turn": round(statistics.median(whole) / in_turn, 3),
        "median images a second": {"job": round(statistics.median(whole), 2)}
        | {f"{name} alone": round(rate, 2) for name, rate in rates.items()},
        "images a second, job": [round(rate, 2) for rate in whole],
    }


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    load = os.getloadavg()[0]
    jobs = {}
    for name, settings in JOBS.items():
        with tempfile.TemporaryDirectory(prefix="prichexy-bench-") as folder:
            jobs[name] = compared(Path(folder), arguments.chunks, arguments.rounds, arguments.seconds, **settings)
        print(name, jobs[name], flush=True)
    return {
        "cores": CORES,
        "rounds": arguments.rounds,
        "load of the machine before (1 min)": round(load, 1),
        **jobs,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--chunks", type=int, default=14, help="of each job; of fewer than 10 no part is steady")
    parser.add_argument("--seconds", type=float, default=4.0, help="for each stage alone")
    os.environ["OMP_NUM_THREADS"] = "1"  # as Ray sets it for its workers
    os.environ.pop("RAY_ADDRESS", None)
    report("slowest_stage", measure(parser.parse_args()))


if __name__ == "__main__":
    main()
