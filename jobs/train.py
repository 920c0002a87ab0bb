"""Training on a cluster.

ray job submit -- python jobs/train.py --config jobs/configs/train-chestxray14.yaml [KEY=VALUE]...
"""

from pathlib import Path
from typing import Annotated

import typer

from prichexy.cli import run_train
from prichexy.cli.console import exit_codes
from prichexy.config import TrainConfig, load


def main(
    config: Annotated[Path, typer.Option(help="YAML file with the run's settings.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Train from a training table to a registered model, as the configuration says."""
    run_train(load(TrainConfig, config, overrides or ()), as_json)


if __name__ == "__main__":
    with exit_codes():
        typer.run(main)
