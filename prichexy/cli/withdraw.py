"""`prichexy withdraw`: what a patient asks to have removed is removed."""

import json
import re
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from prichexy import config as settings
from prichexy.cli.console import AsJson, Overrides, SecretFile, show
from prichexy.cli.link import printable
from prichexy.errors import UsageError

if TYPE_CHECKING:
    from prichexy.deid import LinkRow, Pseudonyms
    from prichexy.lake.withdrawal import Named

_PSEUDONYM = re.compile(r"[0-9a-f]{32}")

NOT_REACHED = {
    "private catalogs": "list the lake anew without the source files, and remove the older ones",
    "training tables": "prepare them anew from the new catalog, and remove the older ones",
    "workers' copies of training tables": "remove the folder that `cache` names, on every worker",
    "audit pages made with `gallery`": "remove them below its `out`, and in MLflow below audits/ of the model's run",
    "`figures` of a training": "remove them below its storage_path, and in MLflow among the artifacts of its runs",
    "former versions that a bucket keeps": "delete them there",
    "other destinations": "withdraw from them too",
    "copies that readers have": "tell them the image ids, which --json gives",
}
"""Where images or names of a patient may be beside the destination and the lake, and what clears it."""


def withdraw(
    destination: Annotated[
        str | None, typer.Argument(help="Where the shards are; may be left out with --link-table.")
    ] = None,
    overrides: Overrides = None,
    patient_id: Annotated[
        list[str] | None, typer.Option(help="Published patient_id, all of whose images go; may be given again.")
    ] = None,
    image_id: Annotated[list[str] | None, typer.Option(help="Published image_id; may be given again.")] = None,
    original: Annotated[
        Path | None, typer.Option(help="File with the original Patient ID, and on a second line who issued it.")
    ] = None,
    secret_file: SecretFile = None,
    link_table: Annotated[str | None, typer.Option(help="Remove the rows from this link table, too.")] = None,
    key_file: Annotated[
        Path | None, typer.Option(help="The custodian's secret key, which the link table takes.")
    ] = None,
    catalog: Annotated[
        str | None, typer.Option(help="The newest private catalog: also lists the source files, to be removed by you.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count only; write nothing.")] = False,
    discard_unfinished: Annotated[
        bool, typer.Option("--discard-unfinished", help="Give up a snapshot that is begun and not finished.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Take a patient's images out of all snapshots, as a new snapshot; killed and started again, it goes on.

    All other rows stay as they are, byte for byte, and so do all files without such rows. The card's files go, since
    they describe what was: run `prichexy publish` again. Later increments set images of the patient aside. Patients
    whom the labels name have no issuer.

    What this does not reach, and names again at its end with what clears it: the lake and the private catalogs,
    training tables and workers' copies of them (`cache`), audit pages made with `gallery`, the `figures` of a training
    in its place and in MLflow, former versions that a bucket with versioning keeps, other destinations, and copies that
    readers have.

    The custodian, who needs no project secret, removes rows of the link table alone by leaving out the destination.

    Example: `prichexy withdraw published/ --patient-id 0123456789abcdef0123456789abcdef --secret-file project.key`
    """
    if destination is not None and "=" in destination:  # no destination was given, and this is the first setting
        overrides = [destination, *(overrides or ())]
        destination = None
    storage = settings.load(settings.StoragePlace, None, overrides or ()).storage
    _check_usage(destination, link_table, key_file, catalog)
    from prichexy.deid import CustodianKey, Pseudonyms
    from prichexy.lake.storage import Store
    from prichexy.lake.withdrawal import withdraw as run

    custodian = CustodianKey.from_file(key_file) if link_table is not None else None
    needs_secret = destination is not None or original is not None
    keys = Pseudonyms.from_file(settings.secret_file(secret_file)) if needs_secret else None
    named = _named(patient_id or [], image_id or [], original, keys)
    facts: dict[str, Any] = {"destination": destination, "outcome": "would be withdrawn" if dry_run else "withdrawn"}
    linked = False
    if destination is not None:
        assert keys is not None
        done = run(Store(destination, storage), keys, named, dry_run=dry_run, discard_unfinished=discard_unfinished)
        facts, linked = asdict(done), done.linked
        facts["sources"] = None
        if catalog is not None:
            from prichexy.cohort.sources import sources_of

            facts["sources"] = sources_of(catalog, storage, keys, set(done.image_ids), named.patients)
    facts["link_rows"] = None
    if link_table is not None:
        from prichexy.lake.link import drop_links, read_links

        assert custodian is not None
        place, opened = Store(link_table, storage), custodian.open
        if dry_run:
            facts["link_rows"] = sum(_is_named(opened(sealed), named) for sealed in read_links(place))
        else:
            facts["link_rows"] = drop_links(place, lambda sealed: _is_named(opened(sealed), named))
    _tell(facts, as_json, linked)


def _check_usage(destination: str | None, link_table: str | None, key_file: Path | None, catalog: str | None) -> None:
    if destination is None and link_table is None:
        raise UsageError("name where the shards are, or with --link-table where the link table is")
    if (link_table is None) != (key_file is None):
        raise UsageError("--link-table and --key-file belong together: only the custodian's key opens its rows")
    if catalog is not None and destination is None:
        raise UsageError("--catalog lists the source files of published images: name where the shards are")


def _named(patients: list[str], images: list[str], original: Path | None, keys: "Pseudonyms | None") -> "Named":
    from prichexy.lake.withdrawal import Named

    for option, given in (("--patient-id", patients), ("--image-id", images)):
        if any(not _PSEUDONYM.fullmatch(each) for each in given):
            raise UsageError(
                f"{option} takes a published pseudonym, 32 hexadecimal digits; an original Patient ID belongs into a "
                "file, which --original names"
            )
    if original is not None:
        assert keys is not None
        patients = [*patients, keys.patient_id(*_original(original))]
    if not patients and not images:
        raise UsageError("name whom: --patient-id, --image-id or --original")
    return Named(frozenset(patients), frozenset(images))


def _original(path: Path) -> tuple[str, str]:
    """Issuer and Patient ID in a file; it never stands on a command line, which others on the machine can see."""
    try:
        lines = [line.strip() for line in path.read_text("utf-8-sig").splitlines()]
    except OSError as error:
        raise UsageError(f"--original {path} can't be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"--original {path} is no UTF-8 text") from None
    while lines and not lines[-1]:
        lines.pop()
    if not 1 <= len(lines) <= 2 or not lines[0]:
        raise UsageError(f"--original {path} must hold one Patient ID, and on a second line who issued it, if known")
    return (lines[1] if len(lines) == 2 else ""), lines[0]


def _is_named(row: "LinkRow", named: "Named") -> bool:
    return row.image_id in named.images or (row.patient_new is not None and row.patient_new in named.patients)


def _tell(facts: dict[str, Any], as_json: bool, linked: bool) -> None:
    link_rows, sources = facts["link_rows"], facts.get("sources")
    told = {name: value for name, value in facts.items() if name not in ("image_ids", "linked", "sources")}
    if as_json:
        print(json.dumps(facts, indent=2))
    else:
        said = {name: "-" if value is None else value for name, value in told.items()}
        said["link_rows"] = "not looked at" if link_rows is None else link_rows
        if "card_files" in said:
            said["card_files"] = ", ".join(said["card_files"]) or "none"
        show(said, False, "Withdrawal")
        out = Console(soft_wrap=not sys.stdout.isatty(), highlight=False)
        for source in sources or ():
            out.print(Text(f"source: {printable(source)}"))
    for note in _notes(facts, linked):
        Console(stderr=True, soft_wrap=True, highlight=False).print(note, markup=False)


def _notes(facts: dict[str, Any], linked: bool) -> list[str]:
    """What is left for people to do."""
    notes = []
    if linked and facts["link_rows"] is None:
        notes.append(
            "the link table still holds the rows: let the custodian remove them, with `prichexy withdraw --link-table "
            "PLACE --key-file FILE` and the same patients or images"
        )
    if facts.get("card_files"):
        notes.append("the card describes what was: run `prichexy publish` again")
    if facts.get("destination") is not None and facts.get("sources") is None:
        notes.append("the source files stay in the lake: --catalog lists them")
    if facts.get("destination") is not None:
        notes.append("not reached from here, to be cleared where there are any:")
        notes += [f"- {where}: {mend}" for where, mend in NOT_REACHED.items()]
    return notes
