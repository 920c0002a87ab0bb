"""What passes of a single value: each cleaning lets through what it can prove to be harmless, and nothing else.

Values are read from the bytes of the file and parsed here, strictly. One that can't be parsed is not passed on.
"""

import re
import struct
from collections.abc import Sequence as Values
from datetime import date, timedelta
from typing import Any

from pydicom.charset import decode_bytes
from pydicom.config import IGNORE
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.uid import UID
from pydicom.valuerep import TEXT_VR_DELIMS, PersonName

Element = DataElement | RawDataElement

OLDEST = 90
"""Years: older patients are so few that their age tells who they are; 090Y stands for 90 and above."""

_LONGEST = 4096
"""Bytes of a value that is looked at; none that may pass is longer."""

_TEXT_LENGTH = {"AE": 16, "CS": 16, "SH": 16, "LO": 64, "PN": 64, "ST": 1024, "LT": 1024, "UC": 1024, "UT": 1024}
_BINARY = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "FL": "f", "FD": "d"}
_TOP = {"US": 2**16, "SS": 2**15, "UL": 2**32, "SL": 2**31}
_LARGEST_NUMBER = 10**7
"""No measure of an X-ray exposure in DICOM's units is larger; numbers of patients and orders often are."""

# ASCII: Python also takes the digits of other scripts for digits.
_NUMBER = re.compile(r"[+-]?(\d{1,8}(\.\d{0,10})?|\.\d{1,10})([eE][+-]?\d{1,2})?", re.ASCII)
_COUNT = re.compile(r"[+-]?\d{1,5}", re.ASCII)
_AGE = re.compile(r"(\d{3})([DWMY])", re.ASCII)
_DATE = re.compile(r"(\d{4})\.?(\d{2})\.?(\d{2})", re.ASCII)
_TIME = re.compile(r"([01]\d|2[0-3])(?::?([0-5]\d)(?::?([0-5]\d|60)(\.\d{1,6})?)?)?", re.ASCII)
_OFFSET = re.compile(r"[+-]\d{4}$", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ufffd]")
_DAYS = {"D": 1.0, "W": 7.0, "M": 365.25 / 12, "Y": 365.25}

DUMMIES: dict[str, Any] = {
    **dict.fromkeys(("AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UT"), "REMOVED"),
    **dict.fromkeys(("DS", "IS"), "0"),
    **dict.fromkeys(("FD", "FL", "SL", "SS", "UL", "US"), 0),
    **dict.fromkeys(("OB", "UN", "OW"), b"\0\0"),
    "AS": "000Y",
    "AT": 0,
    "DA": "19000101",
    "DT": "19000101000000",
    "TM": "000000",
    "UR": "http://removed.invalid",  # RFC 2606 keeps this domain for such uses
}
"""By VR, the value that action D writes."""


def texts(element: Element, encodings: list[str] | None = None) -> list[str]:
    """The values of an element as text without padding; [] where it holds none, or is too long or no text.

    Args:
        element: as the file has it, or built in memory.
        encodings: Python's names for the data set's character sets; None for the VRs of plain ASCII.
    """
    value = element.value
    if isinstance(value, Sequence) or value is None:
        return []
    if isinstance(value, bytes):
        if len(value) > _LONGEST:
            return []
        value = decode_bytes(value, encodings, TEXT_VR_DELIMS) if encodings else value.decode("latin-1")
    elif isinstance(value, (list, tuple, MultiValue)):
        value = "\\".join(map(str, value)) if all(isinstance(each, _PLAIN) for each in value) else ""
    elif not isinstance(value, _PLAIN):
        return []
    return [part.strip("\0 \t\r\n") for part in str(value)[:_LONGEST].split("\\")]


_PLAIN = (str, int, float, PersonName)


def term(values: list[str], terms: frozenset[str]) -> str | list[str] | None:
    """Defined terms, if every value is one."""
    capitals = [value.upper() for value in values]
    return _one_or_all(capitals) if capitals and set(capitals) <= terms else None


def image_type(values: list[str], terms: frozenset[str]) -> list[str] | None:
    """The first two values of Image Type (PS3.3 C.7.6.1.1.2); what makers add is dropped."""
    two = [value.upper() for value in values[:2]]
    return two if len(two) == 2 and set(two) <= terms else None


def number(element: Element, vr: str) -> Any:
    """Measured values: at most seven digits before the point, in the VR of the dictionary."""
    if vr not in _BINARY:
        values = texts(element)
        legible = all(_NUMBER.fullmatch(v) and abs(float(v)) < _LARGEST_NUMBER and len(v) <= 16 for v in values)
        whole = vr != "IS" or all(re.fullmatch(r"[+-]?\d+", v) for v in values)
        return _one_or_all(values) if values and legible and whole else None
    numbers = _binary_numbers(element, vr)
    top = min(_TOP.get(vr, _LARGEST_NUMBER), _LARGEST_NUMBER)
    return _one_or_all(numbers) if numbers and all(-top < n < top for n in numbers) else None


def _binary_numbers(element: Element, vr: str) -> list[Any]:
    value = element.value
    if isinstance(value, bytes):
        written = element.VR if element.VR in _BINARY else vr
        size = struct.calcsize(_BINARY[written])
        if not value or len(value) % size or len(value) > 64 * size:
            return []
        little = not isinstance(element, RawDataElement) or element.is_little_endian
        numbers = list(struct.unpack(f"{'<' if little else '>'}{len(value) // size}{_BINARY[written]}", value))
    else:
        numbers = list(value) if isinstance(value, (list, tuple, MultiValue)) else [value]
    kinds = (int,) if vr in _TOP else (int, float)
    unsigned = vr in ("US", "UL")
    return numbers if all(isinstance(n, kinds) and not (unsigned and n < 0) for n in numbers) else []


def count(values: list[str]) -> str | list[str] | None:
    """Running numbers of at most five digits: longer ones are often those of orders."""
    return _one_or_all(values) if values and all(_COUNT.fullmatch(value) for value in values) else None


def age(values: list[str]) -> str | None:
    """An age (AS, PS3.5 6.2), 90 years and above as 090Y, in whatever unit it is given."""
    found = _AGE.fullmatch(values[0]) if len(values) == 1 else None
    if found is None:
        return None
    years = int(found[1]) * _DAYS[found[2]] / _DAYS["Y"]
    return f"{OLDEST:03d}Y" if years >= OLDEST else values[0]


def shifted_dates(values: list[str], days: int | None) -> str | list[str] | None:
    """Dates (DA), moved by whole days; None where one is invalid or leaves the calendar."""
    return _each(values, lambda value: _shifted(value, days))


def shifted_datetimes(values: list[str], days: int | None) -> str | list[str] | None:
    """Dates with times (DT), moved by whole days. One less precise than a day is invalid; time zones are dropped."""
    return _each(values, lambda value: _shifted_datetime(value, days))


def times(values: list[str], days: int | None) -> str | list[str] | None:
    """Times of day (TM), without the colons of old files; None where one is invalid or dates don't pass either."""
    return None if days is None else _each(values, _time)


def _shifted(value: str, days: int | None) -> str | None:
    found = _DATE.fullmatch(value)
    if found is None or days is None:
        return None
    try:
        moved = date(int(found[1]), int(found[2]), int(found[3])) + timedelta(days)
    except (ValueError, OverflowError):
        return None
    return f"{moved.year:04d}{moved.month:02d}{moved.day:02d}"


def _shifted_datetime(value: str, days: int | None) -> str | None:
    moved, clock = _shifted(value[:8], days), _OFFSET.sub("", value[8:])
    if moved is None or not clock:
        return moved
    time = _time(clock)
    return None if time is None else moved + time


def _time(value: str) -> str | None:
    found = _TIME.fullmatch(value)
    return None if found is None else value.replace(":", "")


def _each(values: list[str], change: Any) -> str | list[str] | None:
    changed = [change(value) for value in values]
    return _one_or_all(changed) if changed and None not in changed else None


def safe_text(values: list[str], vr: str) -> str | list[str] | None:
    """Text that fits its VR and holds no control character."""
    longest = _TEXT_LENGTH.get(vr, 0)
    fits = all(len(value) <= longest and not _CONTROL.search(value) for value in values)
    return _one_or_all(values) if any(values) and fits else None


def is_standard_uid(uid: str) -> bool:
    """Whether the standard itself defines this UID (PS3.6 Annex A): it names no instance of anybody's."""
    found = UID(uid, validation_mode=IGNORE)
    return found == uid and found.name != uid  # the first: UID strips more kinds of space than padding


def _one_or_all(values: Values[Any]) -> Any:
    return values[0] if len(values) == 1 else list(values)


def legible_uids(values: list[str]) -> str | list[str] | None:
    """UIDs of the right form (PS3.5 9.1)."""
    legible = all(len(value) <= 64 and re.fullmatch(r"[0-9]+(\.[0-9]+)*", value) for value in values)
    return _one_or_all(values) if values and legible else None
