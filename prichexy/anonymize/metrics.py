"""Figures of a running job for Prometheus, through Ray's own metrics.

Each Ray node serves what its workers count at ``http://NODE:PORT/metrics``. PORT is what ``ray start
--metrics-export-port`` says (KubeRay: 8080, the container port "metrics"), else any free one, which Ray's state API
tells (``MetricsExportPort`` of ``ray.nodes()``). The head's dashboard lists the nodes for Prometheus
(``file_sd_configs``) in ``/tmp/ray/session_latest/prom_metrics_service_discovery.json``; on Kubernetes a PodMonitor
finds them. Ray puts ``ray_`` before each name, and ``_total`` behind a counter's:

| metric | labels | what it counts |
|---|---|---|
| `prichexy_images_total` | `outcome`, `reason` | images committed: ``published``, or ``quarantined`` and why |
| `prichexy_committed_shards_total` | | shards whose commit record is written |
| `prichexy_read_bytes_total` | | bytes of source files that were fetched |
| `prichexy_written_bytes_total` | `kind` | bytes in committed shards: ``data``, ``quarantine``, ``dicom`` |
| `prichexy_stage_images_total` | `stage` | images that went through a stage |
| `prichexy_stage_seconds_total` | `stage` | seconds spent in a stage, by all cores and connections together |
| `prichexy_call_seconds` | `stage` | histogram: seconds of one call; what a call is for, see below |
| `prichexy_batch_images` | | histogram: images that the network got at once |
| `prichexy_storage_retries_total` | | attempts that a transient fault of the lake or the destination made necessary |

So ``sum by (stage) (rate(ray_prichexy_stage_seconds_total[5m]))`` is how many workers a stage keeps busy, and its ratio
to the same of ``ray_prichexy_stage_images_total`` the seconds of an image. A call is for a file in fetch and decode,
for a chunk in obfuscate and encode, for a shard in publish. (Ray guesses a histogram's sum from its buckets; the
counters are exact.) A counter adds up what this cluster did, work that was done twice after a fault included; what the
destination holds is told by `prichexy status`. Labels hold words of this code alone, never a path, an identifier or a
header value; Ray adds the node's address, the worker's and the session's name. A worker tells its node every ten
seconds (``RAY_metrics_report_interval_ms``), so of a job that starts its own Ray, and ends it, the last seconds go
untold.

Outside Ray, as in a process of `careful`, nothing is counted.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, wraps
from typing import ParamSpec, TypeVar

import pyarrow as pa
import ray
from ray.util.metrics import Counter, Histogram

from prichexy.anonymize.spent import Spent, ledger
from prichexy.lake.commit import Commit
from prichexy.lake.storage import Store

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

_SECONDS = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0]
"""From a file of a fast store to a file that is given up (`LimitsConfig.seconds`) or a shard over a slow line."""
_IMAGES = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0]


_CORES: dict[str, Callable[[], float]] = {"fetch": lambda: 0.0, "decode": time.thread_time}
"""How a stage's work of cores is told, where not all that its process does is the stage's: files are fetched beside
each other and beside decoding, which is one thread's work. What fetching takes is the rest (`Ledger.remainder`)."""


class _Instruments:
    """Of this process, made at its first figure: before Ray runs they would count for nobody."""

    def __init__(self) -> None:
        self.images = Counter(
            "prichexy_images",
            "Images in committed shards, by outcome, and by reason where quarantined.",
            ("outcome", "reason"),
        )
        self.shards = Counter("prichexy_committed_shards", "Shards whose commit record is written.")
        self.read = Counter("prichexy_read_bytes", "Bytes of source files that were fetched.")
        self.written = Counter("prichexy_written_bytes", "Bytes of the files of committed shards.", ("kind",))
        self.stage_images = Counter("prichexy_stage_images", "Images that went through a stage.", ("stage",))
        self.stage_seconds = Counter("prichexy_stage_seconds", "Seconds that workers spent in a stage.", ("stage",))
        self.call_seconds = Histogram(
            "prichexy_call_seconds",
            "Seconds of one call of a stage: of a file, a chunk or a shard.",
            _SECONDS,
            ("stage",),
        )
        self.batch = Histogram("prichexy_batch_images", "Images that the network got as one batch.", _IMAGES)
        self.retries = Counter("prichexy_storage_retries", "Attempts that a store's transient fault made necessary.")


_making = threading.Lock()
_made = cache(_Instruments)


def _instruments() -> _Instruments | None:
    if not ray.is_initialized():
        return None
    with _making:  # several threads of a worker fetch
        return _made()


def timed(stage: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Count seconds and images of a stage, here and in the ledger of this process: as many images as the table has
    rows that the stage is given, else one.

    Args:
        stage: ``fetch``, ``decode`` (de-identification included), ``obfuscate``, ``encode`` or ``publish``.
    """
    label = {"stage": stage}
    cores = _CORES.get(stage, time.process_time)

    def decorate(work: Callable[P, R]) -> Callable[P, R]:
        @wraps(work)
        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            began, worked = time.perf_counter(), cores()
            try:
                return work(*args, **kwargs)
            finally:  # the time of a file that is set aside, or of a fault, was spent too
                seconds = time.perf_counter() - began
                images = next((argument.num_rows for argument in args if isinstance(argument, pa.Table)), 1)
                ledger.note(Spent(stage, images, seconds, cores() - worked))
                instruments = _instruments()
                if instruments is not None:
                    _add(instruments.stage_images, images, label)
                    _add(instruments.stage_seconds, seconds, label)
                    instruments.call_seconds.observe(seconds, label)

        return run

    return decorate


def fetched(data: object) -> None:
    """Count what came of a source file: its bytes, or nothing where it was set aside."""
    instruments = _instruments()
    if instruments is not None and isinstance(data, bytes):
        _add(instruments.read, len(data))


def batched(images: int) -> None:
    """Count a batch of the network."""
    instruments = _instruments()
    if instruments is not None and images:
        instruments.batch.observe(images)


def committed(commit: Commit) -> None:
    """Count a shard, its images by outcome, and the bytes of its files."""
    instruments = _instruments()
    if instruments is None:
        return
    instruments.shards.inc()
    _add(instruments.images, commit.published, {"outcome": "published", "reason": ""})
    for reason, images in commit.reasons.items():
        _add(instruments.images, images, {"outcome": "quarantined", "reason": reason})
    for kind, file in (("data", commit.data), ("quarantine", commit.quarantine), ("dicom", commit.dicom)):
        _add(instruments.written, file.bytes if file else 0, {"kind": kind})


@dataclass(frozen=True)
class WatchedStore(Store):
    """A store whose further attempts are counted."""

    def retried(self, verb: str, work: Callable[[], T]) -> T:
        """As `Store.retried`, counting each attempt after the first."""
        attempts = 0

        def attempt() -> T:
            nonlocal attempts
            attempts += 1
            if attempts > 1:
                instruments = _instruments()
                if instruments is not None:
                    instruments.retries.inc()
            return work()

        return super().retried(verb, attempt)


def _add(counter: Counter, amount: float, label: dict[str, str] | None = None) -> None:
    """Ray refuses to count nothing."""
    if amount > 0:
        counter.inc(amount, label)
