"""How many workers each stage gets."""

from collections.abc import Sequence
from dataclasses import dataclass

from prichexy.anonymize.spent import Spent
from prichexy.cluster import Capacity
from prichexy.lake.job import Job

LEAST_CPUS = 0.125
"""Cores that an encoder reserves at least. It is not what a publisher reserves: Ray joins stages that reserve the same,
and a shard is more than the rows that an encoder has."""


@dataclass(frozen=True)
class Workers:
    """How the stages share the cluster.

    Attributes:
        cores: logical cores of the cluster.
        gpus: GPUs of the cluster.
        actors: generator actors.
        loaders: workers that fetch and decode at once. Without GPUs these are the actors, which encode, too.
        encoders: workers that encode at once, and as many that publish; without GPUs only the latter.
        encoder_cpus: cores that one which encodes reserves.
    """

    cores: int
    gpus: int
    actors: int
    loaders: int
    encoders: int
    encoder_cpus: float


def workers_for(capacity: Capacity, job: Job, spans: int, spent: Sequence[Spent] = ()) -> Workers:
    """The workers for so many spans.

    Ray Data sets cores aside for each operator, used or not: a bound on the lighter ones leaves ingest the rest. Where
    GPUs obfuscate, encoders take cores from ingest, and reserve no more of them than they were measured to use: with
    stages that sleep (8 cores, a GPU, a second of decoding to 0.1 s of encoding), a quarter of a core for each of three
    encoders gave 14 % more throughput than a whole one; fewer encoders gave nothing, no bound took 15 %. Without GPUs
    the actors, which also ingest and encode, have their cores anyway.

    Args:
        capacity: of the cluster.
        job: the job.
        spans: that are to do.
        spent: what the stages took in earlier rounds, one for each stage; nothing in the first.
    """
    actors = min(capacity.actors, spans)
    free = capacity.cpus - actors * capacity.actor_cpus
    tasks = free / capacity.task_cpus
    share = 2 if job.resolution == "native" else 4  # native images are much to encode, those of 256 px little
    encoders = max(1, int(tasks / share))
    encoder_cpus = capacity.task_cpus
    if capacity.gpus:
        worked = {part.stage: part.core_seconds for part in spent}
        encoding, loading = worked.get("encode", 0.0), worked.get("fetch", 0.0) + worked.get("decode", 0.0)
        if encoding and loading:
            needed = free * encoding / (encoding + loading) / encoders
            encoder_cpus = min(encoder_cpus, max(LEAST_CPUS, round(needed, 2)))
    loaders = max(1, min(spans, int((free - encoders * encoder_cpus) / capacity.task_cpus)))
    return Workers(capacity.cpus, capacity.gpus, actors, loaders if capacity.gpus else actors, encoders, encoder_cpus)
