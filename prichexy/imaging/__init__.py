"""Bytes to radiograph and back: decode, encode, resample. Nothing here knows of storage, clusters or networks."""

from prichexy.imaging.decode import decode, decode_published
from prichexy.imaging.dicom import LATERALITIES, VIEWS
from prichexy.imaging.encode import ENCODINGS, Encoding, encode_jpegxl, encode_png
from prichexy.imaging.formats import sniff
from prichexy.imaging.radiograph import DecodeLimits, Radiograph
from prichexy.imaging.resample import from_unit, resize, to_unit

__all__ = [
    "ENCODINGS",
    "LATERALITIES",
    "VIEWS",
    "DecodeLimits",
    "Encoding",
    "Radiograph",
    "decode",
    "decode_published",
    "encode_jpegxl",
    "encode_png",
    "from_unit",
    "resize",
    "sniff",
    "to_unit",
]
