"""The main job on Ray Data, in the order in which a radiograph meets it.

`job` plans and commits; `stages` holds one function a stage: ingest (fetch, decode, pseudonyms) -> obfuscate
(generator actors) -> encode -> publish (one shard at a time).
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prichexy.anonymize.job import anonymize as anonymize
    from prichexy.anonymize.report import Report as Report
    from prichexy.anonymize.report import StageReport as StageReport
    from prichexy.anonymize.summary import Summary as Summary

_PLACES = {"Report": "report", "StageReport": "report", "Summary": "summary", "anonymize": "job"}

__all__ = ["Report", "StageReport", "Summary", "anonymize"]


def __getattr__(name: str) -> Any:
    """What the driver uses, imported when it is asked for: a worker's stages need neither plan nor MLflow, whose import
    takes seconds of each worker's start.
    """
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
