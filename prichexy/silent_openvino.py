"""OpenVINO without the telemetry of its makers, to whom each import of it is reported otherwise."""

import importlib
import sys
from types import ModuleType
from typing import Any


def silent_openvino() -> ModuleType:
    """OpenVINO, imported so that nobody is told.

    Left to itself, its import forks this process to post a client's number to an analytics service, and leaves that
    number in the home directory. Without the package that does it, OpenVINO takes a stub of its own instead.

    Raises:
        ImportError: it is not installed.
    """
    if "openvino" not in sys.modules:
        modules: dict[str, Any] = sys.modules
        modules["openvino_telemetry"] = None  # so that its import fails
    return importlib.import_module("openvino")
