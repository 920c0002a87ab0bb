"""A list of known identifiers, searched in bytes in every form in which they are likely to lie there."""

from base64 import b64encode
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Self
from unicodedata import east_asian_width

import numpy as np
from numpy.typing import NDArray

from prichexy.errors import UsageError

LEAST = 4
"""Characters of the shortest identifier, and bytes of the shortest form: shorter ones occur everywhere by chance. Wide
characters (Chinese, Japanese, Korean) count twice, since no character set writes them in fewer than two bytes."""

CHARACTER_SETS = (
    "utf-8",
    "utf-16-le",
    "utf-16-be",
    "latin-1",
    *(f"iso8859-{part}" for part in (2, 3, 4, 5, 6, 7, 8, 9, 11)),
    "shift_jis",
    "iso2022_jp",
    "euc_kr",
    "gb18030",
)
"""Python's names of the character sets of DICOM (PS3.3 C.12.1.1.2), and of UTF-16."""

_CHUNK = 1 << 20
"""Bytes looked at in one go; the arrays made of them fit into a core's cache."""
_TABLE_BITS = 20
_MULTIPLIER = np.uint32(2654435761)  # Knuth's multiplicative hash: 2**32 / the golden ratio


class Canaries:
    """Identifiers that must not occur in what is published, such as a hospital's own list, or planted ones.

    Each is looked for as it is listed, in capitals and in small letters; in all `CHARACTER_SETS` that can write it; and
    each of these as such, in base64 (at any alignment, in both alphabets) and as hexadecimal digits.

    An identifier has some twenty forms, the shortest of them as long as itself; a form of 4 bytes occurs in 100 MB of
    random (compressed, say) bytes with a probability of 2 %, one of 6 bytes with 4 in 10**7. See `found_in`.
    """

    def __init__(self, identifiers: Iterable[str]) -> None:
        """Prepare the search.

        Args:
            identifiers: of at least `LEAST` characters each, wide ones counted twice.

        Raises:
            UsageError: one is shorter; the message tells which by its number, not its text.
        """
        listed = list(dict.fromkeys(identifiers))
        owners: dict[bytes, set[int]] = defaultdict(set)
        for number, identifier in enumerate(listed):
            if _width(identifier) < LEAST:
                raise UsageError(f"identifier {number + 1} has fewer than {LEAST} characters, which occur by chance")
            for form in _forms(identifier):
                owners[form].add(number)
        self._count = len(listed)
        self._longest = max(map(len, owners), default=0)
        self._by_start: dict[bytes, list[tuple[bytes, set[int]]]] = defaultdict(list)
        for form, numbers in owners.items():
            self._by_start[form[:8] if len(form) >= 8 else form[:4]].append((form, numbers))
        starts = [np.frombuffer(start, "<u8")[0] for start in self._by_start if len(start) == 8]
        self._starts_of_8 = np.sort(np.array(starts, np.uint64))
        starts = [np.frombuffer(start, "<u4")[0] for start in self._by_start if len(start) == 4]
        self._starts_of_4 = np.sort(np.array(starts, np.uint32))
        self._table = np.zeros(1 << _TABLE_BITS, bool)
        self._table[_hashed((self._starts_of_8 & np.uint64(0xFFFFFFFF)).astype(np.uint32))] = True
        self._table[_hashed(self._starts_of_4)] = True

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """Identifiers from a UTF-8 text file, one a line; empty lines don't count.

        Raises:
            UsageError: the file can't be read, is no UTF-8, is empty, or a line has fewer than `LEAST` characters.
        """
        try:
            lines = path.read_text("utf-8-sig").splitlines()
        except OSError as error:
            raise UsageError(f"the file of canaries {path} can't be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise UsageError(f"the file of canaries {path} is not in UTF-8") from None
        numbered = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
        for number, line in numbered:
            if _width(line) < LEAST:
                raise UsageError(
                    f"line {number} of the canaries {path} has fewer than {LEAST} characters, which occur by chance: "
                    "leave it out"
                )
        if not numbered:
            raise UsageError(f"the file of canaries {path} lists none: write one identifier a line")
        return cls(line for _, line in numbered)

    def __len__(self) -> int:
        """How many different identifiers are listed."""
        return self._count

    def found_in(self, data: bytes, least_bytes: int = LEAST) -> int:
        """How many of the identifiers occur in the bytes.

        Args:
            data: any bytes; what is compressed in them must be decompressed before.
            least_bytes: forms of fewer bytes are not looked for; 6 for megabytes of pixels or of compressed bytes,
                where shorter ones occur by chance.
        """
        found: set[int] = set()
        for start, position in self._candidates(data):
            for form, numbers in self._by_start[start]:
                if len(form) >= least_bytes and not numbers <= found and data.startswith(form, position):
                    found |= numbers
        return len(found)

    def _candidates(self, data: bytes) -> Iterator[tuple[bytes, int]]:
        """(first bytes, position) wherever the first 8 bytes of a form stand, or the first 4 of a short one."""
        for first in range(0, max(0, len(data) - LEAST + 1), _CHUNK):
            piece = data[first : first + _CHUNK + 7]  # starts before _CHUNK, with the 7 bytes that follow the last
            words_N = _at_every_byte(piece, np.dtype("<u4"))[:_CHUNK]
            places_K = np.flatnonzero(self._table[_hashed(words_N)])
            short_K = places_K[_is_in(words_N[places_K], self._starts_of_4)]
            long_K = places_K[places_K <= len(piece) - 8]
            long_K = long_K[_is_in(_at_every_byte(piece, np.dtype("<u8"))[long_K], self._starts_of_8)]
            for place in short_K.tolist():
                yield piece[place : place + 4], first + place
            for place in long_K.tolist():
                yield piece[place : place + 8], first + place


def _width(identifier: str) -> int:
    return sum(2 if east_asian_width(character) in "WF" else 1 for character in identifier)


def _forms(identifier: str) -> set[bytes]:
    forms: set[bytes] = set()
    for written in (identifier, identifier.upper(), identifier.lower()):
        for encoded in _encoded(written):
            forms |= {encoded, encoded.hex().encode(), encoded.hex().upper().encode()}
            for shift in range(3):
                text = _base64(encoded, shift)
                forms |= {text, text.translate(bytes.maketrans(b"+/", b"-_"))}
    return forms


def _encoded(identifier: str) -> Iterator[bytes]:
    for name in CHARACTER_SETS:
        try:
            encoded = identifier.encode(name)
        except UnicodeEncodeError:
            continue
        if name == "iso2022_jp":  # the escapes around it depend on what stands before and behind
            encoded = encoded.removeprefix(b"\x1b$B").removesuffix(b"\x1b(B")
        if len(encoded) >= LEAST:
            yield encoded


def _base64(encoded: bytes, shift: int) -> bytes:
    """The base64 digits that hold nothing but bits of `encoded`, when `shift` bytes precede it."""
    digits = b64encode(bytes(shift) + encoded).rstrip(b"=")
    whole = (shift + len(encoded)) * 8 // 6  # what comes behind changes the digit after these
    return digits[-(-shift * 8 // 6) : whole]


def _at_every_byte(piece: bytes, dtype: "np.dtype[Any]") -> NDArray[Any]:
    """The number that begins at each byte (they overlap), as far as there are bytes enough."""
    count = max(0, len(piece) - dtype.itemsize + 1)
    return np.ndarray((count,), dtype, piece, strides=(1,))


def _hashed(words: NDArray[np.uint32]) -> NDArray[np.uint32]:
    return (words * _MULTIPLIER) >> np.uint32(32 - _TABLE_BITS)


def _is_in(words: NDArray[Any], ordered: NDArray[Any]) -> NDArray[np.bool_]:
    if not len(ordered):
        return np.zeros(len(words), bool)
    places = np.minimum(np.searchsorted(ordered, words), len(ordered) - 1)
    found: NDArray[np.bool_] = ordered[places] == words
    return found
