"""The end report of `anonymize` for people."""

import sys
from collections.abc import Iterator

from rich import box
from rich.console import Console
from rich.table import Table

from prichexy.anonymize.report import Report

_HELD_UP_BY = {
    "store": "the store, which workers wait for",
    "fetch": "fetch: the cores' part of it",
    "obfuscate": "obfuscate, the network",
    "ray": "Ray or the driver: nothing else is busy",
}


def show_report(report: Report) -> None:
    """Print a run's report as two tables: the stages, and what follows from them; without lines in a pipe."""
    terminal = sys.stdout.isatty()
    lines = box.HEAVY_HEAD if terminal else None
    stages = Table(title="Where the time went", title_justify="left", title_style="bold", box=lines)
    for number, column in enumerate(("stage", "images", "seconds", "ms an image", "core seconds", "core ms an image")):
        stages.add_column(column, justify="right" if number else "left", no_wrap=True)
    for stage in report.stages:
        stages.add_row(
            stage.stage,
            f"{stage.images:,}",
            f"{stage.seconds:,.1f}",
            f"{stage.ms_an_image:,.1f}",
            f"{stage.core_seconds:,.1f}",
            f"{stage.core_ms_an_image:,.1f}",
        )
    facts = Table(show_header=False, box=lines)
    facts.add_column(no_wrap=True)
    facts.add_column(overflow="fold")
    for name, value in _facts(report):
        facts.add_row(name, value)
    console = Console(soft_wrap=True)
    console.print(stages)
    console.print(facts)


def _facts(report: Report) -> Iterator[tuple[str, str]]:
    yield "images/s", f"{report.images_per_second:,.1f}, {report.images:,} in {report.seconds:,.1f} s"
    yield "start of workers", f"{report.start_seconds:,.1f} s"
    yield "cores", f"{report.cores}, busy for {report.cores_busy:.0%}"
    if report.gpus_busy is not None:
        yield "GPUs", f"{report.gpus}, busy for {report.gpus_busy:.0%}"
    yield "waiting for the store", f"{report.waiting_for_store:.0%} of the time of those who decode"
    held_up_by = _HELD_UP_BY.get(report.bottleneck, report.bottleneck)
    yield "bottleneck", f"{held_up_by} (busy for {report.bottleneck_busy:.0%})"
    yield "with one more core", f"about {report.one_more_core:,.1f} images/s"
    if report.one_more_gpu is not None:
        yield "with one more GPU", f"about {report.one_more_gpu:,.1f} images/s"
    yield "with a store twice as fast", f"about {report.store_twice_as_fast:,.1f} images/s"
    if report.cost_of_a_million is not None:
        yield "cost of a million images", f"{report.cost_of_a_million:,.2f} at {report.price_per_hour:g} an hour"
