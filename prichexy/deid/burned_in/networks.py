"""The two text networks, PP-OCRv6 small: where text is, and what a short line of it says.

The weights lie inside the wheel of `rapidocr` (Apache-2.0); nothing is downloaded, and none of that package's code
runs: its files are found, checked against their hashes, and given to OpenVINO on one thread, in float32. ONNX Runtime
gives the same probabilities (to 2e-5) in 280 ms instead of 75 for the half-size view of a 1024 px image on a Xeon.
"""

import hashlib
import importlib.util
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from prichexy.errors import Quarantined, UsageError
from prichexy.silent_openvino import silent_openvino

_SHA256 = {
    "PP-OCRv6_det_small.onnx": "090f04abcd9d9a7498bc4ebf677e4cb9bdce1fe4197ddb7e529f1ef44e1ff94f",
    "PP-OCRv6_rec_small.onnx": "6f327246b50388f3c176ae304bd95767ea6dc0c9ae92153ef8cbe210b3c14884",
}
_MISSING = (
    "finding burned-in text needs the packages openvino and rapidocr 3.10 (its text networks): install them on "
    "every node, or set the burned-in text setting to off"
)
_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)
"""Of ImageNet, in units of the full grey range, as the detector was trained. With 0.5 and 0.5 instead (rapidocr's own
setting) it finds as much, but on radiographs at half resolution it marks 20 times the area."""

Grey = NDArray[np.uint8]


def text_probability(grey_HW: Grey) -> NDArray[np.float32]:
    """How probable it is that a pixel lies in the middle of a line of text.

    Args:
        grey_HW: (H, W) grey levels; both sides multiples of 32.

    Returns:
        (H, W), 0 to 1. The network marks lines shrunk to a core, about half as high (Liao et al., "Real-time Scene
        Text Detection with Differentiable Binarization", AAAI 2020).

    Raises:
        UsageError: the weights or OpenVINO are not installed.
    """
    height, width = grey_HW.shape
    grey_11HW = np.concatenate([grey_HW, _anchor(width)])[None, None].astype(np.float32) / 255
    x_NCHW = (grey_11HW - _MEAN[:, None, None]) / _DEVIATION[:, None, None]
    return _computed("PP-OCRv6_det_small.onnx", x_NCHW)[0, 0, :height]


@lru_cache(maxsize=16)
def _anchor(width: int) -> Grey:
    """A strip with a word on it, to put below an image.

    The network judges a pixel by the whole picture too. Where a radiograph has no text at all, it often takes the chest
    for text: a quarter of the picture, in 5 of 13 radiographs whose marks had been covered. With a word in sight: none.
    """
    strip_HW = np.zeros((64, width), np.uint8)
    cv2.putText(strip_HW, "TEXT 123", (24, 44), cv2.FONT_HERSHEY_SIMPLEX, 1.0, 255, 2)
    return strip_HW


def read_line(grey_3HW: NDArray[np.float32]) -> tuple[str, float]:
    """What a line of text says.

    Args:
        grey_3HW: (3, 48, W) the line, upright, -1 (black) to 1 (white); 0 where there is nothing.

    Returns:
        The text, and the probability of its least certain character (0 for no text). It stays inside this package:
        what was read may be a name.

    Raises:
        UsageError: the weights or OpenVINO are not installed.
    """
    probability_TC = _computed("PP-OCRv6_rec_small.onnx", grey_3HW[None])[0]
    best_T = probability_TC.argmax(axis=1)
    # Connectionist temporal classification: class 0 is the blank, and a class repeated without one counts once.
    starts_T = (best_T != 0) & (best_T != np.concatenate([[0], best_T[:-1]]))
    if not starts_T.any():
        return "", 0.0
    alphabet = _alphabet()
    return "".join(alphabet[k] for k in best_T[starts_T]), float(probability_TC[starts_T].max(axis=1).min())


def require_networks() -> None:
    """Read both networks now, so that a job that lacks them never starts.

    Raises:
        UsageError: the weights or OpenVINO are not installed, or the weights are of another version.
    """
    for name in _SHA256:
        _read(name)


def _computed(name: str, inputs: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """The only output of a network.

    Raises:
        MemoryError: the process may not have as much as it needs, or the machine has no more.
        Quarantined: ``BurnedInText``, where it gives no numbers: no text would be found in them.
    """
    with _told_as_memory_error():
        outputs: NDArray[np.float32] = _request(name).infer([np.ascontiguousarray(inputs, np.float32)])[0]
    if not np.isfinite(outputs).all():
        raise Quarantined("deidentify", "BurnedInText", "a text network gave values that are no numbers")
    return outputs


_THREAD = threading.local()


def _request(name: str) -> Any:
    """A request of this thread's own, whose outputs are copies; two threads that share one mix up their images."""
    requests: dict[str, Any] = _THREAD.__dict__.setdefault("requests", {})
    if name not in requests:
        requests[name] = _network(name).create_infer_request()
    return requests[name]


@contextmanager
def _told_as_memory_error() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if "alloc" in str(error):  # OpenVINO has no type of its own for it: "std::bad_alloc", "can't alloc"
            raise MemoryError from None
        raise


@lru_cache(maxsize=2)
def _network(name: str) -> Any:
    """A network, compiled; all threads' requests go through it one after the other."""
    options = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": 1,  # one image, one core: the job runs one per core
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,
        "CPU_RUNTIME_CACHE_CAPACITY": "0",  # else it keeps code for each size of image that it has seen
    }
    with _told_as_memory_error():
        core, model = _read(name)
        return core.compile_model(model, "CPU", options)


def _read(name: str) -> tuple[Any, Any]:
    """OpenVINO, and a network as it is in its file."""
    package = importlib.util.find_spec("rapidocr")
    try:
        openvino = silent_openvino()
    except ImportError:
        raise UsageError(_MISSING) from None
    if package is None or not package.submodule_search_locations:
        raise UsageError(_MISSING)
    path = Path(package.submodule_search_locations[0]) / "models" / name
    weights = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(weights).hexdigest() != _SHA256[name]:
        raise UsageError(f"the installed rapidocr holds other text networks than those of release 3.10; {_MISSING}")
    core = openvino.Core()
    return core, core.read_model(weights)


@lru_cache(maxsize=1)
def _alphabet() -> list[str]:
    _, model = _read("PP-OCRv6_rec_small.onnx")
    held: str = model.get_rt_info(["framework", "character"]).astype(str)
    return ["", *held.split("\n"), " "]
