"""Promotion from a cluster or a pipeline.

ray job submit -- python jobs/promote.py --config promote.yaml [KEY=VALUE]...
"""

from pathlib import Path
from typing import Annotated

import typer

from prichexy.cli.console import exit_codes
from prichexy.cli.dry_run import DryRun, show_plan
from prichexy.cli.promotion import run_promote
from prichexy.config import PromoteConfig, load


def main(
    config: Annotated[Path | None, typer.Option(help="YAML file with the settings.")] = None,
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    dry_run: DryRun = False,
) -> None:
    """Make an audited version the champion, as the configuration says."""
    loaded = load(PromoteConfig, config, overrides or ())
    if dry_run:
        show_plan(loaded, as_json)
    else:
        run_promote(loaded, as_json)


if __name__ == "__main__":
    with exit_codes():
        typer.run(main)
