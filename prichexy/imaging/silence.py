"""Keeps the libraries that read images quiet: their warnings and log records quote header values."""

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_LOGGERS = (
    "pydicom",
    "pylibjpeg",
    "openjpeg",
    "imagecodecs",
    "PIL.Image",
    "PIL.PngImagePlugin",
    "PIL.JpegImagePlugin",
    "PIL.TiffImagePlugin",
)

_this_thread = threading.local()
_lock = threading.Lock()
_quiet_threads = 0
_saved_filters: "warnings.catch_warnings[None] | None" = None


class _DropWhileQuiet(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return not getattr(_this_thread, "depth", 0)


for _name in _LOGGERS:
    logging.getLogger(_name).addFilter(_DropWhileQuiet())


@contextmanager
def quiet() -> Iterator[None]:
    """Drop the warnings, and this thread's log records, of the image libraries.

    Log records of other threads pass. Python's warning filters belong to the process: while any thread is inside, every
    thread's warnings are dropped, and the filters come back when the last one leaves, so threads may overlap freely.
    """
    global _quiet_threads, _saved_filters
    with _lock:
        if _quiet_threads == 0:
            _saved_filters = warnings.catch_warnings()
            _saved_filters.__enter__()
            warnings.simplefilter("ignore")
        _quiet_threads += 1
    _this_thread.depth = getattr(_this_thread, "depth", 0) + 1
    try:
        yield
    finally:
        _this_thread.depth -= 1
        with _lock:
            _quiet_threads -= 1
            if _quiet_threads == 0 and _saved_filters is not None:
                _saved_filters.__exit__(None, None, None)
                _saved_filters = None
