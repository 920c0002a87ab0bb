"""Audits beside the model that they are about: the sealed record as an artifact, what people look for as tags."""

import re
import shutil
import tempfile
from pathlib import Path

from mlflow.artifacts import download_artifacts

from prichexy.errors import UsageError
from prichexy.registry.models import AUDIT_TAG, PASSED_TAG, ModelVersion, Registry
from prichexy.verdict import AuditRecord, VerdictError, audit_id, opened, require_passing, sealed

FOLDER = "audits"

_AUDIT_ID = re.compile(r"[0-9a-f]{16}")


def store_audit(registry: Registry, record: AuditRecord, secret: bytes, report: Path | None = None) -> str:
    """Seal a record and keep it with the version that it is about, which has it as its latest audit from then on.

    Args:
        registry: where the model is.
        record: names the version.
        secret: the project's 32 bytes.
        report: HTML page for people, kept beside the record; no seal is on it.

    Returns:
        The audit's id. A record that is there already is stored again under the same one.

    Raises:
        UsageError: the model is in no registry, or not in this one.
        PrichexyError: the registry can't be reached; the version's latest audit is the one that it was.
    """
    if record.model.name is None:
        raise UsageError("setting model: only the audit of a registered model can be stored: register it first")
    model = registry.find(record.model.uri)
    if record.model != model.under_audit():
        raise UsageError(f"setting model: what was audited is not {record.model.uri} as it is registered: audit that")
    identifier = audit_id(record)
    with tempfile.TemporaryDirectory(prefix="prichexy-audit-") as folder, registry.asked() as client:
        if report is not None:
            shutil.copyfile(report, Path(folder) / f"{identifier}.html")
        (Path(folder) / f"{identifier}.json").write_bytes(sealed(record, secret))
        client.log_artifacts(model.run_id, folder, FOLDER)
        # The record is there before a tag names it, and at no moment is a version shown as audited whose latest audit
        # failed.
        client.set_model_version_tag(model.name, model.version, PASSED_TAG, "false")
        client.set_model_version_tag(model.name, model.version, AUDIT_TAG, identifier)
        if record.verdict.passed:
            client.set_model_version_tag(model.name, model.version, PASSED_TAG, "true")
    return identifier


def read_audit(registry: Registry, model: ModelVersion, secret: bytes, identifier: str | None = None) -> AuditRecord:
    """An audit of a model, its seal proven; whether it passed, or is of this very version, is not looked at.

    Args:
        registry: where the model is.
        model: whose audit.
        secret: the project's 32 bytes.
        identifier: which audit; the latest when None.

    Raises:
        VerdictError: there is no audit (``missing``), or its seal is broken (see `prichexy.verdict.opened`).
        PrichexyError: the registry can't be reached.
    """
    subject = model.under_audit()
    if not model.registered:
        raise VerdictError(
            "missing",
            f"the model {model.name}/{model.version} has no passing audit, since it is in no registry: register it "
            "(`prichexy models import`), then run `prichexy audit`",
        )
    identifier = identifier or model.audit_id
    if identifier is None:
        raise VerdictError("missing", f"{subject.uri} has no audit: run `prichexy audit {subject.uri}`")
    altered = VerdictError(
        "altered", f"the audit of {subject.uri} is not the one that was stored: run `prichexy audit {subject.uri}`"
    )
    if not _AUDIT_ID.fullmatch(identifier):
        raise altered
    data = _stored(registry, str(model.run_id), f"{FOLDER}/{identifier}.json")
    if data is None:
        raise VerdictError(
            "missing",
            f"the audit {identifier} of {subject.uri} is gone from the registry: run `prichexy audit {subject.uri}`",
        )
    record = opened(data, secret)
    if audit_id(record) != identifier:
        raise altered
    return record


def passing_audit(registry: Registry, model: ModelVersion, secret: bytes, identifier: str | None = None) -> AuditRecord:
    """An audit that allows a model: intact, of exactly this version, operator, precision and weights, and passed.

    The seal proves each audit, not which is the latest: that is a tag, and who may write to the registry can point it
    back at an earlier audit of the same version that passed. Let only those write to it who may promote.

    Args and errors are those of `read_audit`.

    Raises:
        VerdictError: one sentence on what is wrong with the verdict, and the mend.
    """
    record = read_audit(registry, model, secret, identifier)
    require_passing(record, model.under_audit())
    return record


def _stored(registry: Registry, run_id: str, path: str) -> bytes | None:
    with registry.asked() as client, tempfile.TemporaryDirectory(prefix="prichexy-audit-") as folder:
        if path not in {found.path for found in client.list_artifacts(run_id, FOLDER)}:
            return None
        file = download_artifacts(run_id=run_id, artifact_path=path, dst_path=folder, tracking_uri=registry.uri)
        return Path(file).read_bytes()
