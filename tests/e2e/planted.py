"""A lake of 200 DX files that carries 60 known identifiers, each in a place of its own, and invented persons beside."""

import base64
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import DataElement, Dataset, FileMetaDataset
from pydicom.config import IGNORE
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.encaps import encapsulate
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from prichexy.cohort.phantom import PhantomCohort, render
from prichexy.cohort.phantom.header import dx_header
from prichexy.cohort.phantom.identity import invent
from tests.deid.drawn_text import glyphs
from tests.e2e.lakes import RLE, SYNTAXES
from tests.imaging.dx import CODECS, written

FILES, SIDE, PICTURES = 200, 384, 20
BROKEN_EVERY = 10

Plant = Callable[[Dataset, str], None]


def _set(path: str, vr: str = "", before: str = "", behind: str = "") -> Plant:
    """Sets an element by its path of keywords or tags: the last names the element, the others sequences."""
    *outer, last = path.split(".")

    def plant(data_set: Dataset, value: str) -> None:
        for name in outer:
            if name not in data_set or not data_set[name].value:
                setattr(data_set, name, [Dataset()])
            data_set = data_set[name][0]
        tag = int(last, 16) if last[0].isdigit() else last
        text: Any = f"{before}{value}{behind}"
        if vr in ("OB", "OW", "UN"):
            text = text.encode() + b"\0" * (len(text) % 2)
        data_set.add(DataElement(tag, vr or _vr(last), text, validation_mode=IGNORE))

    return plant


def _vr(keyword: str) -> str:
    tag = tag_for_keyword(keyword)
    assert tag is not None, keyword
    return dictionary_VR(tag)


def _private(element: int, vr: str) -> Plant:
    def plant(data_set: Dataset, value: str) -> None:
        block = data_set.private_block(0x0019, "ZEBRA WORKS", create=True)
        block.add_new(element, vr, value.encode() + b"\0" * (len(value) % 2) if vr in ("OB", "UN") else value)

    return plant


def _private_creator(data_set: Dataset, value: str) -> None:
    data_set.private_block(0x0021, value, create=True).add_new(1, "LO", "x")


def _private_sequence(data_set: Dataset, value: str) -> None:
    item = Dataset()
    item.PatientName = value
    data_set.private_block(0x0023, "ZEBRA NEST", create=True).add_new(1, "SQ", [item])


def _very_deep(data_set: Dataset, value: str) -> None:
    item = Dataset()
    item.PatientID = value
    for _ in range(12):
        outer = Dataset()
        outer.ContentSequence = [item]
        item = outer
    data_set.ContentSequence = [item]


def _meaning_of_known_code(data_set: Dataset, value: str) -> None:
    region = data_set.AnatomicRegionSequence[0]
    region.CodeMeaning = value


def _nested_with_own_character_set(data_set: Dataset, value: str) -> None:
    item = Dataset()
    item.SpecificCharacterSet, item.PatientName = "ISO_IR 144", value
    data_set.OtherPatientIDsSequence = [item]


def _icon(data_set: Dataset, value: str) -> None:
    icon = Dataset()
    icon.Rows, icon.Columns, icon.BitsAllocated, icon.SamplesPerPixel = 8, 8, 8, 1
    icon.add_new("PixelData", "OB", value.encode().ljust(64, b"\0"))
    data_set.IconImageSequence = [icon]


def _meta(keyword: str) -> Plant:
    def plant(data_set: Dataset, value: str) -> None:
        if keyword == "PrivateInformation":
            data_set.file_meta.PrivateInformationCreatorUID = "1.2.3.4"
            data_set.file_meta.PrivateInformation = value.encode()
        else:
            setattr(data_set.file_meta, keyword, value)

    return plant


def _preamble(data_set: Dataset, value: str) -> None:
    data_set.preamble = value.encode().ljust(128, b"\0")


def _utf_16(data_set: Dataset, value: str) -> None:
    data_set.add_new("EncapsulatedDocument", "OB", value.encode("utf-16-le"))


def _in_base64(data_set: Dataset, value: str) -> None:
    data_set.add_new(0x00420013, "UT", base64.b64encode(b"--" + value.encode()).decode())


def _in_hexadecimal(data_set: Dataset, value: str) -> None:
    data_set.add_new("ImageComments", "LT", value.encode().hex())


def _named(character_set: str | list[str], before: str = "") -> Plant:
    """Sets Patient's Name (and a long text) in a character set of the whole file."""

    def plant(data_set: Dataset, value: str) -> None:
        data_set.SpecificCharacterSet = character_set
        data_set.PatientName, data_set.AdditionalPatientHistory = f"{before}{value}", value

    return plant


NAMES: dict[str, tuple[str, Plant]] = {
    "name in Latin-1": ("Größwänger", _named("ISO_IR 100")),
    "name in Japanese, ISO 2022 IR 87": ("凛太朗", _named(["", "ISO 2022 IR 87"], "Washio^Rintaro=鷲尾^")),
    "name in Japanese, ISO_IR 13": ("ﾔﾏｸﾞﾁｱﾔｶ", _named("ISO_IR 13")),
    "name in Korean, ISO 2022 IR 149": ("길동희", _named(["", "ISO 2022 IR 149"], "Hong^Gildonghui=洪^吉洞=홍^")),
    "name in UTF-8": ("Świętosława", _named("ISO_IR 192")),
    "name in Chinese, GB18030": ("雪莲花", _named("GB18030")),
}
"""Where -> identifier, and how it is planted; each file has one of these."""


def _word(number: int) -> str:
    return f"QUAGGA{number:02d}CNRY"


def _uid(number: int) -> str:
    return f"1.2.826.0.1.9999.{number}.7177"


def _places() -> dict[str, tuple[str, Plant]]:
    """The places within a header, file meta and names apart."""
    words: list[tuple[str, Plant]] = [
        *((keyword, _set(keyword)) for keyword in ("StudyDescription", "SeriesDescription", "ProtocolName")),
        *((keyword, _set(keyword)) for keyword in ("PatientComments", "DerivationDescription", "AccessionNumber")),
        *((keyword, _set(keyword)) for keyword in ("InstitutionName", "OperatorsName", "StationName")),
        *((keyword, _set(keyword)) for keyword in ("PatientID", "IssuerOfPatientID", "DeviceSerialNumber")),
        ("ReferringPhysicianName", _set("ReferringPhysicianName", before="Dr^")),
        ("nested description", _set("RequestAttributesSequence.RequestedProcedureDescription")),
        ("third level", _set("RequestAttributesSequence.ScheduledProtocolCodeSequence.CodeMeaning")),
        ("original attributes", _set("OriginalAttributesSequence.ModifiedAttributesSequence.PatientName")),
        ("purpose of reference", _set("ReferencedImageSequence.PurposeOfReferenceCodeSequence.CodeMeaning")),
        ("meaning of a known code", _meaning_of_known_code),
        ("thirteenth level", _very_deep),
        ("private text", _private(0x10, "LO")),
        ("private blob", _private(0x11, "UN")),
        ("private bytes", _private(0x12, "OB")),
        ("private creator", _private_creator),
        ("private sequence", _private_sequence),
        ("overlay comments", _set("60004000", "LT")),
        ("overlay description", _set("60020022", "LO")),
        ("overlay data", _set("60003000", "OW")),
        ("curve label", _set("50002500", "LO")),
        ("curve data", _set("50003000", "OW")),
        ("SourceApplicationEntityTitle", _meta("SourceApplicationEntityTitle")),
        ("ImplementationVersionName", _meta("ImplementationVersionName")),
        ("private information", _meta("PrivateInformation")),
        ("preamble", _preamble),
        ("icon image", _icon),
        ("trailing padding", _set("FFFCFFFC", "OB")),
        ("unknown attribute", _set("00289999", "UN")),
        ("known attribute as UN", _set("00104000", "UN")),
        ("document in UTF-16", _utf_16),
        ("text in base64", _in_base64),
        ("comment in hexadecimal digits", _in_hexadecimal),
        ("invalid date", _set("AcquisitionDate", before="2023-13-45 ")),
        ("date and time", _set("AcquisitionDateTime", before="20231345")),
    ]
    found = {where: (_word(number), plant) for number, (where, plant) in enumerate(words)}
    for number, (where, plant) in enumerate(
        [
            ("UID in a text", _set("StudyID")),
            ("UID as a class", _set("ReferencedImageSequence.ReferencedSOPClassUID")),
            ("UID of a frame of reference", _set("FrameOfReferenceUID")),
            ("UID of a context", _set("AnatomicRegionSequence.ContextUID")),
        ]
    ):
        found[where] = _uid(number), plant
    found["birth date"] = "16830417", _set("PatientBirthDate")
    found["name in Cyrillic, nested"] = "Достоевская", _nested_with_own_character_set
    return found


PLACES = _places()
FILE_NAME, FOLDER_NAME = "Kestrelová_7177", "ward-QUAGGA98CNRY"
BURNED = ("HALLORAN, ANNA", "Dvorska^Irma", "17.04.1683", "MRN 71777717", "OKONJELI W.", "1683-04-17")
"""Burned into every third file, each text light in some and dark in others, 10 to 32 px high."""

IDENTIFIERS: dict[str, str] = {
    **{where: text for where, (text, _) in (NAMES | PLACES).items()},
    "file name": FILE_NAME,
    "folder name": FOLDER_NAME,
    **{f"burned in {number}": text for number, text in enumerate(BURNED)},
}
"""Where -> what must not be found again."""


@dataclass
class Burned:
    """A text in a file's pixels: where its ink is, and what the pixels were before and are with it."""

    ink: np.ndarray  # (H, W) bool: where at least a third of the pixel is ink
    before: np.ndarray  # (H, W), grey levels of 12 or 8 bits
    source: np.ndarray  # (H, W)
    size: int
    light: bool


@dataclass
class PlantedLake:
    """What was written.

    Attributes:
        persons: identifiers of the invented persons behind the files.
        burned: relative path -> the text in its pixels.
        broken: relative paths of the files that were broken on purpose.
    """

    persons: set[str] = field(default_factory=set)
    burned: dict[str, Burned] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)


def planted_lake(folder: Path) -> PlantedLake:
    """Write the 200 files: ten transfer syntaxes, 8 and 12 bits, every tenth file broken in another way."""
    lake = PlantedLake()
    studies = PhantomCohort(FILES, 17, studies=(1, 1), size=SIDE).studies
    drawn = [render(study, 12) for study in studies[:PICTURES]]
    pictures = {12: drawn, 8: [(picture >> 4).astype(np.uint8) for picture in drawn]}
    names, places = list(NAMES.values()), list(PLACES.values())
    for number, study in enumerate(studies):
        syntax = SYNTAXES[number % len(SYNTAXES)]
        is_broken = number % BROKEN_EVERY == BROKEN_EVERY // 2
        if is_broken:
            syntax = ExplicitVRLittleEndian
        bits = 12 if number % 2 and not syntax.endswith((".50", ".201")) else 8
        data_set, persons = dx_header(study, invent(study), False, syntax.endswith(".50"))
        data_set.file_meta = FileMetaDataset()
        kept = ("PatientName", "PatientID", "AccessionNumber", "SOPInstanceUID", "StudyInstanceUID", "PatientAddress")
        lake.persons |= {persons[name] for name in kept}
        text, plant = names[number % len(names)]
        plant(data_set, text)
        for step in range(3):
            text, plant = places[(number + step * len(places) // 3) % len(places)]
            plant(data_set, text)
        pixels = pictures[bits][number % PICTURES]
        folder_name = FOLDER_NAME if number % 4 == 0 else f"{number % 7}"
        path = f"{folder_name}/{number:03d}{f'-{FILE_NAME}' if number % 5 == 0 else ''}.dcm"
        if number % 3 == 0 and not is_broken:
            lake.burned[path] = burned_in(pixels, bits, number // 3)
            pixels = lake.burned[path].source
            data_set.BurnedInAnnotation = "YES" if number % 2 else "NO"
        data = stored(data_set, pixels, bits, syntax)
        if is_broken:
            lake.broken.add(path)
            data = broken(data, number // BROKEN_EVERY)
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return lake


def burned_in(pixels: np.ndarray, bits: int, number: int) -> Burned:
    """Write a text, light on the darkest or dark on the brightest of nine places."""
    size, light = 10 + 2 * (number % 12), number // 12 % 2 == 0
    letters, _ = glyphs(BURNED[number % len(BURNED)], size, ("DejaVuSans", "DejaVuSansMono", None)[number % 3], 1)
    free = np.array(pixels.shape) - letters.shape - 12
    corners = [(6 + int(free[0] * down / 2), 6 + int(free[1] * right / 2)) for down in range(3) for right in range(3)]

    def median(corner: tuple[int, int]) -> float:
        top, left = corner
        return float(np.median(pixels[top : top + letters.shape[0], left : left + letters.shape[1]]))

    top, left = min(corners, key=median) if light else max(corners, key=median)
    coverage = np.zeros(pixels.shape)
    coverage[top : top + letters.shape[0], left : left + letters.shape[1]] = letters / 255
    level = (0.95 if light else 0.03) * (2**bits - 1)
    source = np.rint(pixels + (level - pixels) * coverage).astype(pixels.dtype)
    return Burned(coverage >= 1 / 3, pixels, source, size, light)


def stored(data_set: Dataset, pixels: np.ndarray, bits: int, syntax: str) -> bytes:
    """The file with these pixels in a transfer syntax."""
    data_set.SamplesPerPixel, data_set.PhotometricInterpretation = 1, "MONOCHROME2"
    data_set.Rows, data_set.Columns = pixels.shape
    data_set.BitsAllocated, data_set.BitsStored, data_set.HighBit = 8 * pixels.itemsize, bits, bits - 1
    data_set.PixelRepresentation, data_set.PixelIntensityRelationshipSign = 0, -1
    data_set.WindowCenter, data_set.WindowWidth = 2 ** (bits - 1), 2**bits  # PS3.3 C.11.2.1.2.1: the identity
    data_set.file_meta.TransferSyntaxUID = UID(syntax)
    if syntax in CODECS:
        data_set.add_new("PixelData", "OB", encapsulate([CODECS[syntax](pixels, bits)]))
        data_set["PixelData"].is_undefined_length = True
    elif syntax == RLE:
        data_set.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data_set.compress(UID(RLE), pixels, generate_instance_uid=False)
    else:
        order = ">" if syntax == ExplicitVRBigEndian else "<"
        vr = "OB" if bits == 8 and syntax != ImplicitVRLittleEndian else "OW"
        data_set.add_new("PixelData", vr, pixels.astype(pixels.dtype.newbyteorder(order)).tobytes())
    return written(data_set)


def broken(data: bytes, kind: int) -> bytes:
    """The file (explicit VR, little endian) broken in one of ten ways, most of which hold an identifier themselves."""
    word = _word(97).encode()  # 12 characters

    def with_element(tag: bytes, vr: bytes, value: bytes) -> bytes:
        """The file with an element's value replaced by one of any length."""
        place = data.index(tag + vr, 132)
        length = int.from_bytes(data[place + 6 : place + 8], "little")
        return data[: place + 6] + len(value).to_bytes(2, "little") + value + data[place + 8 + length :]

    match kind % 10:
        case 0:
            return data[: len(data) * 6 // 10]
        case 1:
            return data[:900]
        case 2:  # a VR that does not exist
            return data.replace(b"\x10\x00\x20\x00LO", b"\x10\x00\x20\x00Z?", 1)
        case 3:
            return with_element(b"\x18\x00\x15\x00", b"CS", b"KNEE " + word + b" ")
        case 4:
            return with_element(b"\x08\x00\x60\x00", b"CS", word)
        case 5:
            return with_element(b"\x28\x00\x04\x00", b"CS", word)
        case 6:  # a number that is none
            return with_element(b"\x28\x00\x50\x10", b"DS", word)
        case 7:
            return with_element(b"\x02\x00\x10\x00", b"UI", _uid(97).encode() + b"\0" * (len(_uid(97)) % 2))
        case 8:
            return with_element(b"\x08\x00\x20\x00", b"DA", b"2023-13-45 " + word + b" ")
        case _:
            return f"Name: Halloran, Anna\nNumber: {_word(97)}\n".encode()


IDENTIFIERS["broken files"] = _word(97)
IDENTIFIERS["transfer syntax of a broken file"] = _uid(97)
