"""De-identification without shared state: keyed pseudonyms, and DICOM headers by the standard's own profile."""

from prichexy.deid.columns import PUBLISHED_COLUMNS, published_columns
from prichexy.deid.explain import Explanation, explain
from prichexy.deid.header import deidentify, header_bytes, patient_key, read_header
from prichexy.deid.image import TRANSFER_SYNTAXES, Syntax, dicom_bytes
from prichexy.deid.keys import (
    PSEUDONYM_DIGITS,
    SECRET_BYTES,
    Pseudonyms,
    create_secret_file,
    read_secret_file,
)
from prichexy.deid.link import CustodianKey, LinkRecipient, LinkRow, create_custodian_key
from prichexy.deid.profile import ProfileOptions

__all__ = [
    "PSEUDONYM_DIGITS",
    "PUBLISHED_COLUMNS",
    "SECRET_BYTES",
    "TRANSFER_SYNTAXES",
    "CustodianKey",
    "Explanation",
    "LinkRecipient",
    "LinkRow",
    "ProfileOptions",
    "Pseudonyms",
    "Syntax",
    "create_custodian_key",
    "create_secret_file",
    "deidentify",
    "dicom_bytes",
    "explain",
    "header_bytes",
    "patient_key",
    "published_columns",
    "read_header",
    "read_secret_file",
]
