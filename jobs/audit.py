"""An audit on a cluster.

ray job submit -- python jobs/audit.py --config audit.yaml [KEY=VALUE]...
"""

from pathlib import Path
from typing import Annotated

import typer

from prichexy.cli.audit import run_audit
from prichexy.cli.console import exit_codes
from prichexy.config import AuditConfig, load


def main(
    config: Annotated[Path, typer.Option(help="YAML file with the audit's settings.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Audit a model, as the configuration says; exit code 1 when the verdict is no."""
    run_audit(load(AuditConfig, config, overrides or ()), as_json)


if __name__ == "__main__":
    with exit_codes():
        typer.run(main)
