"""Headers to de-identify: a phantom DX file, and markers that can be found again in bytes."""

from datetime import date, timedelta
from functools import cache
from io import BytesIO
from typing import Any

from pydicom import Dataset, dcmread

from prichexy.cohort.phantom.cohort import PhantomStudy
from prichexy.cohort.phantom.dicom import Variant, dicom_file
from prichexy.deid import Pseudonyms

KEYS = Pseudonyms.from_secret(bytes(range(32)))
OTHER_KEYS = Pseudonyms.from_secret(bytes(range(1, 33)))
EXPLICIT, IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"


@cache
def phantom_file(patient: int = 0, study: int = 0, syntax: str = EXPLICIT, bits: int = 12) -> bytes:
    """A complete DX file of 96 x 80 pixels."""
    drawn = PhantomStudy(5, patient, study, (96, 80), f"P{patient:05d}", (), "PA", "F", 61)
    data_set, _ = dicom_file(drawn, Variant(syntax, bits, False, "window", False))
    return as_file(data_set)


def phantom_header(patient: int = 0, study: int = 0) -> Dataset:
    return dcmread(BytesIO(phantom_file(patient, study)), stop_before_pixels=True)


def as_file(data_set: Dataset) -> bytes:
    buffer = BytesIO()
    data_set.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def marker(vr: str, number: int) -> tuple[Any, bytes | None]:
    """A value of this VR that occurs nowhere else, and the bytes by which it is found; None where none are unique.

    Args:
        vr: value representation.
        number: below 100,000.
    """
    word = f"MRK{number:05d}"
    day = date(1600, 1, 1) + timedelta(number)  # no other date of the tests lies in those centuries
    digits = f"{day.year:04d}{day.month:02d}{day.day:02d}"
    match vr:
        case "UI":
            return f"1.2.999.{number}.71", f"1.2.999.{number}.71".encode()
        case "DA":
            return digits, digits.encode()
        case "DT":
            return f"{digits}235959.5+0130", digits.encode()
        case "TM":
            clock = f"{number // 3600 % 24:02d}{number // 60 % 60:02d}{number % 60:02d}.{number:06d}"
            return clock, clock.encode()
        case "AS":
            return "037Y", None
        case "UR":
            return f"http://{word}.example", word.encode()
        case "DS" | "IS":
            return f"77{number:06d}", f"77{number:06d}".encode()
        case "OB" | "OW" | "UN" | "OD" | "OF" | "OL" | "OV":
            return word.encode(), word.encode()
        case "US" | "SS" | "UL" | "SL" | "FL" | "FD" | "SV" | "UV":
            return 4711, None
        case "AT":
            return 0x00100010, None
        case _:
            return word, word.encode()
