"""The anonymize job as benchmarks run it: on phantoms, with a note of when each chunk passed each stage.

Nothing of the job is replaced. Its three stages are wrapped where the job's plan names them; a wrapper may make a stage
last as long as it was measured to last elsewhere (`Pace`): it sleeps for what the stage left of that time.
"""

import os
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import cv2
import numpy as np
import pyarrow as pa

from prichexy.anonymize import ingest as ingest_module
from prichexy.anonymize import job as job_module
from prichexy.anonymize import stages
from prichexy.cohort.phantom import PhantomCohort, render
from prichexy.config import AnonymizeConfig
from prichexy.obfuscation import create_untrained

Stage = Callable[..., pa.Table]
DIFFERENT = 12
"""Phantoms that are drawn; the files of a larger lake are further names of theirs."""


@dataclass(frozen=True)
class Pace:
    """How long the stages last.

    Attributes:
        ingest: seconds a chunk.
        obfuscate: seconds a chunk.
        encode: seconds a chunk.
        spread: a chunk's time lies within this share above and below, uniformly: equal times would hide what waiting
            for the order of chunks costs.
    """

    ingest: float
    obfuscate: float
    encode: float
    spread: float = 0.0


UNPACED = Pace(0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Steady:
    """The part of a run in which every worker obfuscates: from when the last has finished its first chunk to when the
    first has finished its last. What starts and ends a job (Ray, actors, models; stages that run empty) is outside.

    Attributes:
        began: on the monotonic clock, in seconds.
        ended: likewise.
        workers: how many obfuscated.
        chunks_per_second: over all workers; of each, the chunks between its first and last stamp in that part.
        in_hand: by stage, how many chunks it had in hand on average.
        whole_chunks_per_second: from the first chunk's fetch to the end of the last one's obfuscation: a shorter run
            has a smaller one, and chunks that were ingested ahead do not flatter it.
    """

    began: float
    ended: float
    workers: int
    chunks_per_second: float
    in_hand: dict[str, float]
    whole_chunks_per_second: float


def phantom_lake(folder: Path, files: int, side: int) -> Path:
    """A folder of `files` PNG phantoms of side x side pixels; made once."""
    folder.mkdir(parents=True)
    for number, study in enumerate(PhantomCohort(DIFFERENT, 11, size=side).studies[: min(files, DIFFERENT)]):
        cv2.imwrite(str(folder / f"{number:06d}.png"), render(study))
    for number in range(DIFFERENT, files):
        os.link(folder / f"{number % DIFFERENT:06d}.png", folder / f"{number:06d}.png")
    return folder


def configured(
    folder: Path, lake: Path, out: str, kind: str, generator: Mapping[str, Any] | None = None, **settings: Any
) -> AnonymizeConfig:
    """The job's settings: an untrained model of that kind, a secret and a destination within `folder`."""
    model, secret = folder / f"model-{kind}", folder / "project.key"
    if not model.exists():
        create_untrained(kind, model, 0, generator or {})
    secret.write_bytes(bytes(range(32)))
    return AnonymizeConfig(
        source=str(lake),
        destination=str(folder / out),
        model=str(model),
        secret_file=secret,
        allow_unaudited=True,
        **settings,
    )


@contextmanager
def watched(stamps: Path, workers: int, pace: Pace = UNPACED) -> Iterator[None]:
    """Within it, the job stamps its chunks into a new folder, begins when `workers` have loaded the model, and keeps to
    a pace.
    """
    stamps.mkdir(parents=True)
    ingest, obfuscate, encode = stamping(stamps, workers, pace)
    with patch.multiple(job_module, ingest=ingest, Obfuscate=obfuscate, encode=encode):
        yield


def stamping(stamps: Path, workers: int, pace: Pace = UNPACED) -> tuple[Stage, type[stages.Obfuscate], Stage]:
    """The job's `ingest`, `Obfuscate` and `encode`, which note when each chunk began and ended: a line in the file that
    the stage has in `stamps` for its process. The first chunks wait until all workers have started: Ray gives chunks to
    those that have, so that otherwise some of few would never work.
    """

    def lasting(stage: Stage, seconds: float) -> Stage:
        def timed(table: pa.Table, *more: Any) -> pa.Table:
            while len(list(stamps.glob("started-*"))) < workers:
                time.sleep(0.1)
            began = time.monotonic()
            result = stage(table, *more)
            time.sleep(max(0.0, began + _drawn(seconds, pace.spread, table[0][0]) - time.monotonic()))
            with (stamps / f"{stage.__name__}-{os.getpid()}").open("a") as file:
                file.write(f"{began} {time.monotonic()}\n")
            return result

        timed.__name__ = stage.__name__  # Ray names its operators for it
        return timed

    class Obfuscate(stages.Obfuscate):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)

            def obfuscate(table: pa.Table) -> pa.Table:
                return super(Obfuscate, self).__call__(table)

            self.timed = lasting(obfuscate, pace.obfuscate)
            (stamps / f"started-{os.getpid()}").touch()

        def __call__(self, table: pa.Table) -> pa.Table:
            return self.timed(table)

    return lasting(ingest_module.ingest, pace.ingest), Obfuscate, lasting(stages.encode, pace.encode)


def _drawn(seconds: float, spread: float, chunk: pa.Scalar) -> float:
    """How long a stage lasts for a chunk: the same in each run."""
    return seconds * (1 + random.Random(f"{chunk.as_py()} {seconds}").uniform(-spread, spread))


def steady(stamps: Path) -> Steady:
    """What the stamps of a run say.

    Raises:
        ValueError: too few chunks, so that there is no such part.
    """
    workers = [times[:, 1] for times in (np.loadtxt(file, ndmin=2) for file in stamps.glob("obfuscate-*"))]
    began, ended = max(times[0] for times in workers), min(times[-1] for times in workers)
    inside = [times[(began <= times) & (times <= ended)] for times in workers]
    if min(map(len, inside)) < 3:
        raise ValueError(f"too few chunks for {len(workers)} workers: one finished {min(map(len, inside))} beside all")
    rate = sum((len(times) - 1) / (times[-1] - times[0]) for times in inside)
    stage_spans = {stage: _spans(stamps, stage) for stage in ("ingest", "obfuscate", "encode")}
    in_hand = {
        stage: float((spans.clip(began, ended) @ [-1, 1]).sum() / (ended - began))
        for stage, spans in stage_spans.items()
    }
    obfuscated = stage_spans["obfuscate"]
    whole = len(obfuscated) / (obfuscated.max() - stage_spans["ingest"].min())
    return Steady(float(began), float(ended), len(workers), float(rate), in_hand, float(whole))


def _spans(stamps: Path, stage: str) -> "np.ndarray[Any, np.dtype[np.float64]]":
    """When each chunk began and ended in a stage: (chunks, 2)."""
    return np.concatenate([np.loadtxt(file, ndmin=2) for file in stamps.glob(f"{stage}-*")])
