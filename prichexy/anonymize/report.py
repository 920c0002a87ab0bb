"""Where a run's time went, what held it up, and what more of the machine would bring.

The model is the utilization law (Denning and Buzen, "The Operational Analysis of Queueing Network Models", ACM
Computing Surveys 10(3), 1978). An image needs D seconds of a resource that has m units, so the job can't do more than
m / D images a second, and at a rate of X it keeps the resource busy for the share D X / m. The resources:

| resource | units | seconds an image |
|---|---|---|
| cores | logical cores of the cluster | that cores worked, in all stages |
| GPUs | as many | in obfuscate |
| loaders | workers that fetch and decode | waiting for the store, in decode |
| encoders | workers that encode at once | in encode |
| publishers | workers that publish at once | in publish |

Without GPUs the actors do all but publish: there are no encoders, and loaders need an image's time in obfuscate and
encode too.

A file that is fetched while its worker decodes another costs no time: of fetch, only what a worker waits counts
(`storage.connections` files are under way at once), and what its cores do. What encode and publish wait for the store
is their time less that of their cores, the latter stretched by as much as decode's was, which waits for nothing but a
core.

Held up is the run by the cores where they are at least `SATURATED`, else by the busiest of the others, and there by
the largest part of its seconds. Where nothing is busy for half the time, it is Ray or the driver, and nothing of the
following brings anything. Else the estimate is X times the growth of the lowest m / D: one core more gives each kind of
worker its share more of them; a GPU more is one unit more; a store twice as fast (lake and destination) halves the
waiting. What is lost between the lowest m / D and X is so taken to stay the same share.

X leaves out what comes before the first image is begun: the start of workers, and loading the model.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from prichexy.anonymize.spent import Spent, added_up
from prichexy.anonymize.workers import Workers

STAGES = ("fetch", "decode", "obfuscate", "encode", "publish")
SATURATED = 0.8
"""Share of the cores' time from which they hold the run up: the operating system, Ray and others use them too."""
BUSY = 0.5

Part = Literal["store", "fetch", "decode", "obfuscate", "encode", "publish"]
Bottleneck = Literal["store", "fetch", "decode", "obfuscate", "encode", "publish", "ray"]


@dataclass(frozen=True)
class StageReport:
    """What one stage took; fetch: `seconds` of all connections, most of which others' work hides.

    Attributes:
        stage: of `STAGES`.
        images: that went through it.
        seconds: on the clock, of all its workers together.
        core_seconds: that cores worked.
        ms_an_image: milliseconds on the clock, of one worker or connection.
        core_ms_an_image: milliseconds of a core.
    """

    stage: str
    images: int
    seconds: float
    core_seconds: float
    ms_an_image: float
    core_ms_an_image: float


@dataclass(frozen=True)
class Report:
    """What a run did with its time; of this run alone, where it went on with an earlier one's work.

    Attributes:
        images: that it committed.
        seconds: from the first image's fetch to the last commit.
        start_seconds: before, until workers had started and loaded the model.
        images_per_second: without the start.
        stages: in the order of `STAGES`.
        cores: logical cores of the cluster.
        cores_busy: share of their time that the stages used.
        gpus: of the cluster.
        gpus_busy: share of their time in obfuscate; None without GPUs.
        waiting_for_store: share of the loaders' time.
        bottleneck: ``store``, a stage (``fetch``: the cores' part of it), or ``ray``: Ray and the driver.
        bottleneck_busy: share of time for which the resource that is held up there is busy.
        one_more_core: images a second, estimated.
        one_more_gpu: likewise; None without GPUs.
        store_twice_as_fast: likewise.
        price_per_hour: of the cluster, as set.
        cost_of_a_million: images, in the price's currency, without the start; None without a price.
    """

    images: int
    seconds: float
    start_seconds: float
    images_per_second: float
    stages: list[StageReport]
    cores: int
    cores_busy: float
    gpus: int
    gpus_busy: float | None
    waiting_for_store: float
    bottleneck: Bottleneck
    bottleneck_busy: float
    one_more_core: float
    one_more_gpu: float | None
    store_twice_as_fast: float
    price_per_hour: float | None
    cost_of_a_million: float | None


@dataclass(frozen=True)
class Resource:
    """Something that an image needs for a time.

    Attributes:
        units: how many there are.
        demand: seconds of one unit that an image needs, by what for.
    """

    units: float
    demand: Mapping[Part, float]

    @property
    def ceiling(self) -> float:
        """Images a second that it could bear."""
        total = sum(self.demand.values())
        return self.units / total if total else float("inf")

    @property
    def largest(self) -> Part:
        """What most of its time goes to."""
        return max(self.demand, key=lambda part: self.demand[part])


Resources = Mapping[str, Resource]


def report_of(
    spent: Iterable[Spent],
    workers: Workers,
    images: int,
    seconds: float,
    start_seconds: float,
    price_per_hour: float | None = None,
) -> Report:
    """The report of a run.

    Args:
        spent: what the stages took.
        workers: among which the stages shared the cluster.
        images: that were committed; at least one.
        seconds: of streaming, the start included.
        start_seconds: of them, before the first image was begun.
        price_per_hour: of the whole cluster.
    """
    working = max(seconds - start_seconds, 1e-3)
    rate = images / working
    sums = {stage: Spent(stage) for stage in STAGES} | {part.stage: part for part in added_up(spent)}
    resources = resources_of(sums, workers, images)
    bottleneck, busy = held_up_by(resources, rate)

    def estimated(changed: Resources) -> float:
        return round(rate if bottleneck == "ray" else rate * _lowest(changed) / _lowest(resources), 2)

    return Report(
        images=images,
        seconds=round(working, 2),
        start_seconds=round(start_seconds, 2),
        images_per_second=round(rate, 2),
        stages=[_stage(sums[stage]) for stage in STAGES],
        cores=workers.cores,
        cores_busy=_share(rate, resources["cores"]),
        gpus=workers.gpus,
        gpus_busy=_share(rate, resources["gpus"]) if workers.gpus else None,
        waiting_for_store=round(sums["fetch"].waited / working / workers.loaders, 3),
        bottleneck=bottleneck,
        bottleneck_busy=round(busy, 3),
        one_more_core=estimated(with_cores(resources, workers.cores + 1)),
        one_more_gpu=estimated(with_gpus(resources, workers.gpus + 1)) if workers.gpus else None,
        store_twice_as_fast=estimated(with_store(resources, 2.0)),
        price_per_hour=price_per_hour,
        cost_of_a_million=None if price_per_hour is None else round(price_per_hour / 3600 * 1e6 / rate, 2),
    )


def resources_of(sums: Mapping[str, Spent], workers: Workers, images: int) -> dict[str, Resource]:
    """What an image needed of each resource.

    Args:
        sums: one `Spent` for each of `STAGES`.
        workers: that there were.
        images: that they did.
    """
    fetch, decode, obfuscate, encode, publish = (sums[stage] for stage in STAGES)
    stretch = max(1.0, decode.seconds / decode.core_seconds) if decode.core_seconds else 1.0

    def writing(part: Part, spent: Spent) -> dict[Part, float]:
        own = min(spent.seconds, spent.core_seconds * stretch)
        return {part: own, "store": spent.seconds - own}

    needs: dict[str, tuple[float, dict[Part, float]]] = {
        "cores": (
            workers.cores,
            {
                "fetch": fetch.core_seconds,
                "decode": decode.core_seconds,
                "obfuscate": obfuscate.core_seconds,
                "encode": encode.core_seconds,
                "publish": publish.core_seconds,
            },
        ),
        "loaders": (workers.loaders, {"store": fetch.waited, "decode": decode.seconds}),
        "publishers": (workers.encoders, writing("publish", publish)),
    }
    if workers.gpus:
        needs["gpus"] = (min(workers.gpus, workers.actors), {"obfuscate": obfuscate.seconds})
        needs["encoders"] = (workers.encoders, writing("encode", encode))
    else:
        loading, encoding = needs["loaders"][1], writing("encode", encode)
        loading |= {"obfuscate": obfuscate.seconds, "encode": encoding["encode"]}
        loading["store"] += encoding["store"]
    return {
        name: Resource(units, {part: seconds / images for part, seconds in demand.items()})
        for name, (units, demand) in needs.items()
    }


def held_up_by(resources: Resources, rate: float) -> tuple[Bottleneck, float]:
    """What holds a run up, and the share of time for which the resource at fault is busy.

    Args:
        resources: what an image needs of each.
        rate: images a second that the run did.
    """
    cores = resources["cores"]
    if rate / cores.ceiling >= SATURATED:
        return cores.largest, min(1.0, rate / cores.ceiling)
    busiest = min(resources.values(), key=lambda resource: resource.ceiling)
    busy = min(1.0, rate / busiest.ceiling)
    return ("ray" if busy < BUSY else busiest.largest), busy


def with_cores(resources: Resources, cores: int) -> Resources:
    """The same on so many cores, each kind of worker growing with them."""
    growth = cores / resources["cores"].units
    return {
        name: Resource(each.units * (1.0 if name == "gpus" else growth), each.demand)
        for name, each in resources.items()
    }


def with_gpus(resources: Resources, gpus: int) -> Resources:
    """The same with so many GPUs, an actor each."""
    return {**resources, "gpus": Resource(gpus, resources["gpus"].demand)}


def with_store(resources: Resources, faster: float) -> Resources:
    """The same with a store that answers so many times as fast."""
    return {
        name: Resource(
            each.units,
            {part: seconds / faster if part == "store" else seconds for part, seconds in each.demand.items()},
        )
        for name, each in resources.items()
    }


def _lowest(resources: Resources) -> float:
    return min(resource.ceiling for resource in resources.values())


def _share(rate: float, resource: Resource) -> float:
    return round(rate / resource.ceiling, 3)


def _stage(spent: Spent) -> StageReport:
    images = max(1, spent.images)
    return StageReport(
        spent.stage,
        spent.images,
        round(spent.seconds, 3),
        round(spent.core_seconds, 3),
        round(1000 * spent.seconds / images, 2),
        round(1000 * spent.core_seconds / images, 2),
    )
