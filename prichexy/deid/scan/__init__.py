"""Looks for identifiers in what was published, and believes nothing that was said about how it was made.

Four looks, none of which suffices alone: the allow-list read backwards over each DICOM file, patterns in each text,
a custodian's own list of identifiers in the bytes, and the text detector on the pixels.
"""

from prichexy.deid.burned_in import detect
from prichexy.deid.scan.canaries import Canaries
from prichexy.deid.scan.patterns import DEVICE_KINDS, IDENTIFIER_KINDS, text_identifiers
from prichexy.deid.scan.published_dicom import dicom_problems
from prichexy.imaging.radiograph import Pixels

__all__ = ["DEVICE_KINDS", "IDENTIFIER_KINDS", "Canaries", "dicom_problems", "text_identifiers", "text_in_image"]


def text_in_image(pixels_HW: Pixels, bit_depth: int, full_resolution: bool = False) -> int:
    """How many boxes of text an image holds, laterality marks not counted.

    The detector prefers recall, so a few images without any text have a box (README, burned-in text); what it finds
    is to be looked at by a person.

    Args:
        pixels_HW: (H, W) np.uint8 or np.uint16, grey levels 0 .. 2**bit_depth - 1.
        bit_depth: 8 to 16.
        full_resolution: as for `prichexy.deid.burned_in.detect`.

    Raises:
        UsageError: the text networks are not installed.
    """
    return sum(region.kind == "text" for region in detect(pixels_HW, bit_depth, full_resolution))
