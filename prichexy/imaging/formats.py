"""What a file is, judged by its bytes; the name and its extension never matter."""

import struct

_SIGNATURES: tuple[tuple[bytes, int, str], ...] = (
    (b"\x89PNG\r\n\x1a\n", 0, "png"),
    (b"\xff\xd8\xff", 0, "jpeg"),
    (b"DICM", 128, "dicom"),
    (b"II*\0", 0, "tiff"),
    (b"MM\0*", 0, "tiff"),
    (b"II+\0", 0, "tiff"),
    (b"MM\0+", 0, "tiff"),
    (b"GIF87a", 0, "gif"),
    (b"GIF89a", 0, "gif"),
    (b"WEBP", 8, "webp"),
    (b"ftypavif", 4, "avif"),
    (b"ftypheic", 4, "heic"),
    (b"ftypheix", 4, "heic"),
    (b"ftypmif1", 4, "heic"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", 0, "jpeg2000"),
    (b"\xff\x4f\xff\x51", 0, "jpeg2000"),
    (b"\xff\x0a", 0, "jpegxl"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", 0, "jpegxl"),
    (b"%PDF-", 0, "pdf"),
    (b"PK\x03\x04", 0, "zip"),
    (b"PK\x05\x06", 0, "zip"),
    (b"\x1f\x8b", 0, "gzip"),
    (b"BZh", 0, "bzip2"),
    (b"\xfd7zXZ\0", 0, "xz"),
    (b"7z\xbc\xaf\x27\x1c", 0, "7z"),
    (b"\x28\xb5\x2f\xfd", 0, "zstd"),
    (b"ustar", 257, "tar"),
    (b"\x93NUMPY", 0, "npy"),
    (b"\x89HDF\r\n\x1a\n", 0, "hdf5"),
    (b"PAR1", 0, "parquet"),
    (b"n+1\0", 344, "nifti"),
)
DISPLAY_NAMES = {
    "tiff": "TIFF",
    "bmp": "BMP",
    "gif": "GIF",
    "webp": "WebP",
    "avif": "AVIF",
    "heic": "HEIC",
    "jpeg2000": "JPEG 2000",
    "jpegxl": "JPEG XL",
    "netpbm": "Netpbm",
    "pdf": "PDF",
    "zip": "ZIP",
    "gzip": "gzip",
    "bzip2": "bzip2",
    "xz": "xz",
    "7z": "7-Zip",
    "zstd": "Zstandard",
    "tar": "tar",
    "npy": "NumPy",
    "hdf5": "HDF5",
    "parquet": "Parquet",
    "nifti": "NIfTI",
}
"""Formats that are recognized and not read, as a person calls them."""

_LONG_VRS = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
_SHORT_VRS = set(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())


def sniff(data: bytes) -> str:
    """The format of a file's bytes.

    Args:
        data: the whole file, or its first kilobyte.

    Returns:
        "empty", "png", "jpeg", "dicom", a key of `DISPLAY_NAMES`, "text" or "unknown". A DICOM data set without the
        preamble of PS3.10 section 7.1 counts as "dicom" when its first elements are well formed and in order.
    """
    if not data:
        return "empty"
    for signature, offset, name in _SIGNATURES:
        if data.startswith(signature, offset):
            return name
    if len(data) < 8 and data[:4] in (b"\x89PNG", b"\x89PN"):
        return "png"  # cut off within the signature
    if (
        data[:2] == b"BM"
        and len(data) >= 26
        and struct.unpack_from("<I", data, 14)[0] in (12, 40, 52, 56, 64, 108, 124)
    ):
        return "bmp"
    if data[:1] == b"P" and data[1:2] in b"1234567" and data[2:3].isspace():
        return "netpbm"
    if _starts_like_a_data_set(data):
        return "dicom"
    return "text" if _is_text(data[:1024]) else "unknown"


def _is_text(head: bytes) -> bool:
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:  # not merely a character cut in two at the end of the sample
            return False
        text = head[: error.start].decode("utf-8")
    return all(character.isprintable() or character.isspace() for character in text)


def _starts_like_a_data_set(data: bytes, elements: int = 3) -> bool:
    """Whether the first elements follow PS3.5 section 7.1: tags rising, known VRs, lengths within the file."""
    return any(_walk(data, order, explicit, elements) for order, explicit in (("<", True), ("<", False), (">", True)))


def _walk(data: bytes, order: str, explicit: bool, elements: int) -> bool:
    position, last = 0, (0, -1)
    for index in range(elements):
        if position + 12 > len(data):
            return False
        group, element, length = struct.unpack_from(f"{order}HHI", data, position)
        if (index == 0 and group not in (0x0002, 0x0008)) or group > 0x0010 or (group, element) <= last:
            return False
        header = 8
        if explicit:
            vr = data[position + 4 : position + 6]
            if vr in _LONG_VRS:
                header, length = 12, struct.unpack_from(f"{order}I", data, position + 8)[0]
            elif vr in _SHORT_VRS:
                length = struct.unpack_from(f"{order}H", data, position + 6)[0]
            else:
                return False
        if length == 0xFFFFFFFF:
            return index > 0  # a sequence: what came before it was well formed
        if length % 2 or length > len(data):
            return False
        last = (group, element)
        position += header + length
        if group == 0x0002:
            order = "<"
    return True
