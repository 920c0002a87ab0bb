"""`--dry-run` of the cluster jobs: options and output."""

from typing import Annotated, Any

import typer

from prichexy.cli.console import show
from prichexy.errors import PrichexyError

DryRun = Annotated[bool, typer.Option("--dry-run", help="Start and write nothing: print plan, resources, estimate.")]
PricePerHour = Annotated[float | None, typer.Option(min=0, help="Of the whole cluster, in any currency; for the cost.")]
ImagesPerSecond = Annotated[
    float | None, typer.Option(min=0.001, help="Of the whole cluster, as measured; for the dry run's estimate.")
]
SecondsPerAttack = Annotated[
    float | None, typer.Option(min=0.001, help="Of one attacker with one seed; for the dry run's estimate.")
]


def show_plan(config: Any, as_json: bool, **rates: float | None) -> None:
    """Print what the configuration's job would do.

    Args:
        config: as the job would be given it.
        as_json: for programs.
        **rates: fields of `prichexy.dry_run.Rates`.

    Raises:
        PrichexyError: the job would end with exit code 1; the plan is printed before.
    """
    from prichexy.dry_run import Rates, plan_of

    plan = plan_of(config, Rates(**rates))
    show(plan.shown(), as_json, "Dry run")
    if plan.refusal:
        raise PrichexyError(plan.refusal)
