"""Keyed pseudonyms: the same input gives the same output on any worker, in any run, with one key, and nothing without
it.

One project secret of 32 random bytes lies in a file. Every purpose has its own subkey (HKDF-SHA256, RFC 5869), and
every pseudonym is an HMAC-SHA256 (RFC 2104) under that subkey, cut to 128 bits. Workers share no table and no state.
"""

import hmac
import os
import secrets
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Self

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from prichexy.errors import UsageError

SECRET_BYTES = 32
PSEUDONYM_DIGITS = 32
"""A pseudonym is 128 bits, written as 32 hexadecimal digits."""

LONGEST_SHIFT = 1826
"""Days: five years with a leap day."""


def create_secret_file(path: Path) -> None:
    """Write 32 random bytes to a new file that only its owner may read (mode 0600).

    Raises:
        UsageError: the file exists (a secret is never overwritten) or its folder can't be written.
    """
    write_key_file(path, secrets.token_bytes(SECRET_BYTES), "secret")


def write_key_file(path: Path, content: bytes, what: str, mode: int = 0o600) -> None:
    """Write a new file of this mode; `what` it holds stands in the errors.

    Raises:
        UsageError: the file exists or can't be written.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError:
        raise UsageError(f"{path} exists; a {what} is never overwritten: choose another file") from None
    except OSError as error:
        raise UsageError(f"the {what} file {path} can't be written: {error.strerror}") from None
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)


def read_secret_file(path: Path | None) -> bytes:
    """The 32 bytes of the project secret.

    Args:
        path: the file that ``prichexy keygen`` made; None when neither setting names one.

    Raises:
        UsageError: no file named, not readable, or not exactly 32 bytes long.
    """
    if path is None:
        raise UsageError(
            "no project secret: name its file with --secret-file or PRICHEXY_SECRET_FILE "
            "(`prichexy keygen FILE` makes one)"
        )
    try:
        secret = path.read_bytes()
    except OSError as error:
        raise UsageError(f"the secret file {path} can't be read: {error.strerror}") from None
    if len(secret) != SECRET_BYTES:
        raise UsageError(f"the secret file {path} holds {len(secret)} bytes instead of {SECRET_BYTES}")
    return secret


@dataclass(frozen=True, slots=True, repr=False)
class Pseudonyms:
    """The keyed pseudonyms of one project; a worker makes its own from the secret file.

    The object never shows its keys (no repr), and is not pickled: it is made where it is used.
    """

    key_id: str
    """Names the key without revealing it; the only thing about the key that outputs carry."""
    _image: bytes
    _patient: bytes
    _noise: bytes
    _job: bytes
    _uid: bytes
    _dates: bytes

    @classmethod
    def from_secret(cls, secret: bytes) -> Self:
        """Pseudonyms under the subkeys of ``secret`` (32 bytes)."""
        return cls(
            key_id=_subkey(secret, "key-id")[:8].hex(),
            _image=_subkey(secret, "image-id"),
            _patient=_subkey(secret, "patient-id"),
            _noise=_subkey(secret, "noise-seed"),
            _job=_subkey(secret, "job-fingerprint"),
            _uid=_subkey(secret, "dicom-uid"),
            _dates=_subkey(secret, "date-shift"),
        )

    @classmethod
    def from_file(cls, path: Path | None) -> Self:
        """Pseudonyms under the secret in a file; see `read_secret_file` for the errors."""
        return cls.from_secret(read_secret_file(path))

    def image_id(self, relative_path: str) -> str:
        """Pseudonym of an image, from its path below the root of the lake (which may move as a whole)."""
        return _hmac(self._image, relative_path).hex()[:PSEUDONYM_DIGITS]

    def patient_id(self, issuer: str, patient_id: str) -> str:
        """Pseudonym of a patient, from the identifier and who issued it (two hospitals may both have a patient 1)."""
        return _hmac(self._patient, issuer.strip(), patient_id.strip()).hex()[:PSEUDONYM_DIGITS]

    def uid(self, uid: str) -> str:
        """Pseudonym of a DICOM UID: ``2.25.`` and 128 bits as a decimal number (PS3.5 B.2), at most 44 characters."""
        return f"2.25.{int.from_bytes(_hmac(self._uid, uid)[:16], 'big')}"

    def date_shift(self, issuer: str, patient_id: str) -> int:
        """Days by which every date of this patient moves: -1826 to 1826 (five years), never 0.

        One shift a patient keeps the order of their examinations and the days between them.
        """
        number = int.from_bytes(_hmac(self._dates, issuer.strip(), patient_id.strip())[:8], "big")
        days = number % (2 * LONGEST_SHIFT) - LONGEST_SHIFT
        return days if days < 0 else days + 1

    def noise_seed(self, image_id: str) -> int:
        """Seed in [0, 2^63) for the random part of an image's obfuscation; unknowable without the key."""
        return int.from_bytes(_hmac(self._noise, image_id)[:8], "big") >> 1

    def fingerprint(self, *parts: str) -> str:
        """Keyed fingerprint of private facts (of a catalog, say) that outputs may carry: 32 hexadecimal digits."""
        return _hmac(self._job, *parts).hex()[:PSEUDONYM_DIGITS]

    def __reduce__(self) -> str | tuple[object, ...]:
        raise TypeError("keys are not sent between processes; each worker reads the secret file")


def _subkey(secret: bytes, purpose: str) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=b"prichexy/1/" + purpose.encode()).derive(secret)


def _hmac(key: bytes, *parts: str) -> bytes:
    """HMAC over the parts, each preceded by its length so that ("ab", "c") and ("a", "bc") differ."""
    mac = hmac.new(key, digestmod=sha256)
    for part in parts:
        encoded = part.encode("utf-8", "surrogatepass")
        mac.update(len(encoded).to_bytes(8, "big"))
        mac.update(encoded)
    return mac.digest()
