"""What happens to each attribute: PS3.15 Table E.1-1, the options that are offered, and what a radiograph may keep.

Three tables are data (`tables/`): `profile.csv` is the standard's, `codes.csv` are the standard's codes, and
`radiograph.csv` is ours: the attributes of the CR and DX objects (PS3.3 A.2, A.26) that may pass though the standard's
table does not name them, each with the kind of value that is let through, and its type (1, 2 or 3).

Where the standard leaves a choice (X/Z, Z/D, X/Z/D, ...) the attribute's type in the CR and DX objects decides: type 1
takes D, type 2 takes Z, all others X (Z where X is not offered). X/Z/U* keeps the sequence and replaces the UIDs in it.
What no table names is dropped.
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Literal, NamedTuple

from pydicom.datadict import dictionary_VR, tag_for_keyword

Action = Literal["X", "Z", "D", "U", "K", "C"]
"""Action codes of PS3.15 Table E.1-1a: remove, empty, dummy value, new UID, keep, clean."""

_TABLES = Path(__file__).parent / "tables"
_DATES = ("DA", "DT", "TM")


@dataclass(frozen=True, slots=True)
class ProfileOptions:
    """Which options of PS3.15 E.3 are on. Each is stated in the output by its code (PS3.16 CID 7050).

    Attributes:
        modified_dates: Retain Longitudinal Temporal Information with Modified Dates: dates move by the patient's own
            number of days, times stay. Off: dates and times are emptied or removed.
        patient_characteristics: Retain Patient Characteristics: age (capped at 90 years), sex, size, weight, smoking
            status, pregnancy status. Free text of that column (allergies, ethnic group, ...) is removed all the same.
        device_identity: Retain Device Identity: manufacturer, model, serial numbers, station name, device UIDs.
        pixels_cleaned: Clean Pixel Data: text burned into the pixels was looked for and covered. A fact about the
            caller's work, not a wish: without it the output does not say that the patient's identity was removed.
        safe_private: private attributes that pass: (creator, group, last two digits of the element), as in
            ``("ACME DETECTOR 1.0", 0x0019, 0x10)``. Numbers and short text only.
    """

    modified_dates: bool = True
    patient_characteristics: bool = True
    device_identity: bool = False
    pixels_cleaned: bool = False
    safe_private: frozenset[tuple[str, int, int]] = frozenset()


class ProfileRow(NamedTuple):
    """A row of Table E.1-1; `tag` has x for any digit, `keyword` and `vr` are "" where the dictionary lacks it."""

    tag: str
    keyword: str
    vr: str
    basic: str
    modified_dates: str
    patient: str
    device: str
    name: str


class KeptAttribute(NamedTuple):
    """A row of `radiograph.csv`."""

    keyword: str
    type: str
    rule: str
    terms: frozenset[str]


class Rule(NamedTuple):
    """What to do with one attribute.

    Attributes:
        vr: how the output encodes it.
        cleaning: name of the cleaning that a value passes (`prichexy.deid.cleaning`), "none" for no value at all.
        otherwise: what is written where no value comes through: X nothing, Z empty, D a dummy.
        terms: for cleaning "term", the values that pass.
    """

    vr: str
    cleaning: str
    otherwise: Literal["X", "Z", "D"]
    terms: frozenset[str] = frozenset()


@cache
def profile_rows() -> tuple[ProfileRow, ...]:
    """Table E.1-1 of PS3.15, edition 2026c: 655 rows."""
    with (_TABLES / "profile.csv").open(newline="", encoding="utf-8") as file:
        return tuple(ProfileRow(**row) for row in csv.DictReader(file))


@cache
def kept_attributes() -> Mapping[str, KeptAttribute]:
    """By keyword: what a radiograph may keep beside the standard's table, and the types that settle its choices."""
    with (_TABLES / "radiograph.csv").open(newline="", encoding="utf-8") as file:
        rows = (
            KeptAttribute(row["keyword"], row["type"], row["rule"], frozenset(filter(None, row["terms"].split("|"))))
            for row in csv.DictReader(file)
        )
        return MappingProxyType({row.keyword: row for row in rows})


@cache
def known_codes() -> Mapping[tuple[str, str], str]:
    """(coding scheme, code value) -> meaning, for the codes that a radiograph's header may carry."""
    with (_TABLES / "codes.csv").open(newline="", encoding="utf-8") as file:
        return MappingProxyType({(row["scheme"], row["value"]): row["meaning"] for row in csv.DictReader(file)})


def resolved_action(row: ProfileRow, options: ProfileOptions) -> Action:
    """The one action of a row under these options.

    K of an option gives way to the stricter action where the value can't be checked: patient characteristics in free
    text, and dates of devices, which move or go like all others. C is offered for dates only; elsewhere the basic
    action stands.
    """
    attribute = kept_attributes().get(row.keyword)
    if options.modified_dates and row.modified_dates == "C":
        return "C"
    if options.patient_characteristics and row.patient == "K" and attribute is not None:
        return "K"
    if options.device_identity and row.device == "K" and row.vr not in _DATES:
        return "K"
    return _basic_action(row, attribute.type if attribute else "3")


def _basic_action(row: ProfileRow, iod_type: str) -> Action:
    if row.basic == "X/Z/U*":
        return "U"
    choices = row.basic.split("/")
    if len(choices) == 1:
        return _ACTIONS[row.basic]
    wished = {"1": "D", "2": "Z"}.get(iod_type, "X")
    return _ACTIONS[wished if wished in choices else choices[0]]


_ACTIONS: dict[str, Action] = {"X": "X", "Z": "Z", "D": "D", "U": "U"}


@cache
def rules(options: ProfileOptions) -> Mapping[int, Rule]:
    """By tag, what to do with each attribute that does not simply go; a tag that is missing here is dropped.

    Groups 0000, 0002 and 0004 of the table (commands, file meta, directories) have no place in a data set: they go, and
    file meta is written anew.
    """
    found: dict[int, Rule] = {}
    for attribute in kept_attributes().values():
        rule = _kept_rule(attribute, options)
        if rule is not None:
            found[_tag(attribute.keyword)] = rule
    for row in profile_rows():
        if row.keyword and row.tag >= "0008" and (rule := _profile_rule(row, options)) is not None:
            found[int(row.tag, 16)] = rule
    return MappingProxyType(found)


def _tag(keyword: str) -> int:
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise LookupError(f"{keyword} in radiograph.csv is no keyword of the standard")
    return tag


def _kept_rule(attribute: KeptAttribute, options: ProfileOptions) -> Rule | None:
    """The rule of an attribute that the standard's table does not name."""
    if not attribute.rule or attribute.rule.startswith("patient "):
        return None
    cleaning = attribute.rule
    if cleaning == "empty" or (cleaning == "device" and not options.device_identity):
        cleaning = "none"
    otherwise: Literal["X", "Z"] = "Z" if attribute.type in ("1", "2") else "X"
    if cleaning == "none" and otherwise == "X":
        return None
    return Rule(dictionary_VR(attribute.keyword), cleaning, otherwise, attribute.terms)


def _profile_rule(row: ProfileRow, options: ProfileOptions) -> Rule | None:
    attribute = kept_attributes().get(row.keyword)
    basic = _basic_action(row, attribute.type if attribute else "3")
    otherwise: Literal["X", "Z", "D"] = basic if basic in ("Z", "D") else "X"
    match resolved_action(row, options):
        case "X":
            return None
        case "U" if row.vr == "SQ":
            return Rule("SQ", "items", "X")
        case "U":
            return Rule(row.vr, "uid", "X")
        case "C":
            return Rule(row.vr, {"DA": "date", "DT": "date and time", "TM": "time"}[row.vr], otherwise)
        case "K" if attribute is not None:
            return Rule(row.vr, attribute.rule.removeprefix("patient "), otherwise, attribute.terms)
        case "K":
            cleaning = {"SQ": "items", "UI": "device uid", "DS": "number"}.get(row.vr, "device")
            return Rule(row.vr, cleaning, otherwise)
        case "D" if row.vr == "SQ":
            return Rule("SQ", "items", "D")
        case _:
            return Rule(row.vr, "uid" if row.vr == "UI" else "none", otherwise)
