"""CPU milliseconds an image, ours against the loop as a researcher writes it (`_researchers_loop`).

Both go on one thread, by turns, each in a process of its own, over the same few images; the medians over the rounds
are reported. Ours are the stages of the job without Ray and storage: decode, resize, obfuscate, encode, shard. The
network has the published size (7.76 M parameters) and random weights. Neither side looks for burned-in text, which the
loop can't (`text_share` says what it costs).

    python -m tests.bench.image_cost [--images 4] [--rounds 5]

Inputs: PNG of 1024 x 1024, phantoms and, where they lie, real ones (chestxray14/images_1024 in PRICHEXY_REAL_DATA, by
default ../shared/data beside the checkout); phantom DICOM of 2500 x 3000 pixels and 12 bits. Each engine is
measured, and bfloat16 where the processor has it.
"""

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import cache
from io import BytesIO
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pydicom
import torch
from PIL import Image
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLosslessSV1

from prichexy.cohort.phantom import PhantomCohort, Variant, dicom_file, render
from prichexy.imaging import decode, encode_png, resize
from prichexy.lake.shards import PUBLISHED, digest, published_bytes
from prichexy.networks.flow_generator import FlowFieldGenerator
from prichexy.obfuscation import ObfuscationSettings, Obfuscator, build, obfuscate_levels
from prichexy.obfuscation.allocation import keep_memory
from tests.bench import _researchers_loop as loop
from tests.bench import report

BESIDE = Path(__file__).resolve().parents[3] / "shared" / "data"
SIDE = 256
SYNTAXES = {
    "uncompressed": ExplicitVRLittleEndian,
    "JPEG lossless": JPEGLosslessSV1,
    "JPEG 2000": JPEG2000Lossless,
}


def main() -> None:
    parser = argparse.ArgumentParser(description="CPU milliseconds an image.")
    parser.add_argument("--images", type=int, default=4, help="images a round")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    results: dict[str, Any] = {}
    decoding: dict[str, Any] = {}
    processes = multiprocessing.get_context("spawn")
    with processes.Pool(1, _prepare, (False,)) as loops, processes.Pool(1, _prepare, (True,)) as ours:
        for name, files in inputs(given.images).items():
            for native in (False, True):
                label = f"{name}, {'native' if native else SIDE} out"
                results[label] = compared(files, native, given.rounds, loops, ours)
                print(label, results[label], flush=True)
            if name.startswith("DICOM"):
                decoding[name] = ours.apply(decoded, (files[0], given.rounds))
                print(name, decoding[name], flush=True)
    torch.set_num_threads(1)  # as in the processes that were measured
    report(
        "image_cost",
        {
            "images a round": given.images,
            "rounds": given.rounds,
            "bfloat16 instructions": bfloat16_instructions(),
            "load of the machine (1 min)": round(os.getloadavg()[0], 1),
            "CPU milliseconds an image, median": results,
            "decoding alone": decoding,
        },
    )


def _prepare(as_the_job: bool) -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    if as_the_job:
        keep_memory()


@cache
def _network() -> FlowFieldGenerator:
    torch.manual_seed(0)
    return FlowFieldGenerator().eval()


@cache
def _obfuscator(name: str) -> Obfuscator:
    return build(engines()[name], _network().state_dict())


def bfloat16_instructions() -> list[str]:
    """Which of them this processor has."""
    has = torch.cpu.get_capabilities()
    return [name for name in ("avx512_bf16", "amx_bf16") if has.get(name)]


def engines() -> dict[str, ObfuscationSettings]:
    """What can be measured on this machine, by name."""
    precisions = ["float32", "bfloat16"] if bfloat16_instructions() else ["float32"]
    pairs = [(engine, precision) for engine in ("torch", "openvino") for precision in precisions]
    return {
        f"{engine} {precision}": ObfuscationSettings.model_validate(
            {"kind": "flow-field", "engine": engine, "precision": precision}
        )
        for engine, precision in [("winograd", "float32"), *pairs]
    }


def inputs(count: int) -> dict[str, list[bytes]]:
    found = {"PNG 1024, phantom": [_png(study) for study in PhantomCohort(count, seed=7, size=1024).studies[:count]]}
    folder = Path(os.environ.get("PRICHEXY_REAL_DATA", BESIDE)) / "chestxray14" / "images_1024"
    real = sorted(folder.glob("*.png"))[:: max(1, len(list(folder.glob("*.png"))) // count)][:count]
    if real:
        found["PNG 1024, real"] = [file.read_bytes() for file in real]
    study = PhantomCohort(1, seed=7, size=(3000, 2500)).studies[0]
    for name, syntax in SYNTAXES.items():
        data_set, _ = dicom_file(study, Variant(syntax, 12, inverted=False, voi="window", padded=False))
        buffer = BytesIO()
        data_set.save_as(buffer, enforce_file_format=True)
        found[f"DICOM 2500 x 3000 {name}"] = [buffer.getvalue()]
    return found


def _png(study: Any) -> bytes:
    buffer = BytesIO()
    Image.fromarray(render(study, 8)).save(buffer, "PNG")
    return buffer.getvalue()


def compared(files: list[bytes], native: bool, rounds: int, loops: Pool, ours: Pool) -> dict[str, Any]:
    spent: dict[str, list[float]] = {"the loop": []}
    stages: dict[str, dict[str, list[float]]] = {}
    for number in range(rounds + 1):
        seen = {"the loop": loops.apply(the_loop, (files, native))}
        for name in engines():
            ms = ours.apply(the_job, (name, files, native))
            seen[name] = sum(ms.values())
            for stage, value in ms.items():
                stages.setdefault(name, {}).setdefault(stage, []).append(value)
        if number:  # the first round warms caches and allocators
            for name, value in seen.items():
                spent.setdefault(name, []).append(value)
    medians = {name: statistics.median(values) for name, values in spent.items()}
    best = min(engines(), key=lambda name: medians[name])
    return {
        **{name: round(value, 1) for name, value in medians.items()},
        "times the loop": {name: round(medians["the loop"] / medians[name], 2) for name in engines()},
        f"stages of {best}": {name: round(statistics.median(values[1:]), 1) for name, values in stages[best].items()},
    }


def the_loop(files: list[bytes], native: bool) -> float:
    """CPU milliseconds an image of the researcher's loop."""
    network = _network()
    with tempfile.TemporaryDirectory() as folder:
        began = time.process_time()
        loop.anonymize(files, network, Path(folder), native)
        return 1000 * (time.process_time() - began) / len(files)


def the_job(name: str, files: list[bytes], native: bool) -> dict[str, float]:
    """CPU milliseconds an image of each of the job's stages, for one shard."""
    obfuscator, spent = _obfuscator(name), {}

    def timed(stage: str, work: Callable[[], Any]) -> Any:
        began = time.process_time()
        result = work()
        spent[stage] = 1000 * (time.process_time() - began) / len(files)
        return result

    radiographs = timed("decode", lambda: [decode(data) for data in files])
    depths = [radiograph.bit_depth for radiograph in radiographs]
    small = timed("resize", lambda: [resize(radiograph.pixels, SIDE, SIDE) for radiograph in radiographs])
    seeds_N = torch.arange(len(files))
    images = [radiograph.pixels for radiograph in radiographs] if native else small
    outputs = timed(
        "obfuscate", lambda: list(obfuscate_levels(obfuscator, images, depths, seeds_N, small if native else None))
    )
    encoded = timed("encode", lambda: [encode_png(image, depth) for image, depth in zip(outputs, depths, strict=True)])
    with tempfile.NamedTemporaryFile() as file:
        timed("shard", lambda: file.write(_shard(encoded, outputs, depths)))
    return spent


def decoded(data: bytes, rounds: int) -> dict[str, float]:
    """CPU milliseconds to decode a DICOM file: pydicom to stored values, ours to display values and header facts."""
    spent: dict[str, list[float]] = {"pydicom": [], "ours": []}
    for number in range(rounds + 1):
        for name, work in (
            ("pydicom", lambda: pydicom.dcmread(BytesIO(data)).pixel_array),
            ("ours", lambda: decode(data)),
        ):
            began = time.process_time()
            work()
            if number:
                spent[name].append(1000 * (time.process_time() - began))
    medians = {name: statistics.median(values) for name, values in spent.items()}
    return {
        **{name: round(ms, 1) for name, ms in medians.items()},
        "times": round(medians["pydicom"] / medians["ours"], 2),
    }


def _shard(encoded: list[bytes], outputs: list[np.ndarray], depths: list[int]) -> bytes:
    rows = [
        {
            "image_id": f"{number:032x}",
            "image": {"bytes": data, "path": f"{number:032x}.png"},
            "width": image.shape[1],
            "height": image.shape[0],
            "bit_depth": depth,
            "model_version": "prichexy-net/1",
        }
        for number, (data, image, depth) in enumerate(zip(encoded, outputs, depths, strict=True))
    ]
    shard = published_bytes(pa.Table.from_pylist(rows, PUBLISHED))
    digest(shard)
    return shard


if __name__ == "__main__":
    main()
