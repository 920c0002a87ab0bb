"""Peak memory of the anonymize job for 2,000 images and for 20,000: what grows with the work, and what does not.

The job runs as its command does: from listing a lake of 64 px phantoms (published at 256, by the identity) to
`_SUCCESS`, on a local Ray of two cores. Twice a second each process of its family is asked how much memory of its own
it has (proc(5), `smaps_rollup`: Pss_Anon), by role: the driver, each generator's actor, each other worker, raylet and
GCS; of each role the largest counts. Pages of libraries are left out, since the share of each process in them depends
on what else runs on the machine, and so is the object store, whose content Ray tells.

    python -m tests.bench.flat_memory [--images 2000 20000]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import ray

from prichexy.anonymize import anonymize
from tests.bench import report
from tests.bench._processes import PROC, family, memory
from tests.bench._timed_job import configured, phantom_lake

PERIOD = 0.5
CORES = 2
MEBIBYTE = 1 << 20


def role(process: int, driver: int, before: str) -> str:
    """What a process is to the job; a worker that was an actor stays one."""
    if process == driver or before == "actors":
        return before or "driver"
    try:
        command = (PROC / str(process) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return before
    if command.startswith("ray::"):
        return "actors" if "MapWorker" in command else "workers"
    return next((name for name in ("raylet", "gcs_server") if f"/{name} " in command), "Ray's other processes")


def watched_run(folder: Path, images: int) -> dict[str, Any]:
    """Peaks of one job, in a process of its own."""
    phantom_lake(folder / "lake", images, 64)
    began = time.monotonic()
    job = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.flat_memory", "--job", str(folder)], stdout=subprocess.PIPE, text=True
    )
    roles: dict[int, str] = defaultdict(str)
    heap: dict[int, int] = defaultdict(int)
    together, samples = 0, 0
    while job.poll() is None:
        now = 0
        for process in family(job.pid):
            pages = memory(process)
            if pages:
                roles[process] = role(process, job.pid, roles[process])
                heap[process] = max(heap[process], pages["Pss_Anon"])
                now += pages["Pss_Anon"]
        together, samples = max(together, now), samples + 1
        time.sleep(PERIOD)
    assert job.stdout is not None
    told = json.loads(job.stdout.read().splitlines()[-1]) if job.returncode == 0 else None
    if told is None or told["published"] != images:
        raise RuntimeError(f"the job of {images} images ended with {job.returncode}")
    peaks: dict[str, int] = defaultdict(int)
    for process, size in heap.items():
        peaks[roles[process]] = max(peaks[roles[process]], size)
    return {
        "peak MiB": {name: round(size / MEBIBYTE, 1) for name, size in sorted(peaks.items())}
        | {"all processes together": round(together / MEBIBYTE, 1)}
        | {name: round(size / MEBIBYTE, 1) for name, size in told["store"].items()},
        "workers": sum(name in ("actors", "workers") for name in roles.values()),
        "samples": samples,
        "seconds": round(time.monotonic() - began, 1),
        "images a second": told["images_per_second"],
    }


def job(folder: Path) -> None:
    """Run the job and print what was published, and the object store's peaks."""
    store = {"object store": 0, "spilled": 0}
    ended = threading.Event()

    def follow() -> None:
        from ray._private.internal_api import get_memory_info_reply  # what `ray memory` asks; there is no public name

        while not ended.wait(PERIOD):
            if ray.is_initialized():
                try:
                    stats = get_memory_info_reply(ray._private.state.state).store_stats
                except Exception:  # Ray is starting or ending
                    continue
                store["object store"] = max(store["object store"], stats.object_store_bytes_used)
                store["spilled"] = max(store["spilled"], stats.spilled_bytes_total)

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    summary = anonymize(
        configured(
            folder, folder / "lake", "out", "identity",
            resolution="256", rows_per_shard=256, deid={"burned_in_text": "off"}, ray={"num_cpus": CORES},
        )
    )  # fmt: skip
    ended.set()
    thread.join()
    if not store["object store"]:
        raise RuntimeError("Ray did not tell what its object store held")
    facts = {"published": summary.published, "images_per_second": summary.images_per_second, "store": store}
    print(json.dumps(facts), flush=True)


def measure(images: list[int]) -> dict[str, Any]:
    runs: dict[int, dict[str, Any]] = {}
    for number in images:
        with tempfile.TemporaryDirectory(prefix="prichexy-bench-") as folder:
            runs[number] = watched_run(Path(folder), number)
        print(f"{number} images: {runs[number]}", flush=True)
    fewest, most = min(runs), max(runs)
    few, many = runs[fewest]["peak MiB"], runs[most]["peak MiB"]
    return {
        "cores": CORES,
        f"peak for {most} over peak for {fewest}": {
            name: round(many[name] / few[name], 3) for name in few if few[name] and name in many
        },
        "by images": runs,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, nargs="+", default=[2_000, 20_000])
    parser.add_argument("--job", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    os.environ.pop("RAY_ADDRESS", None)
    if arguments.job:
        job(arguments.job)
    else:
        report("flat_memory", measure(arguments.images))


if __name__ == "__main__":
    main()
