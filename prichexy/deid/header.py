"""The de-identified header of a radiograph: one pass over the data set, one dictionary lookup an attribute."""

from hashlib import sha256
from io import BytesIO
from typing import Any

from pydicom import DataElement, Dataset, dcmread
from pydicom.charset import convert_encodings
from pydicom.config import IGNORE
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag
from pydicom.uid import DigitalXRayImageStorageForPresentation, DigitalXRayImageStorageForProcessing

from prichexy.deid import cleaning
from prichexy.deid.keys import Pseudonyms
from prichexy.deid.profile import ProfileOptions, Rule, known_codes, rules
from prichexy.deid.safe_private import safe_private_elements
from prichexy.deid.statement import coded_entry, state_deidentification
from prichexy.errors import Quarantined
from prichexy.imaging.silence import quiet

DEEPEST = 8
"""Sequences nested deeper are dropped; the CR and DX objects need three levels."""

_NO_OPTIONS = ProfileOptions()
_CHARACTER_SET = 0x00080005
_UNKNOWN = ("261665006", "SCT", "Unknown")
_CHEST = ("816094009", "SCT", "Chest")
_CHEST_WORDS = ("CHEST", "THORA", "TORAX", "TORACE")
_ANATOMIC_REGION = 0x00082218
_AS_PRESENTED = {str(DigitalXRayImageStorageForProcessing): str(DigitalXRayImageStorageForPresentation)}
"""Published pixels are what a radiologist sees, so the output (and what refers to it) is for presentation."""


def read_header(data: bytes) -> Dataset:
    """The elements of a DICOM file before its pixel data, values unparsed.

    For files that `prichexy.imaging.decode` accepted: it has refused those that inflate beyond all limits.

    Raises:
        Quarantined: ``Unreadable``.
    """
    try:
        with quiet():
            return dcmread(BytesIO(data), stop_before_pixels=True, force=True)
    except Exception:
        pass
    raise Quarantined("deidentify", "Unreadable", "the DICOM header can't be read")  # carries no context of a library


def header_bytes(header: Dataset) -> bytes:
    """A de-identified header as bytes that `read_header` takes back: explicit VR, little endian, no file meta."""
    buffer = BytesIO()
    with quiet():
        header.save_as(buffer, implicit_vr=False, little_endian=True)
    return buffer.getvalue()


def deidentify(
    source: Dataset,
    keys: Pseudonyms,
    options: ProfileOptions = _NO_OPTIONS,
    patient: tuple[str, str] | None = None,
    replaced: dict[str, str] | None = None,
) -> Dataset:
    """The header that may be published, by the Basic Application Level Confidentiality Profile (PS3.15 Annex E).

    Pixel data never pass, nor what describes them but for their size: `prichexy.deid.image.dicom_bytes` sets these
    for the pixels that are published. File meta and preamble do not pass either. Elements that can't be parsed are
    dropped, or emptied where the CR and DX objects need them. The same source gives the same header with one key.

    Args:
        source: the header as the file has it; it is not changed.
        keys: the project's pseudonyms.
        options: which options of the profile are on.
        patient: issuer and Patient ID where a better source than the header names them (the catalog's labels);
            pseudonym and date shift follow it.
        replaced: for the link table: takes up every UID that was replaced, at any depth, with what replaced it.
            UIDs that are made because the file has none don't count; when this raises, some may be missing.
            Identifiers: never to be passed on in the clear.

    Returns:
        A new data set, text in UTF-8.

    Raises:
        Quarantined: ``Unreadable`` and nothing else, whatever the data set holds; without any value in it.
    """
    try:
        with quiet():
            return _deidentified(source, keys, options, patient or patient_key(source), replaced)
    except MemoryError:
        raise
    except Exception:
        pass
    raise Quarantined("deidentify", "Unreadable", "the DICOM header can't be de-identified")


def patient_key(source: Dataset) -> tuple[str, str] | None:
    """Issuer and Patient ID as the file has them, None without a Patient ID. Identifiers: never to be passed on."""
    issuer, patient = (
        (value if isinstance(value, str) else "\\".join(map(str, value))).strip("\0 \t\r\n")
        for value in (source.get("IssuerOfPatientID") or "", source.get("PatientID") or "")
    )
    return (issuer, patient) if patient else None


def _deidentified(
    source: Dataset,
    keys: Pseudonyms,
    options: ProfileOptions,
    patient: tuple[str, str] | None,
    replaced: dict[str, str] | None,
) -> Dataset:
    shift = _date_shift(source, keys, patient) if options.modified_dates else None
    walk = _Walk(keys, options, shift, replaced)
    header = walk.cleaned(source, 0, ["iso8859"])
    header.add(DataElement(_CHARACTER_SET, "CS", "ISO_IR 192"))
    if patient is not None:
        header.PatientID = keys.patient_id(*patient)
    _fill_uids(header, source, keys)
    state_deidentification(header, options, dates_kept=shift is not None)
    return header


def _date_shift(source: Dataset, keys: Pseudonyms, patient: tuple[str, str] | None) -> int | None:
    """The patient's own shift in days; without a patient the study's own; None where neither is known."""
    if patient is None:
        study = source.get_item("StudyInstanceUID")
        uid = "".join(cleaning.texts(study)) if study is not None else ""
        if not uid:
            return None
        patient = ("study of unknown patient", uid)
    return keys.date_shift(*patient)


def _fill_uids(header: Dataset, source: Dataset, keys: Pseudonyms) -> None:
    """UIDs that an image can't do without, made from its own content where the file has none."""
    missing = [
        name for name in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID") if not header.get(name, None)
    ]
    if not missing:
        return
    content = sha256(header.to_json().encode())
    pixels = source.get_item("PixelData")
    if pixels is not None and isinstance(pixels.value, bytes):
        content.update(pixels.value)
    for name in missing:
        setattr(header, name, keys.uid(f"{name} of {content.hexdigest()}"))


class _Walk:
    """One pass: the rules, the keys and the patient's date shift, applied at each level of nesting."""

    def __init__(
        self, keys: Pseudonyms, options: ProfileOptions, shift: int | None, replaced: dict[str, str] | None
    ) -> None:
        self._keys = keys
        self._rules = rules(options)
        self._safe_private = options.safe_private
        self._shift = shift
        self._replaced = replaced

    def cleaned(self, source: Dataset, depth: int, encodings: list[str]) -> Dataset:
        """A new data set with what passes of this one and of the sequences in it."""
        encodings = _encodings(source, encodings)
        result = Dataset()
        for tag, element in source.items():
            rule = self._rules.get(tag)
            if rule is not None:
                value = self._value(source, tag, element, rule, depth, encodings)
                if value is None and rule.otherwise != "X":
                    value = _substitute(rule)
                if value is not None:
                    result.add(DataElement(tag, rule.vr, value, validation_mode=IGNORE))
        if self._safe_private:
            for private in safe_private_elements(source, self._safe_private, encodings):
                result.add(private)
        return result

    def _value(
        self, source: Dataset, tag: BaseTag, element: cleaning.Element, rule: Rule, depth: int, encodings: list[str]
    ) -> Any:
        """What passes of one value; None where nothing does."""
        match rule.cleaning:
            case "none":
                return None
            case "term":
                return cleaning.term(cleaning.texts(element), rule.terms)
            case "number":
                return cleaning.number(element, rule.vr)
            case "uid":
                return self._uids(element)
            case "class":
                found = cleaning.texts(element)
                return [_AS_PRESENTED.get(uid, uid) for uid in found if cleaning.is_standard_uid(uid)] or None
            case "date":
                return cleaning.shifted_dates(cleaning.texts(element), self._shift)
            case "time":
                return cleaning.times(cleaning.texts(element), self._shift)
            case "date and time":
                return cleaning.shifted_datetimes(cleaning.texts(element), self._shift)
            case "count":
                return cleaning.count(cleaning.texts(element))
            case "age":
                return cleaning.age(cleaning.texts(element))
            case "image type":
                return cleaning.image_type(cleaning.texts(element), rule.terms)
            case "device":
                return cleaning.safe_text(cleaning.texts(element, encodings), rule.vr)
            case "device uid":
                return cleaning.legible_uids(cleaning.texts(element))
            case "items":
                return [item for item in self._items(source, tag, depth, encodings) if len(item)] or None
            case "code" | "required code" as kind:
                codes = self._codes(source, tag, depth, encodings)
                return codes or (_local_code(source, tag, depth) if kind == "required code" else None)
            case other:
                raise LookupError(f"radiograph.csv names the cleaning {other}, which does not exist")

    def _uids(self, element: cleaning.Element) -> list[str] | None:
        """Pseudonyms; UIDs that the standard defines (well-known frames of reference, say) stay."""
        found = [uid for uid in cleaning.texts(element) if uid]
        passing = [uid if cleaning.is_standard_uid(uid) else self._keys.uid(uid) for uid in found]
        if self._replaced is not None:
            self._replaced.update((old, new) for old, new in zip(found, passing, strict=True) if old != new)
        return passing or None

    def _items(self, source: Dataset, tag: BaseTag, depth: int, encodings: list[str]) -> list[Dataset]:
        return [self.cleaned(item, depth + 1, encodings) for item in items_of(source, tag, depth)]

    def _codes(self, source: Dataset, tag: BaseTag, depth: int, encodings: list[str]) -> list[Dataset]:
        """Coded entries (PS3.3 8.8) whose code the standard knows, in the standard's words; modifiers with them."""
        found = []
        for item in items_of(source, tag, depth):
            scheme, value = (
                "".join(cleaning.texts(element)) if (element := item.get_item(keyword)) is not None else ""
                for keyword in ("CodingSchemeDesignator", "CodeValue")
            )
            scheme = "SRT" if scheme in ("SNM3", "99SDM") else scheme
            meaning = known_codes().get((scheme, value))
            if meaning is not None:
                entry = self.cleaned(item, depth + 1, encodings)
                entry.update(coded_entry(value, scheme, meaning))
                found.append(entry)
        return found


def items_of(source: Dataset, tag: BaseTag, depth: int) -> list[Dataset]:
    """The items of a sequence, [] where it can't be parsed, is none, or lies too deep."""
    if depth >= DEEPEST:
        return []
    try:
        value = source[tag].value
    except Exception:
        return []
    return list(value) if isinstance(value, Sequence) else []


def _substitute(rule: Rule) -> Any:
    """Action D or Z: a dummy, or an empty value."""
    if rule.vr == "SQ":
        return [Dataset()] if rule.otherwise == "D" else []
    return cleaning.DUMMIES[rule.vr] if rule.otherwise == "D" else ""


def _local_code(source: Dataset, tag: BaseTag, depth: int) -> list[Dataset]:
    """What stands for a code that the standard doesn't know where one is needed: the chest, if the region speaks of
    it, else unknown.
    """
    meanings = [item.get_item("CodeMeaning") for item in items_of(source, tag, depth)]
    words = " ".join("".join(cleaning.texts(meaning)).upper() for meaning in meanings if meaning is not None)
    chest = tag == _ANATOMIC_REGION and any(word in words for word in _CHEST_WORDS)
    return [coded_entry(*(_CHEST if chest else _UNKNOWN))]


def _encodings(source: Dataset, inherited: list[str]) -> list[str]:
    """Python's names of the level's character sets (PS3.3 C.12.1.1.2); unknown ones are read as the default."""
    if _CHARACTER_SET not in source:
        return inherited
    try:
        return convert_encodings(cleaning.texts(source.get_item(_CHARACTER_SET)))
    except (LookupError, ValueError):
        return ["iso8859"]
