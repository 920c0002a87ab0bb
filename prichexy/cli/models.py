"""`prichexy models`: what is in the registry, and how it gets there."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from prichexy import config as settings
from prichexy.cli.console import AsJson, Overrides, TrackingUri, show

models = typer.Typer(no_args_is_help=True, help="Models in the registry.\n\nExample: `prichexy models list`")


@models.command("import")
def models_import(
    file: Annotated[Path, typer.Argument(help="Published checkpoint (.pth, .pt, .pkl) or .safetensors.")],
    name: Annotated[str, typer.Option(help="Registered name.")] = "prichexy-net",
    mu: Annotated[
        float | None, typer.Option(help="Largest displacement, in half image widths (flow-field; 0.01).")
    ] = None,
    operator: Annotated[str | None, typer.Option(help="reference (published checkpoints) or corrected.")] = None,
    precision: Annotated[str | None, typer.Option(help="float32 or bfloat16.")] = None,
    tracking_uri: TrackingUri = None,
    as_json: AsJson = False,
) -> None:
    """Register a published checkpoint: weights only, nothing in the file is executed.

    Example: `prichexy models import generator_lowest_total_loss.pth --name prichexy-net --mu 0.01 --operator reference`
    """
    from prichexy.obfuscation import convert_checkpoint

    stated = {"mu": mu, "operator": operator, "precision": precision}
    given = {name: value for name, value in stated.items() if value is not None}
    _register(
        lambda folder: convert_checkpoint(file, folder, given),
        name,
        "imported checkpoint",
        tracking_uri,
        as_json,
    )


@models.command("create")
def models_create(
    kind: Annotated[str, typer.Argument(help="flow-field, privacy-net, dp-pix or identity.")],
    overrides: Overrides = None,
    name: Annotated[str | None, typer.Option(help="Registered name; the kind by default.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the weights of an untrained network.")] = 42,
    tracking_uri: TrackingUri = None,
    as_json: AsJson = False,
) -> None:
    """Register a model that needs no checkpoint: DP-Pix, the identity, or an untrained network for trials.

    Example: `prichexy models create dp-pix cell=8 epsilon=0.1 --name dp-pix-8`
    """
    from prichexy.obfuscation import create_untrained

    given = settings.parse_overrides(overrides or ())
    _register(
        lambda folder: create_untrained(kind, folder, seed, given), name or kind, "untrained", tracking_uri, as_json
    )


def _register(fill: Callable[[Path], object], name: str, origin: str, tracking_uri: str | None, as_json: bool) -> None:
    import tempfile

    from prichexy.registry import Registry

    with tempfile.TemporaryDirectory(prefix="prichexy-model-") as folder:
        fill(Path(folder))
        made = Registry(tracking_uri).register(Path(folder), name, origin)
    facts = {"model": f"models:/{made.name}/{made.version}", **made.settings.recorded()}
    show({**facts, "fingerprint": made.fingerprint}, as_json, "Registered")


@models.command("list")
def models_list(tracking_uri: TrackingUri = None, as_json: AsJson = False) -> None:
    """List every version of every model, with its obfuscation settings.

    Example: `prichexy models list --tracking-uri sqlite:///mlflow.db`
    """
    from prichexy.registry import Registry

    found = [
        {
            "model": f"models:/{model.name}/{model.version}",
            "aliases": ", ".join(model.aliases),
            **model.settings.recorded(),
            "audited": model.audited,
            "created": model.created,
        }
        for model in Registry(tracking_uri).list()
    ]
    if as_json:
        print(json.dumps(found, indent=2, default=str))
        return
    table = Table(title=f"Models: {len(found)}", title_justify="left", title_style="bold")
    for column in ("model", "aliases", "kind", "settings", "audited", "created"):
        table.add_column(column, overflow="fold", no_wrap=column in ("model", "kind"))
    for facts in found:
        rest = {
            key: value for key, value in facts.items() if key not in ("model", "aliases", "kind", "audited", "created")
        }
        created = facts["created"].strftime("%Y-%m-%d %H:%M") if facts["created"] else ""
        described = " ".join(f"{key}={value}" for key, value in rest.items())
        table.add_row(
            facts["model"], facts["aliases"], facts["kind"], described, "yes" if facts["audited"] else "no", created
        )
    Console(soft_wrap=not sys.stdout.isatty()).print(table)
