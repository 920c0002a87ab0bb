"""A registry with a model in it, and what someone with access to its store could do."""

import tempfile
from pathlib import Path
from typing import Any

from prichexy.obfuscation import create_untrained
from prichexy.registry import ModelVersion, Registry
from prichexy.registry.models import AUDIT_TAG, PASSED_TAG
from prichexy.verdict import AuditRecord, audit_id, sealed

SECRET = bytes(range(32))


def registered(registry: Registry, name: str, seed: int = 3, kind: str = "flow-field", **given: Any) -> ModelVersion:
    settings = {"features": 4, "image_size": 64, **given} if kind == "flow-field" else given
    with tempfile.TemporaryDirectory() as folder:
        create_untrained(kind, Path(folder), seed, settings)
        made = registry.register(Path(folder), name, "a test")
    return registry.find(f"models:/{made.name}/{made.version}")


def plant(registry: Registry, model: ModelVersion, record: AuditRecord, secret: bytes = SECRET) -> ModelVersion:
    """Put a record beside a version past `store_audit`, which refuses one of another model."""
    with tempfile.TemporaryDirectory() as folder, registry.asked() as client:
        file = Path(folder) / f"{audit_id(record)}.json"
        file.write_bytes(sealed(record, secret))
        client.log_artifact(model.run_id, str(file), "audits")
        client.set_model_version_tag(model.name, model.version, AUDIT_TAG, audit_id(record))
        client.set_model_version_tag(model.name, model.version, PASSED_TAG, "true")
    return registry.find(f"models:/{model.name}/{model.version}")


def stored_file(registry: Registry, model: ModelVersion, identifier: str) -> Path:
    """Where the store keeps an audit."""
    with registry.asked() as client:
        return Path(client.get_run(model.run_id).info.artifact_uri) / "audits" / f"{identifier}.json"
