"""Patterns that give identifiers in text away.

They are meant for the short English texts that a publication holds: columns of words, quarantine messages, descriptions
in DICOM. There they rather flag too much than too little. What they can't see: a name without comma, caret, title or
label ("Anna Mueller"), and numbers of fewer than six digits without a label; `Canaries` finds those by a list.

What they flag though it may be harmless, and why that stays:

* six digits in a row, since record numbers look like nothing else; write counts with separators (12,345,678);
* "Word, Word", but for the names of formats and modalities and for companies (", Inc.");
* two letters in a row of another script than the Latin one: everything that we write is English;
* three words joined by slashes, as a relative path.
"""

import re

from prichexy.deid.cleaning import is_standard_uid

IDENTIFIER_KINDS = ("date", "person name", "record number", "UID", "path", "e-mail", "phone")
"""Kinds of pattern that `text_identifiers` tells apart."""

DEVICE_KINDS = frozenset({"person name", "e-mail"})
"""What to look for in texts about devices: their serial numbers look like record numbers and their versions like dates,
and who retains device identity wants both."""

PSEUDONYM = re.compile(r"[0-9a-f]{32}", re.ASCII)
"""A pseudonym of a patient or an image (`prichexy.deid.keys`)."""

OUR_UID = re.compile(r"2\.25\.[1-9]\d{28,38}", re.ASCII)
"""A UID from 128 bits (PS3.5 B.2). One in 10**10 of them is shorter; a number of a patient or a date is, always."""

_OURS = re.compile(
    rf"(?<![0-9A-Za-z]){PSEUDONYM.pattern}(\.(png|jxl|dcm))?(?![0-9A-Za-z])"
    rf"|(?<![\d.]){OUR_UID.pattern}(?![\d.])"
    r"|\b(?:models:/|model )[\w.-]{1,128}[/@][\w-]{1,64}"  # of the registry, also in derivation descriptions
    r"|http://removed\.invalid",  # the dummy of a URL
    re.ASCII,
)

# Repetitions of letters are bounded: the time for a text grows with its length, not with its square.
_MONTH = (
    r"(?:jan|feb|m[aä]r|apr|ma[iy]|jun|jul|aug|sep|o[ck]t|nov|de[cz]"
    r"|janv|f[eé]v|avr|juin|juil|ao[uû]t|d[eé]c|ene|abr|ago|dic)[a-zé]{0,9}"
)
_DAY, _MONTH_NUMBER, _YEAR = r"(?:0?[1-9]|[12]\d|3[01])", r"(?:0?[1-9]|1[0-2])", r"(?:1[89]|20)\d\d"
_CLOCK = r"(?:[T ]?\d\d:?\d\d(?::?\d\d(?:\.\d+)?)?)?"
_DATE = re.compile(
    # 1961-03-12, 19610312, 19610312104200: with a time of day behind it or not
    rf"(?<!\d){_YEAR}(?P<s>[-./]?)(?:0[1-9]|1[0-2])(?P=s)(?:0[1-9]|[12]\d|3[01]){_CLOCK}(?!\d)"
    # 12.03.1961, 3/12/1961, 12-3-1961
    rf"|(?<![\d.]){_DAY}(?P<t>[-./])\s?{_DAY}(?P=t)\s?{_YEAR}(?!\d)"
    # 12.03.61, 03/12/61: two digits each, else version numbers look like it
    r"|(?<![\d.])(?:0[1-9]|[12]\d|3[01])(?P<u>[-./])(?:0[1-9]|[12]\d|3[01])(?P=u)\d\d(?![\d.])"
    # 12 March 1961, 12-MAR-61, March 12, 1961
    rf"|\b{_DAY}(?:st|nd|rd|th)?[. -]*{_MONTH}[., -]*(?:{_YEAR}|\d\d)\b"
    rf"|\b{_MONTH}[. -]+{_DAY}(?:st|nd|rd|th)?,?\s+{_YEAR}\b"
    # 1961年3月12日, 1961년 3월 12일, and years of an era
    rf"|\d{{1,4}}\s*[年년]\s*{_MONTH_NUMBER}\s*[月월]\s*{_DAY}\s*[日일]",
    re.IGNORECASE,
)
_LETTERS = r"[^\W\d_]"
_TECHNICAL = r"(?:PNG|JPEG|DICOM|CR|DX|RG)"
_COMPANY = r"(?:Inc|Ltd|LLC|Corp|Co|GmbH|AG|SA|NV|N\.V)\b"
_CAPITAL = r"[A-ZÀ-ÖØ-Þ]"
_NAME = re.compile(
    rf"{_LETTERS}{{2}}\^|\^{_LETTERS}{{2}}"  # PN, PS3.5 6.2.1
    rf"|\b(?!{_TECHNICAL},){_CAPITAL}[\w'\u2019-]{{1,64}}, ?(?!{_COMPANY}){_CAPITAL}[\w'\u2019-]*"
    rf"|\b(?:Mr|Mrs|Ms|Miss|Dr|Prof|Herr|Frau|Mme)\b\.? ?(?:{_CAPITAL}\. ?)?{_CAPITAL}[\w'\u2019-]+"
    rf"|\b(?i:patient|pat|name|surname|physician|operator)(?i:'s name| name)?\s*[:=]\s*{_LETTERS}"
    r"|[\u0370-\u1dff\u2e80-\ud7ff\uf900-\ufdff\ufe70-\ufefc\uff66-\uffdc]{2,}"
)
_RECORD = re.compile(
    r"(?<!\d)(?<!\d\.)\d{6,}"
    r"|(?<!\d)\d{3}-\d\d-\d{4}(?!\d)|(?<!\d)\d{3} \d{3} \d{4}(?!\d)"
    r"|\b(?i:mrn|pid|patient.?(?:id|no|nr|number)|pat\.?.?nr|accession|acc|case|fall.?nr)\b[\s.:#=-]*[A-Za-z]{0,4}-?\d{3,}"
)
_UID = re.compile(r"(?<![\d.])[0-2](?:\.(?:0|[1-9]\d*)){5,}(?!\d)", re.ASCII)
_PATH = re.compile(
    r"\b[A-Za-z][A-Za-z0-9+]{1,20}://?\w|\bfile:/"
    r"|(?<![\w:/.])~?(?:/[\w.+@ -]{1,255}){2}|(?<!\w)[A-Za-z]:\\|\\\\\w"
    r"|(?<![\w/])[\w.-]{2,64}(?:/[\w.-]{2,64}){2}"
    r"|[\w-]\.(?i:dcm|dicom|ima|png|jxl|jpe?g|tiff?|nii|gz|zip|csv|json|parquet|xlsx?|pdf|txt)\b"
)
_EMAIL = re.compile(r"[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}")
_PHONE = re.compile(
    r"(?<![\w.-])\+\d{1,3}(?:[ ./()-]*\d){7,13}(?!\d)"
    r"|(?<![\w.-])\(?0\d{1,5}\)?[ /-]\d{3,}(?:[ -]?\d+)*"
    r"|(?<![\w.-])\(?[2-9]\d\d\)?[ .-]\d{3}[.-]\d{4}(?!\d)"
    r"|\b(?i:tel|phone|fax|mobile|telefon)\b\.?:?\s*\+?\d[\d /()-]{4,}"
)


def text_identifiers(text: str) -> frozenset[str]:
    """The kinds of identifier that a text seems to hold; see the module for what is flagged wrongly or not at all.

    Pseudonyms (32 hexadecimal digits, also as names of images and DICOM files), our own UIDs, UIDs of the standard and
    models of the registry count as nothing.

    Args:
        text: one value, of any length.

    Returns:
        Some of `IDENTIFIER_KINDS`.
    """
    kinds = set()
    left = _OURS.sub(" ", text)
    # In this order: what one pattern took, the next doesn't see. A date is no record number, a UID no phone number.
    for kind, pattern in (("e-mail", _EMAIL), ("UID", _UID), ("date", _DATE), ("phone", _PHONE)):
        found = (
            pattern.findall(left) if kind != "UID" else [uid for uid in _UID.findall(left) if not is_standard_uid(uid)]
        )
        if found:
            kinds.add(kind)
        left = pattern.sub(" ", left)
    kinds |= {
        kind
        for kind, pattern in (("person name", _NAME), ("record number", _RECORD), ("path", _PATH))
        if pattern.search(left)
    }
    return frozenset(kinds)
