"""Models and training runs in MLflow: the only package that imports it."""

import os

# A registry that can't be reached should say so in seconds, and a privacy tool calls nobody.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

from prichexy.registry.models import DEFAULT_TRACKING_URI, ModelVersion, Registry
from prichexy.registry.runs import RunLog, open_run

__all__ = ["DEFAULT_TRACKING_URI", "ModelVersion", "Registry", "RunLog", "open_run"]
