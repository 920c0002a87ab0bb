"""Text burned into the pixels: found, and covered with the local background; laterality marks stay.

DICOM PS3.15 E.3.1, the Clean Pixel Data option. It runs on the native image, before anything else looks at it.
"""

from dataclasses import dataclass, field
from typing import Literal

from prichexy.deid.burned_in.detection import Region, detect
from prichexy.deid.burned_in.filling import redact, text_mask
from prichexy.deid.burned_in.networks import require_networks
from prichexy.errors import Quarantined
from prichexy.imaging.radiograph import Pixels

__all__ = ["BurnedInText", "Cleaned", "Region", "clean", "detect", "redact", "require_networks"]

MOST_COVERED = 1 / 3
"""Share of an image that text may take up; beyond, the detector has taken anatomy for text, and what it found is
nothing to go by."""

BurnedInText = Literal["off", "detect-and-quarantine", "redact"]


@dataclass(frozen=True, slots=True, eq=False)
class Cleaned:
    """An image after its burned-in text was seen to.

    Attributes:
        pixels: (H, W), type and range of the input.
        regions: what was found; empty in mode "off", where nothing was looked for.
        laterality: the letter of the most certain laterality mark, to be stamped again where it did not stay;
            None if no mark reads exactly L or R.
    """

    pixels: Pixels = field(repr=False)
    regions: tuple[Region, ...]
    laterality: Literal["L", "R"] | None


def clean(pixels_HW: Pixels, bit_depth: int, mode: BurnedInText, full_resolution: bool = False) -> Cleaned:
    """The image without burned-in text.

    Args:
        pixels_HW: (H, W) np.uint8 or np.uint16, grey levels 0 .. 2**bit_depth - 1, at native resolution.
        bit_depth: 8 to 16.
        mode: "off" passes the image on unseen; "detect-and-quarantine" passes it on only without text other than
            laterality marks; "redact" covers such text.
        full_resolution: as for `detect`.

    Returns:
        The pixels to go on with, and what was found.

    Raises:
        Quarantined: ``BurnedInText``, in mode "detect-and-quarantine", and in mode "redact" where more than
            `MOST_COVERED` of the image would be covered.
        UsageError: the text networks are not installed (modes other than "off").
    """
    if mode == "off":
        return Cleaned(pixels_HW, (), None)
    regions = tuple(detect(pixels_HW, bit_depth, full_resolution))
    texts = sum(region.kind == "text" for region in regions)
    if texts and mode == "detect-and-quarantine":
        raise Quarantined("deidentify", "BurnedInText", f"text is burned into the image ({texts} regions)")
    if texts and text_mask(pixels_HW.shape, regions).mean() > MOST_COVERED:
        raise Quarantined("deidentify", "BurnedInText", "what looks like text takes up more than a third of the image")
    marks = [region for region in regions if region.letter]
    laterality = max(marks, key=lambda mark: mark.score).letter if marks else None
    return Cleaned(redact(pixels_HW, bit_depth, regions) if texts else pixels_HW, regions, laterality)
