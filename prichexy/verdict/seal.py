"""A record sealed with the project's secret, so that an edited verdict is not accepted.

The seal is an HMAC-SHA256 (RFC 2104) over the record's canonical JSON (keys sorted, no spaces, UTF-8), under a subkey
that serves nothing else (HKDF-SHA256, RFC 5869). It proves that someone with the project's secret made the record; it
is no proof towards those who hold the secret.
"""

import hmac
import json
from hashlib import sha256
from typing import Any

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from pydantic import ValidationError

from prichexy.deid import Pseudonyms
from prichexy.verdict.check import VerdictError
from prichexy.verdict.record import SCHEMA_VERSION, AuditRecord

ALGORITHM = "HMAC-SHA256"
AUDIT_ID_DIGITS = 16


def audit_id(record: AuditRecord) -> str:
    """Names a record: the first 16 hexadecimal digits of the SHA-256 of its canonical JSON."""
    return sha256(_canonical(record.model_dump(mode="json"))).hexdigest()[:AUDIT_ID_DIGITS]


def sealed(record: AuditRecord, secret: bytes) -> bytes:
    """A record and its seal, as JSON for people and programs.

    Args:
        record: what is sealed.
        secret: the project's 32 bytes.
    """
    facts = record.model_dump(mode="json")
    seal = {
        "algorithm": ALGORITHM,
        "key_id": Pseudonyms.from_secret(secret).key_id,
        "mac": _mac(_canonical(facts), secret),
    }
    return (json.dumps({"record": facts, "seal": seal}, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def opened(data: bytes, secret: bytes) -> AuditRecord:
    """The record inside what `sealed` made, after its seal was proven.

    Args:
        data: the JSON.
        secret: the project's 32 bytes.

    Raises:
        VerdictError: of kind ``altered`` (not what was sealed), ``key`` (sealed with another secret) or ``schema``
            (by another version of prichexy).
    """
    altered = VerdictError("altered", "the audit's record was altered after it was sealed: run `prichexy audit` again")
    try:
        envelope = json.loads(data)
        facts, seal = envelope["record"], envelope["seal"]
        algorithm, key_id, mac = seal["algorithm"], seal["key_id"], seal["mac"]
        schema, canonical = facts["schema_version"], _canonical(facts)
    except (ValueError, KeyError, TypeError, RecursionError):
        raise altered from None
    ours = Pseudonyms.from_secret(secret).key_id
    if algorithm != ALGORITHM or not isinstance(mac, str):
        raise altered
    if key_id != ours:
        raise VerdictError(
            "key",
            f"the audit was sealed with another project secret than yours ({ours}): name the secret of that audit, "
            "or run `prichexy audit` again with yours",
        )
    if not hmac.compare_digest(_mac(canonical, secret).encode(), mac.encode("utf-8", "replace")):
        raise altered
    if schema != SCHEMA_VERSION:
        raise VerdictError(
            "schema", "the audit was recorded by another version of prichexy: run `prichexy audit` again with this one"
        )
    try:
        return AuditRecord.model_validate(facts)
    except ValidationError:
        raise VerdictError(
            "schema", "the audit's record is not of this version's form: run `prichexy audit` again"
        ) from None


def _canonical(facts: Any) -> bytes:
    return json.dumps(facts, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def _mac(canonical: bytes, secret: bytes) -> str:
    key = HKDF(algorithm=SHA256(), length=32, salt=None, info=b"prichexy/1/audit").derive(secret)
    return hmac.new(key, canonical, sha256).hexdigest()
