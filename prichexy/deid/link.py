"""Rows of the link table: which source became which image, sealed so that only the custodian can read them.

The custodian holds a key pair in the age format (age-encryption.org/v1, X25519); whoever anonymizes holds its public
half, and can therefore write the table but never read it. Each row is sealed by itself, where the source is decoded.

A seal hides what a row says, not who wrote it: anybody with the public half can seal a row.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import pyrage
from pyrage import x25519

from prichexy.deid.keys import write_key_file
from prichexy.errors import PrichexyError, UsageError

_SECRET_PREFIX = "AGE-SECRET-KEY-"
_BLOCK = 512
"""Bytes; a row is padded to a multiple, so that its size tells little of the identifiers in it."""


@dataclass(frozen=True, repr=False)
class LinkRow:
    """What one source file became. Every field but the new ids identifies a patient.

    Attributes:
        uri: the source file's path below the root of the lake.
        image_id: the published image's pseudonym.
        issuer: who issued the Patient ID; "" where the source does not say, None without a Patient ID.
        patient_old: Patient ID of the labels or the header; None where neither has one.
        patient_new: the patient's pseudonym; None without a Patient ID.
        uids: every UID of the header that was replaced -> what replaced it; empty where the source is no DICOM file.
    """

    uri: str
    image_id: str
    issuer: str | None
    patient_old: str | None
    patient_new: str | None
    uids: dict[str, str]

    def __reduce__(self) -> str | tuple[object, ...]:
        raise TypeError("link rows are not sent between processes; each is sealed where it is made")


def create_custodian_key(path: Path) -> None:
    """Write a new secret key to a file that only its owner may read (mode 0600), its public half to ``PATH.pub``.

    Raises:
        UsageError: one of the two files exists (a key is never overwritten) or can't be written.
    """
    identity = x25519.Identity.generate()
    write_key_file(path, f"{identity}\n".encode(), "key")
    try:
        write_key_file(Path(f"{path}.pub"), f"{identity.to_public()}\n".encode(), "key", 0o644)
    except UsageError:
        path.unlink()
        raise


def _read(path: Path, what: str) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig", "replace")
    except OSError as error:
        raise UsageError(f"{what} {path} can't be read: {error.strerror}") from None


def _keys(text: str) -> list[str]:
    """The lines of a key file without comments (age-keygen writes some) and blanks."""
    lines = [line.strip() for line in text.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


@dataclass(frozen=True)
class LinkRecipient:
    """The public half of the custodian's key: seals rows and opens none, so it may be sent to every worker.

    Attributes:
        recipient: as age writes it, ``age1...``.
    """

    recipient: str

    @classmethod
    def from_file(cls, path: Path | None) -> Self:
        """The recipient in a file.

        Args:
            path: the ``.pub`` file that `prichexy link keygen` made; None when the setting names none.

        Raises:
            UsageError: no file named, not readable, or it holds something else, such as the secret key.
        """
        if path is None:
            raise UsageError("setting link_recipient is missing: name the .pub file that `prichexy link keygen` made")
        text = _read(path, "setting link_recipient: the file")
        if _SECRET_PREFIX in text.upper():  # in a comment, too
            raise UsageError(
                f"setting link_recipient: {path} holds the custodian's SECRET key, which must never reach the cluster: "
                "name its .pub file, and make a new pair if others could read this one"
            )
        keys = _keys(text)
        if len(keys) == 1:
            try:
                return cls(str(x25519.Recipient.from_str(keys[0])))
            except pyrage.RecipientError:
                pass
        raise UsageError(
            f"setting link_recipient: {path} does not hold one age recipient (age1...): "
            "name the .pub file that `prichexy link keygen` made"
        )

    def seal(self, row: LinkRow) -> bytes:
        """A row that only the custodian can open. Sealed twice, the same row gives different bytes."""
        # Source paths may hold surrogates: names of files that are no valid UTF-8.
        text = json.dumps(asdict(row), ensure_ascii=False).encode("utf-8", "surrogatepass")
        padded = text + b" " * (-len(text) % _BLOCK)
        sealed: bytes = pyrage.encrypt(padded, [x25519.Recipient.from_str(self.recipient)])
        return sealed


class CustodianKey:
    """The custodian's secret key. It never shows itself (no repr) and is not pickled."""

    __slots__ = ("_identity",)

    def __init__(self, identity: x25519.Identity) -> None:
        """Wrap a key; `from_file` reads one."""
        self._identity = identity

    @classmethod
    def from_file(cls, path: Path | None) -> Self:
        """The secret key in a file.

        Args:
            path: the file that `prichexy link keygen` made; None when no option names one.

        Raises:
            UsageError: no file named, not readable, or it holds something else, such as the public recipient.
        """
        if path is None:
            raise UsageError(
                "no custodian's key: name its file with --key-file (`prichexy link keygen FILE` makes one)"
            )
        keys = _keys(_read(path, "the key file"))
        if len(keys) == 1:
            try:
                return cls(x25519.Identity.from_str(keys[0]))
            except pyrage.IdentityError:
                pass
        public = any(key.lower().startswith("age1") for key in keys)
        reason = "holds the public recipient, which opens nothing" if public else "does not hold one age secret key"
        raise UsageError(f"the key file {path} {reason}: name the file that `prichexy link keygen` made")

    def open(self, sealed: bytes) -> LinkRow:
        """The row as it was before `LinkRecipient.seal`.

        Raises:
            PrichexyError: sealed for another key, altered, or no link row; without anything of what stands in it.
        """
        try:
            text = pyrage.decrypt(sealed, [self._identity])
        except pyrage.DecryptError:
            raise PrichexyError(
                "a row of the link table can't be opened: it was sealed for another key, or altered since"
            ) from None
        row = _parsed(text)
        if row is None:  # raised here, so that it carries no parser's error with the text in it
            raise PrichexyError("a row of the link table is not what `prichexy anonymize` writes")
        return row

    def __reduce__(self) -> str | tuple[object, ...]:
        raise TypeError("keys are not sent between processes")


def _parsed(text: bytes) -> LinkRow | None:
    """The row in a seal; None where it is none, since anybody with the public half can seal anything."""
    try:
        row = LinkRow(**json.loads(text.decode("utf-8", "surrogatepass")))
        needed = [row.uri, row.image_id, *row.uids, *row.uids.values()]
    except Exception:
        return None
    optional = (row.issuer, row.patient_old, row.patient_new)
    sound = all(isinstance(value, str) for value in (*needed, *(each for each in optional if each is not None)))
    return row if sound else None


@dataclass(frozen=True, repr=False)
class IdMappings:
    """Old id -> new id over many rows, as the MIDI-B validation script takes them.

    Attributes:
        patients: Patient IDs.
        uids: UIDs.
        rows: how many rows they come from.
    """

    patients: dict[str, str]
    uids: dict[str, str]
    rows: int


def id_mappings(rows: Iterable[LinkRow]) -> IdMappings:
    """All old and new ids of some rows, each pair once.

    Raises:
        PrichexyError: an old id has two new ones. The script would silently take the last; it knows no issuers either,
            so that two hospitals' patients of one number can't stand in one file.
    """
    patients, uids, count = dict[str, str](), dict[str, str](), 0
    for row in rows:
        count += 1
        for old, new in row.uids.items():
            if uids.setdefault(old, new) != new:
                raise PrichexyError(
                    "a UID has two new ones: the link table holds jobs with different project secrets; "
                    "give each job a place of its own"
                )
        if row.patient_old is None or row.patient_new is None:
            continue
        if patients.setdefault(row.patient_old, row.patient_new) != row.patient_new:
            raise PrichexyError(
                "a Patient ID has two new ones, being given by two issuers or under two project secrets, "
                "and the CSV names no issuer: use --json, or narrow the rows"
            )
    return IdMappings(patients, uids, count)
