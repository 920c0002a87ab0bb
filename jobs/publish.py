"""Card, metadata, checksums, splits and page of a finished publication, from a cluster or a pipeline; or the check.

ray job submit -- python jobs/publish.py --config jobs/configs/publish.yaml [KEY=VALUE]...
"""

from pathlib import Path
from typing import Annotated

import typer

from prichexy.cli.console import exit_codes
from prichexy.cli.dry_run import DryRun, show_plan
from prichexy.cli.publish import run_publish
from prichexy.config import PublishConfig, load


def main(
    config: Annotated[Path | None, typer.Option(help="YAML file with the settings.")] = None,
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    dry_run: DryRun = False,
) -> None:
    """Write what stands beside the shards, or with check=true say what is missing, as the configuration says."""
    loaded = load(PublishConfig, config, overrides or ())
    if dry_run:
        show_plan(loaded, as_json)
    else:
        run_publish(loaded, as_json)


if __name__ == "__main__":
    with exit_codes():
        typer.run(main)
