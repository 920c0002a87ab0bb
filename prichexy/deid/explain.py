"""For one header, attribute by attribute: what kind of value stood there, what becomes of it, and by which rule."""

from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

from pydicom import Dataset
from pydicom.datadict import keyword_for_tag
from pydicom.tag import BaseTag

from prichexy.deid import cleaning
from prichexy.deid.header import DEEPEST, items_of
from prichexy.deid.profile import Action, ProfileOptions, ProfileRow, profile_rows, resolved_action, rules
from prichexy.imaging.silence import quiet

WORDS: dict[str, str] = {
    "X": "removed",
    "Z": "emptied",
    "D": "replaced by a dummy",
    "U": "UID replaced",
    "K": "kept if it can be checked",
    "C": "dates shifted",
}

_WRITTEN_ANEW = {
    "SpecificCharacterSet",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "DeidentificationMethodCodeSequence",
    "LongitudinalTemporalInformationModified",
}


class Explanation(NamedTuple):
    """One line for one attribute, free of values.

    Attributes:
        place: tags from the top level down, as in ``(0008,1140) > (0008,1155)``.
        name: keyword of the dictionary, "" for private and unknown attributes.
        kind: VR and size of what stood there, as in ``LO, 12 bytes`` or ``SQ, 2 items``.
        action: code of PS3.15 Table E.1-1a.
        rule: which table and row says so.
    """

    place: str
    name: str
    kind: str
    action: Action
    rule: str


def explain(source: Dataset, options: ProfileOptions) -> list[Explanation]:
    """What `prichexy.deid.deidentify` does with each attribute of a header, nested ones below those that hold them.

    Sequences that go as a whole are one line. No text of any value is in the result.
    """
    with quiet():
        return list(_explained(source, options, "", 0))


def _explained(source: Dataset, options: ProfileOptions, above: str, depth: int) -> Iterator[Explanation]:
    allowed = rules(options)
    for tag, element in source.items():
        place = f"{above}({tag.group:04X},{tag.element:04X})"
        action, reason = _action(tag, options)
        rule = allowed.get(tag)
        enters = rule is not None and rule.cleaning in ("items", "code", "required code")
        items = items_of(source, tag, depth) if enters and depth < DEEPEST else []
        name = "" if tag.is_private else keyword_for_tag(tag)
        yield Explanation(place, name, _kind(element, len(items)), action, reason)
        for item in items:
            yield from _explained(item, options, f"{place} > ", depth + 1)


def _kind(element: cleaning.Element, items: int) -> str:
    vr = element.VR or "implicit VR"
    if items:
        return f"{vr}, {items} item{'s' if items > 1 else ''}"
    value = element.value
    if isinstance(value, (bytes, str)):
        return f"{vr}, {len(value)} {'bytes' if isinstance(value, bytes) else 'characters'}"
    return str(vr)


def _action(tag: BaseTag, options: ProfileOptions) -> tuple[Action, str]:
    if tag.is_private:
        safe = any(group == tag.group and last == tag.element & 0xFF for _, group, last in options.safe_private)
        return ("K", "PS3.15 E.3.10, by creator") if safe else ("X", "PS3.15 E.1-1, private attributes")
    if keyword_for_tag(tag) in _WRITTEN_ANEW:
        return "D", "PS3.15 E.1.1: written anew"
    row = _row(tag)
    if row is not None and tag.group >= 8:
        return resolved_action(row, options), f"PS3.15 E.1-1, {row.name}: {row.basic}"
    rule = rules(options).get(tag)
    if rule is None:
        return "X", "in no table: only what radiograph.csv names may pass"
    return ("Z", "radiograph.csv: empty") if rule.cleaning == "none" else ("K", f"radiograph.csv: {rule.cleaning}")


@cache
def _rows() -> dict[str, ProfileRow]:
    return {row.tag: row for row in profile_rows()}


def _row(tag: BaseTag) -> ProfileRow | None:
    """The row of Table E.1-1, also of the repeating groups of curves and overlays."""
    digits = f"{int(tag):08X}"
    return _rows().get(digits) or _rows().get(f"{digits[:2]}xx{digits[4:]}") or _rows().get(f"{digits[:2]}xxxxxx")
