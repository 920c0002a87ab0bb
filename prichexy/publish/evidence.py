"""What is proven of the models that the images were made with: their audits, as the registry keeps them under seal."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from prichexy.deid import read_secret_file
from prichexy.errors import PrichexyError
from prichexy.lake.shards import UNAUDITED
from prichexy.publish.source import Making, Publication
from prichexy.verdict import AuditRecord, ModelUnderAudit, VerdictError, audit_id, require_passing

log = logging.getLogger(__name__)

State = Literal["passed", "failed", "unproven", "none"]


@dataclass(frozen=True)
class Evidence:
    """What is known of one model's audit.

    Attributes:
        making: what was made with it.
        state: ``passed`` or ``failed``, by a record whose seal was proven and that is of exactly these weights and
            settings; ``unproven`` where a record is named but was not, or could not be, opened; ``none`` without one.
        sentence: the same in a sentence.
        record: the audit; None unless passed or failed.
        id: its id; None without a record.
    """

    making: Making
    state: State
    sentence: str
    record: AuditRecord | None = None
    id: str | None = None

    @property
    def stamped(self) -> bool:
        """Whether an audit allowed the job that made the images; without one it ran with ``allow_unaudited``."""
        return self.making.audited

    @property
    def other_resolution(self) -> str | None:
        """At which resolution the model was audited, where the images were made at another one."""
        if self.record is None or self.record.resolution == self.making.resolution:
            return None
        return self.record.resolution


def gather(publication: Publication, secret_file: Path | None, tracking_uri: str | None) -> list[Evidence]:
    """The evidence for each model of a publication.

    Args:
        publication: whose models.
        secret_file: the project's secret, with which audits are sealed; without it none is proven.
        tracking_uri: the registry.

    Raises:
        UsageError: the secret's file can't be read or is no secret.
    """
    secret = read_secret_file(secret_file) if secret_file is not None else None
    return [_evidence(making, secret, tracking_uri) for making in publication.makings]


def _evidence(making: Making, secret: bytes | None, tracking_uri: str | None) -> Evidence:
    if making.name == "local":
        return Evidence(making, "none", "The model is in no registry, and was never audited.")
    named = None if making.audit_id == UNAUDITED else making.audit_id
    if secret is None:
        if named is None:
            return Evidence(making, "none", "The images were made without an audit.")
        return Evidence(
            making, "unproven", f"The manifest names audit {named}; its record was not opened, for want of the secret."
        )
    # MLflow takes seconds to import, which a publication without a registry need not wait for.
    from prichexy.registry import Registry, read_audit

    registry = Registry(tracking_uri)
    try:
        model = registry.find(f"models:/{making.name}/{making.version}")
        if model.fingerprint != making.fingerprint:
            return Evidence(making, "unproven", "The registry holds other weights under this name and version.")
        record = read_audit(registry, model, secret, named)
    except VerdictError as error:
        if error.kind == "missing" and named is None:
            return Evidence(making, "none", "The model has no audit.")
        return Evidence(making, "unproven", f"The audit can't be proven ({error.kind}).")
    except PrichexyError as error:
        log.warning("evidence: %s", error)
        return Evidence(making, "unproven", "The registry could not be asked for the audit's record.")
    return _judged(making, model.under_audit(), record)


def _judged(making: Making, model: ModelUnderAudit, record: AuditRecord) -> Evidence:
    identifier = audit_id(record)
    try:
        require_passing(record, model)
    except VerdictError as error:
        if error.kind != "failed":
            return Evidence(making, "unproven", f"The audit on record is not of this model ({error.kind} differs).")
        return Evidence(making, "failed", f"The model failed its audit {identifier}.", record, identifier)
    return Evidence(making, "passed", f"The model passed its audit {identifier}.", record, identifier)
