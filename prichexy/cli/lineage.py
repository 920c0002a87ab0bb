"""`prichexy lineage`: what was made with which model, found from either side."""

import json
import sys
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from prichexy import config as settings
from prichexy.cli.console import AsJson, Overrides, TrackingUri

_LONG = ("fingerprint", "code", "key_id", "audited")
"""Facts of a snapshot that stand above the table, or in JSON only."""


def lineage(
    what: Annotated[str, typer.Argument(help="Where the shards are, or models:/NAME/VERSION or models:/NAME@ALIAS.")],
    overrides: Overrides = None,
    tracking_uri: TrackingUri = None,
    as_json: AsJson = False,
) -> None:
    """Show which model, audit, secret and code made each snapshot; of a model, what was published with it.

    Of a destination the manifests tell, which their hashes prove. Of a model the registry's tags do, which
    `prichexy anonymize` sets when it is done.

    Example: `prichexy lineage models:/prichexy-net@champion`
    """
    loaded = settings.load(settings.StoragePlace, None, overrides or ())
    facts = _of_model(what, tracking_uri) if what.startswith("models:") else _of_destination(what, loaded.storage)
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    rows = facts.get("snapshots") or facts.get("published", [])
    out = Console(soft_wrap=not sys.stdout.isatty(), highlight=False)
    out.print(Text("\n".join(_lines(facts)), "bold"))
    shown = [name for name in rows[0] if name not in _LONG] if rows else []
    table = Table()
    for name in shown:
        table.add_column(name.replace("_", " "), overflow="fold", no_wrap=name in ("model", "destination"))
    for row in rows:
        table.add_row(*(Text(_told(row[name])) for name in shown))
    out.print(table if rows else Text("nothing was published with it"))


def _of_destination(destination: str, storage: settings.StorageConfig) -> dict[str, Any]:
    from prichexy.lake.lineage import lineage as run
    from prichexy.lake.storage import Store

    return {"destination": destination, "snapshots": [asdict(made) for made in run(Store(destination, storage))]}


def _of_model(uri: str, tracking_uri: str | None) -> dict[str, Any]:
    from prichexy.registry import Registry, publications

    registry = Registry(tracking_uri)
    model = registry.find(uri)
    return {
        "model": f"models:/{model.name}/{model.version}",
        "fingerprint": model.fingerprint,
        "latest_audit": model.audit_id or "",
        "published": [asdict(each) for each in publications(registry, model)],
    }


def _lines(facts: dict[str, Any]) -> list[str]:
    """What stands above the table: facts of the model, or what all snapshots share, each once."""
    lines = [f"{name.replace('_', ' ')}: {value or 'none'}" for name, value in facts.items() if isinstance(value, str)]
    for name in ("key_id", "code"):
        values = dict.fromkeys(str(row[name]) for row in facts.get("snapshots", ()))
        lines += [f"{name.replace('_', ' ')}: {value}" for value in values if value]
    return lines


def _told(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)
