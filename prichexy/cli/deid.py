"""`prichexy deid`: what de-identification does to one file."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from prichexy.cli.console import AsJson
from prichexy.errors import PrichexyError, Quarantined, UsageError

if TYPE_CHECKING:
    from prichexy.deid import ProfileOptions

_WIDTH = 160
"""Columns of the table where it goes to a file or another program."""


def deid(
    file: Annotated[Path, typer.Argument(help="A DICOM file of a radiograph.")],
    explain: Annotated[bool, typer.Option("--explain", help="Print it, tag by tag; --json implies it.")] = False,
    device_identity: Annotated[bool, typer.Option("--device-identity", help="As if devices keep their names.")] = False,
    modified_dates: Annotated[bool, typer.Option(help="As if dates are shifted, or emptied.")] = True,
    patient_characteristics: Annotated[bool, typer.Option(help="As if age, sex and size stay, or go.")] = True,
    text: Annotated[bool, typer.Option(help="Look for burned-in text, too.")] = True,
    as_json: AsJson = False,
) -> None:
    """Show what happens to one DICOM file: each attribute, the rule of the standard, and burned-in text.

    No value is shown, only what kind of value stands there. It needs no secret and writes nothing: pixels leave by
    `prichexy anonymize` only, obfuscated.

    Example: `prichexy deid image.dcm --explain --device-identity`
    """
    if not (explain or as_json):
        raise UsageError(
            "say --explain: `prichexy deid` only shows what would happen to a file; `prichexy anonymize` publishes, "
            "since pixels leave only obfuscated"
        )
    from prichexy.deid import ProfileOptions

    options = ProfileOptions(
        modified_dates=modified_dates,
        patient_characteristics=patient_characteristics,
        device_identity=device_identity,
        pixels_cleaned=text,
    )
    _print(_explained(file, options, text), as_json)


@dataclass(frozen=True)
class _Explained:
    """What is known of a file without any of its values; `regions` is None where no text was looked for."""

    attributes: list[dict[str, str]]
    regions: list[dict[str, Any]] | None


def _explained(path: Path, options: "ProfileOptions", text: bool) -> _Explained:
    from prichexy.deid import explain, read_header
    from prichexy.deid.burned_in import detect
    from prichexy.deid.explain import WORDS
    from prichexy.imaging import decode

    data = _dicom(path)
    try:
        radiograph = decode(data)
        lines = explain(read_header(data), options)
    except Quarantined as error:
        raise PrichexyError(f"the job would set the file aside: {error}") from None
    attributes = [{**line._asdict(), "becomes": WORDS[line.action]} for line in lines]
    if not text:
        return _Explained(attributes, None)
    found = detect(radiograph.pixels, radiograph.bit_depth)
    boxes = [{name: getattr(box, name) for name in ("kind", "x", "y", "width", "height")} for box in found]
    return _Explained(attributes, boxes)


def _dicom(path: Path) -> bytes:
    """The file's bytes, if they are DICOM. The path is not repeated: that of a source file may name a patient."""
    from prichexy.imaging.formats import DISPLAY_NAMES, sniff

    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"the file can't be read: {error.strerror}") from None
    kind = sniff(data)
    if kind != "dicom":
        names = {**DISPLAY_NAMES, "png": "PNG", "jpeg": "JPEG", "empty": "empty", "text": "text"}
        raise UsageError(
            f"the file is {names.get(kind, 'of an unknown format')}, not DICOM: it has no header to explain"
        )
    return data


def _print(found: _Explained, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"attributes": found.attributes, "burned_in_text": found.regions}, indent=2))
        return
    console = Console(width=None if sys.stdout.isatty() else _WIDTH)
    table = Table(title=f"Attributes: {len(found.attributes)}", title_justify="left", title_style="bold", box=SIMPLE)
    for column in ("place", "name", "what stands there", "action", "rule"):
        table.add_column(column, overflow="fold")
    for line in found.attributes:
        action = f"{line['action']}: {line['becomes']}"
        table.add_row(*(Text(cell) for cell in (line["place"], line["name"], line["kind"], action, line["rule"])))
    console.print(table)
    if found.regions is None:
        console.print("Burned-in text: not looked for")
    elif not found.regions:
        console.print("Burned-in text: none found")
    else:
        title = f"Burned-in text, boxes in pixels: {len(found.regions)}"
        boxes = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE)
        for column in found.regions[0]:
            boxes.add_column(column, justify="left" if column == "kind" else "right")
        for region in found.regions:
            boxes.add_row(*map(str, region.values()))
        console.print(boxes)
    console.print("Preamble and file meta information are written anew; pixels are obfuscated.")
