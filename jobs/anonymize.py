"""The main job on a cluster.

ray job submit -- python jobs/anonymize.py --config jobs/configs/anonymize.yaml [KEY=VALUE]...
"""

from pathlib import Path
from typing import Annotated

import typer

from prichexy.cli import run_anonymize
from prichexy.cli.console import exit_codes
from prichexy.cli.dry_run import DryRun, ImagesPerSecond, PricePerHour, show_plan
from prichexy.config import AnonymizeConfig, load


def main(
    config: Annotated[Path, typer.Option(help="YAML file with the job's settings.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    dry_run: DryRun = False,
    images_per_second: ImagesPerSecond = None,
    price_per_hour: PricePerHour = None,
) -> None:
    """Publish a lake as anonymized Parquet shards, as the configuration says."""
    loaded = load(AnonymizeConfig, config, overrides or (), price_per_hour=price_per_hour)
    if dry_run:
        show_plan(loaded, as_json, images_per_second=images_per_second, price_per_hour=loaded.price_per_hour)
    else:
        run_anonymize(loaded, as_json)


if __name__ == "__main__":
    with exit_codes():
        typer.run(main)
