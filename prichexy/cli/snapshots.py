"""`prichexy snapshots`: what a destination has held, and the files that a reader needs."""

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from prichexy import config as settings
from prichexy.cli.console import AsJson, Overrides
from prichexy.errors import PrichexyError


def snapshots(
    destination: Annotated[str, typer.Argument(help="Where the shards are.")],
    overrides: Overrides = None,
    files: Annotated[int | None, typer.Option(min=1, help="Print this snapshot's data files, one a line.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show the snapshots of a publication; with `--files`, which data files one of them is.

    The current snapshot is all of `data/` as long as no image was replaced. Where one was, and for every earlier
    snapshot, these lists say what belongs together.

    Example: `prichexy snapshots published/ --files 2`
    """
    from prichexy.lake.job import current_snapshot
    from prichexy.lake.snapshots import read_manifest, shards_of
    from prichexy.lake.storage import Store

    store = Store(destination, settings.load(settings.StoragePlace, None, overrides or ()).storage)
    store.check_readable()
    numbers = range(1, current_snapshot(store) + 1) if files is None else [files]
    rows, paths = [], list[str]()
    for number in numbers:
        manifest = read_manifest(store, number)
        if manifest is None:
            raise PrichexyError(f"{destination} has no snapshot {number}, or its manifest was altered")
        paths = [commit.data.path for commit in shards_of(manifest) if commit.data]
        figures = ("published", "quarantined", "replaced", "withdrawn")
        counts = {name: manifest["counts"].get(name, 0) for name in figures}
        rows.append({"snapshot": number, "finished": manifest["finished"], **counts, "files": len(paths)})
    if files is not None:
        print(json.dumps(paths, indent=2) if as_json else "\n".join(paths))
        return
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    table = Table(title=f"Snapshots: {len(rows)}", title_justify="left", title_style="bold")
    for column in rows[0] if rows else ():
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    Console().print(table)
