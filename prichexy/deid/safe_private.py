"""Private attributes that pass (PS3.15 E.3.10, Retain Safe Private Option): only those that a setting names."""

from collections.abc import Iterator

from pydicom import DataElement, Dataset
from pydicom.config import IGNORE
from pydicom.datadict import private_dictionary_VR
from pydicom.tag import Tag

from prichexy.deid import cleaning

_NUMBERS = ("DS", "IS", "US", "SS", "UL", "SL", "FL", "FD")
_WORDS = ("CS", "SH", "LO")


def safe_private_elements(
    source: Dataset, allowed: frozenset[tuple[str, int, int]], encodings: list[str]
) -> Iterator[DataElement]:
    """The allowed private elements of one level, each block's creator before them.

    Args:
        source: the data set of this level.
        allowed: creator, group, last two digits of the element.
        encodings: Python's names of the level's character sets.
    """
    creators = _creators(source, {group for _, group, _ in allowed})
    for tag, element in source.items():
        creator = creators.get((tag.group, tag.element >> 8)) if tag.group % 2 and tag.element > 0xFF else None
        if creator is None or (creator, tag.group, tag.element & 0xFF) not in allowed:
            continue
        vr = _vr(element, tag, creator)
        if vr in _NUMBERS:
            value = cleaning.number(element, vr)
        elif vr in _WORDS:
            value = cleaning.safe_text(cleaning.texts(element, encodings), vr)
        else:
            continue
        if value is not None:
            yield DataElement(Tag(tag.group, tag.element >> 8), "LO", creator)
            yield DataElement(tag, vr, value, validation_mode=IGNORE)


def _creators(source: Dataset, groups: set[int]) -> dict[tuple[int, int], str]:
    """Private blocks (PS3.5 7.8.1): group and block number -> creator."""
    return {
        (tag.group, tag.element): "".join(cleaning.texts(element))
        for tag, element in source.items()
        if tag.group in groups and 0x10 <= tag.element <= 0xFF
    }


def _vr(element: cleaning.Element, tag: int, creator: str) -> str:
    """As the file has it; with implicit VR, as pydicom's dictionary of this creator has it."""
    if element.VR and element.VR != "UN":
        return str(element.VR)
    try:
        return str(private_dictionary_VR(tag, creator))
    except KeyError:
        return "UN"
