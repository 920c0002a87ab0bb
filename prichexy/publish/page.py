"""The data set's page: one HTML file that opens without any network, and loads nothing (W3C CSP Level 3)."""

import base64
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from markupsafe import Markup
from PIL import Image

from prichexy.imaging import decode_published
from prichexy.pages import templates_in
from prichexy.publish import figures
from prichexy.publish.facts import Facts
from prichexy.publish.limits import limits

_FOLDER = Path(__file__).parent

LONGEST_SIDE = 512
"""Of an example image on the page, in pixels."""


@dataclass(frozen=True)
class Example:
    """An image that the page shows.

    Attributes:
        image_id: its pseudonym.
        caption: view and findings, as published.
        data_uri: an 8-bit PNG of at most `LONGEST_SIDE` pixels.
        width: of that PNG.
        height: of that PNG.
    """

    image_id: str
    caption: str
    data_uri: str
    width: int
    height: int


def page(facts: Facts) -> str:
    """The page's HTML: figures, tables, and of the images none but those that the publisher named.

    Raises:
        StorageFault: an example can't be read.
    """
    pages = templates_in(_FOLDER)
    pages.filters["figure"] = lambda value: "\N{EN DASH}" if value is None else f"{value:.3f}"
    pages.filters["count"] = lambda value: "withheld" if value is None else f"{value:,}"
    return pages.get_template("page.html.j2").render(
        facts=facts,
        config=facts.config,
        census=facts.census,
        publication=facts.publication,
        plots={table.name: figures.bars(table) for table in facts.tables},
        audits=[
            (found, figures.attackers(found.record, f"audit-{number}"), limits(found.record))
            if found.record
            else (found, None, [])
            for number, found in enumerate(facts.evidence)
        ],
        examples=examples(facts),
        style=Markup((_FOLDER / "page.css").read_text(encoding="utf-8")),
    )


def examples(facts: Facts) -> list[Example]:
    """The images that the publisher allowed, in the order in which they were named."""
    shown = []
    for image_id in facts.config.show:
        place = facts.census.places[image_id]
        small = _eight_bits(facts.publication.image(place.file, place.row))
        buffer = io.BytesIO()
        small.save(buffer, "PNG")
        named = ", ".join(name.replace("_", " ") for name in place.findings or ())
        found = "not labelled" if place.findings is None else named or "no finding"
        caption = f"{place.view}, {found}" if place.view else found
        uri = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
        shown.append(Example(image_id, caption, uri, *small.size))
    return shown


def _eight_bits(image: bytes) -> Image.Image:
    """A published image as 8-bit grey of at most `LONGEST_SIDE`."""
    radiograph = decode_published(image)
    small = Image.fromarray((radiograph.pixels >> (radiograph.bit_depth - 8)).astype(np.uint8))
    small.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.BILINEAR)
    return small
