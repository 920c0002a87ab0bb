"""`prichexy link`: the custodian's side of the link table."""

import csv
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from prichexy import config as settings
from prichexy.cli.console import AsJson, Overrides, show
from prichexy.errors import UsageError

if TYPE_CHECKING:
    from prichexy.deid import CustodianKey, LinkRow
    from prichexy.lake.storage import Store

link = typer.Typer(
    no_args_is_help=True,
    help="The link table, which leads from published images back to their sources; for the custodian only.\n\n"
    "Example: `prichexy link keygen custodian.key`",
)


@link.command("keygen")
def link_keygen(file: Annotated[Path, typer.Argument(help="New file for the secret key.")]) -> None:
    """Make the custodian's key pair: the secret key in FILE, the public recipient in FILE.pub.

    FILE stays with the custodian, away from the cluster; the job gets FILE.pub as link_recipient. Who loses FILE can
    never read the link table again.

    Example: `prichexy link keygen custodian.key`
    """
    from prichexy.deid import create_custodian_key

    create_custodian_key(file)
    Console(stderr=True, soft_wrap=True, highlight=False).print(
        f"wrote {file}, to be kept private and backed up, and {file}.pub, for link_recipient", markup=False
    )


@link.command("show")
def link_show(
    place: Annotated[str, typer.Argument(help="Where the link table is: the job's link_table.")],
    overrides: Overrides = None,
    key_file: Annotated[Path | None, typer.Option(help="The custodian's secret key.")] = None,
    image_id: Annotated[str | None, typer.Option(help="Only this published image.")] = None,
    patient_id: Annotated[str | None, typer.Option(help="Only this published patient.")] = None,
    csv_folder: Annotated[
        Path | None,
        typer.Option("--csv", help="New folder for patid_mapping.csv and uid_mapping.csv, instead of showing rows."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show which source each image comes from, with old and new ids; UIDs and issuers with --json.

    With --csv the ids are written as the MIDI-B validation script takes them (id_old,id_new). What this prints or
    writes identifies patients.

    Example: `prichexy link show s3://custodian/links --key-file custodian.key --image-id 0123456789abcdef`
    """
    from prichexy.deid import CustodianKey
    from prichexy.lake.storage import Store

    store = Store(place, settings.load(settings.StoragePlace, None, overrides or ()).storage)
    if csv_folder is not None:  # before the work, which may be long
        _check_new(csv_folder)
    rows = _chosen_rows(store, CustodianKey.from_file(key_file), image_id, patient_id)
    if csv_folder is not None:
        _write_mappings(rows, csv_folder, as_json)
    elif as_json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
    else:
        _print_table(list(rows))


def _chosen_rows(
    store: "Store", key: "CustodianKey", image_id: str | None, patient_id: str | None
) -> Iterator["LinkRow"]:
    """The opened rows of the image and patient that are asked for, by their new ids."""
    from prichexy.lake.link import read_links

    for sealed in read_links(store):
        row = key.open(sealed)
        if image_id in (None, row.image_id) and patient_id in (None, row.patient_new):
            yield row


def _print_table(rows: list["LinkRow"]) -> None:
    table = Table(title=f"Links: {len(rows):,}", title_justify="left", title_style="bold")
    for column in ("source", "image", "patient (old)", "patient (new)"):
        table.add_column(column, overflow="fold")
    for row in rows:
        shown = (row.uri, row.image_id, row.patient_old or "", row.patient_new or "")
        table.add_row(*(Text(printable(value)) for value in shown))
    Console(soft_wrap=not sys.stdout.isatty()).print(table)


def printable(text: str) -> str:
    """Text that may stand on a terminal: a foreign file's name may steer it, or hold what can't be printed at all."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def _check_new(folder: Path) -> None:
    if folder.exists() or folder.is_symlink():
        raise UsageError(f"--csv {folder} exists: choose a new folder")
    if not folder.parent.is_dir():
        raise UsageError(f"--csv {folder} can't be made: there is no folder {folder.parent}")


def _write_mappings(rows: Iterator["LinkRow"], folder: Path, as_json: bool) -> None:
    from prichexy.deid.link import id_mappings

    made = id_mappings(rows)
    try:
        folder.mkdir(mode=0o700)
        _write_csv(folder / "patid_mapping.csv", made.patients)
        _write_csv(folder / "uid_mapping.csv", made.uids)
    except OSError as error:
        raise UsageError(f"--csv {folder} can't be written: {error.strerror}") from None
    facts = {"folder": str(folder), "rows": made.rows, "patients": len(made.patients), "uids": len(made.uids)}
    show(facts, as_json, "Id mappings")


def _write_csv(path: Path, new_of_old: dict[str, str]) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8", errors="surrogatepass", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("id_old", "id_new"))
        writer.writerows(sorted(new_of_old.items()))
