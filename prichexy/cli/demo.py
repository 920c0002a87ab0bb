"""`prichexy demo`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from prichexy.cli.console import AsJson, show
from prichexy.errors import UsageError

if TYPE_CHECKING:
    from prichexy.demo import Kind

_KINDS = ("flow-field", "multi-scale-field")


def demo(
    folder: Annotated[Path, typer.Argument(help="Folder for everything that the demo makes.")] = Path("demo"),
    patients: Annotated[int, typer.Option(min=2, help="How many phantom patients.")] = 100,
    seed: Annotated[int, typer.Option(help="Seed of cohort and model.")] = 42,
    generator: Annotated[str, typer.Option(help=f"What is trained: {' or '.join(_KINDS)}.")] = "flow-field",
    as_json: AsJson = False,
) -> None:
    """Run all of it on the phantom cohort: local Ray, local files, sqlite, in minutes on two cores.

    Example: `prichexy demo demo/`
    """
    from prichexy.demo import run

    if generator not in _KINDS:
        raise UsageError(f"--generator {generator} is unknown: use {', '.join(_KINDS)}")
    show(run(folder, patients, seed, kind=cast("Kind", generator)), as_json, "Demo")
