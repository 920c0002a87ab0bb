"""Seconds from the command to the first published image on two cores, and where they go.

`prichexy anonymize` is started as a user starts it, on a small lake of phantoms (PNG of 1024 px, native size out, text
redacted, the published network), with a Ray of its own; a shard is one chunk here, so that the first shard is the first
16 images. It is published when its commit record lies in the destination. The parts come from the command's own events
(`PRICHEXY_LOG=json`) and its report. What is imported is counted beside that, each in a process of its own: by the
driver, and by a worker, of which the job starts four at nearly the same time on the two cores.

    python -m tests.bench.cold_start [--rounds 5]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.bench import report
from tests.bench._timed_job import configured, phantom_lake

CORES = 2
IMAGES = 64
CHUNK = 16
IMPORTED = {"driver": "prichexy.anonymize.job", "worker": "prichexy.anonymize.stages, prichexy.anonymize.ingest"}
PARTS = (
    "imports, settings, model",
    "listing the lake",
    "start of Ray",
    "start of workers, which load the model",
    "first shard: fetch to commit",
)


def cold_run(folder: Path, number: int) -> dict[str, float]:
    """One command; its parts in seconds, and their sum."""
    config = configured(folder, folder / "lake", f"out-{number}", "flow-field")
    out = Path(config.destination)
    words = [
        str(Path(sys.executable).parent / "prichexy"),
        "anonymize",
        config.source,
        str(out),
        "--model",
        config.model,
    ]
    words += ["--secret-file", str(config.secret_file), "--allow-unaudited", "--json"]
    words += [f"ray.num_cpus={CORES}", f"rows_per_shard={CHUNK}", f"chunk={CHUNK}"]
    home = folder / f"home-{number}"  # for the token that Ray writes
    home.mkdir()
    environment = {**os.environ, "PRICHEXY_LOG": "json", "HOME": str(home)}
    began = time.time()
    with (folder / f"events-{number}").open("w") as events:
        command = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=events, text=True, env=environment)
        while not (published := list(out.glob("_snapshots/*/_commits/*.json"))) and command.poll() is None:
            time.sleep(0.02)
        first = time.time() - began
        printed, _ = command.communicate(timeout=300)
    if command.returncode or not published:
        raise RuntimeError(f"the command ended with {command.returncode}: {(folder / f'events-{number}').read_text()}")
    told = [json.loads(line) for line in (folder / f"events-{number}").read_text().splitlines() if line[:1] == "{"]
    at = {event["stage"]: datetime.fromisoformat(event["time"]).timestamp() - began for event in reversed(told)}
    workers = json.loads(printed)["report"]["start_seconds"]
    moments = [0.0, at["catalog"], at["plan"], at["start"], at["start"] + workers, first]
    parts = {part: moments[index + 1] - moments[index] for index, part in enumerate(PARTS)}
    return {**parts, "first image published": first}


def imports(modules: str) -> float:
    """Seconds that a new Python takes to import them."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", f"import {modules}"], check=True)
    return time.monotonic() - began


def medians(rounds: int, measure: Callable[[int], dict[str, float]]) -> tuple[dict[str, float], list[dict[str, float]]]:
    """By name, and the rounds themselves."""
    runs = [measure(number) for number in range(rounds)]
    return {name: round(statistics.median(run[name] for run in runs), 2) for name in runs[0]}, runs


def measure(rounds: int) -> dict[str, Any]:
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="prichexy-bench-") as name:
        folder = Path(name)
        phantom_lake(folder / "lake", IMAGES, 1024)
        middle, runs = medians(rounds, lambda number: cold_run(folder, number))
    imported, _ = medians(rounds, lambda _: {what: imports(modules) for what, modules in IMPORTED.items()})
    return {
        "rounds": rounds,
        "cores": CORES,
        "load of the machine before (1 min)": round(load, 1),
        "seconds, median": middle,
        "seconds to import, in a process of its own, median": imported,
        "first image published, seconds": [round(run["first image published"], 2) for run in runs],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.pop("RAY_ADDRESS", None)
    report("cold_start", measure(parser.parse_args().rounds))


if __name__ == "__main__":
    main()
