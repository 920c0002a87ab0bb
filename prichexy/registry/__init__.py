"""Models, audits, promotions and training runs in MLflow: the only package that imports it."""

import os

# A registry that can't be reached should say so in seconds, and a privacy tool calls nobody.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # stdout is for results

from prichexy.registry.audits import passing_audit, read_audit, store_audit
from prichexy.registry.lineage import Publication, note_publication, publications
from prichexy.registry.models import DEFAULT_TRACKING_URI, ModelVersion, Registry
from prichexy.registry.promotion import (
    CHAMPION,
    PREVIOUS,
    STAGING,
    Foreseen,
    Promotion,
    foresee,
    promote,
    roll_back,
    stage_version,
)
from prichexy.registry.runs import RunLog, open_run, run_tags

__all__ = [
    "CHAMPION",
    "DEFAULT_TRACKING_URI",
    "PREVIOUS",
    "STAGING",
    "Foreseen",
    "ModelVersion",
    "Promotion",
    "Publication",
    "Registry",
    "RunLog",
    "foresee",
    "note_publication",
    "open_run",
    "passing_audit",
    "promote",
    "publications",
    "read_audit",
    "roll_back",
    "run_tags",
    "stage_version",
    "store_audit",
]
