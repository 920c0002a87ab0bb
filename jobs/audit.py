"""An audit on a cluster, of one model or of several alike.

ray job submit -- python jobs/audit.py --config audit.yaml [KEY=VALUE]...
ray job submit -- python jobs/audit.py --compare --config compare.yaml [KEY=VALUE]...
"""

from pathlib import Path
from typing import Annotated

import typer

from prichexy.cli.audit import run_audit, run_compare
from prichexy.cli.console import exit_codes
from prichexy.cli.dry_run import DryRun, PricePerHour, SecondsPerAttack, show_plan
from prichexy.config import AuditConfig, CompareConfig, load


def main(
    config: Annotated[Path, typer.Option(help="YAML file with the settings of the audit, or of the comparison.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...")] = None,
    compare: Annotated[bool, typer.Option("--compare", help="Audit the configuration's rows alike.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    dry_run: DryRun = False,
    seconds_per_attack: SecondsPerAttack = None,
    price_per_hour: PricePerHour = None,
) -> None:
    """Audit a model, as the configuration says; exit code 1 when the verdict is no."""
    loaded = load(CompareConfig if compare else AuditConfig, config, overrides or ())
    if dry_run:
        show_plan(loaded, as_json, seconds_per_attack=seconds_per_attack, price_per_hour=price_per_hour)
    elif isinstance(loaded, CompareConfig):
        run_compare(loaded, as_json)
    else:
        run_audit(loaded, as_json)


if __name__ == "__main__":
    with exit_codes():
        typer.run(main)
