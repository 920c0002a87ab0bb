"""What a GPU's results are: how far from the CPU's, and the same again when they should be."""

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prichexy.imaging import from_unit, to_unit
from prichexy.networks.inference import fold_batch_norm
from prichexy.obfuscation import flow_field, obfuscate_levels
from prichexy.obfuscation.cuda.levels import levels_of, units_of
from prichexy.obfuscation.engine_check import Differences
from prichexy.obfuscation.flow_field import FlowField
from prichexy.obfuscation.settings import Precision
from tests.bench._gpu_setup import Bench, tried

Figures = Iterator[tuple[str, Any]]
PRECISIONS: tuple[Precision, ...] = ("bfloat16", "float32")


def grey_scale(bench: Bench) -> Figures:
    """Whether levels become the CPU's numbers in [0, 1], and numbers its levels, to the bit, at every depth."""
    units_differ, levels_differ = 0, 0
    for depth in range(8, 17):
        levels = np.arange(2**depth, dtype=np.uint8 if depth == 8 else np.uint16)
        tops = torch.full((1, 1, 1, 1), 2.0**depth - 1, device=bench.device)
        sent = torch.from_numpy(levels).to(bench.device).to(torch.float32)[None, None, None]
        units = units_of(sent, tops)[0, 0, 0].cpu().numpy()
        units_differ += int((units.view(np.int32) != to_unit(levels, depth).view(np.int32)).sum())
        between = np.random.default_rng(depth).uniform(-0.1, 1.1, 2**20).astype(np.float32)
        middles = ((levels[:-1] + 0.5) / (2**depth - 1)).astype(np.float32)
        for some in (between, middles):
            back = levels_of(torch.from_numpy(some).to(bench.device)[None, None, None], tops)[0, 0, 0]
            as_levels = back.to(torch.uint8 if depth == 8 else torch.uint16).cpu().numpy()
            levels_differ += int((as_levels != from_unit(some, depth)).sum())
    yield "units that differ", units_differ
    yield "levels that differ", levels_differ


def _published(bench: Bench, obfuscator: FlowField, native: bool) -> list[Any]:
    images = bench.natives[:8] if native else bench.levels
    small = bench.levels[:8] if native else None
    device = bench.device if obfuscator.device.type == "cuda" else "cpu"
    given = obfuscate_levels(obfuscator, images, [8] * len(images), torch.zeros(len(images)), small, device)
    return list(given)


def _compared(bench: Bench, reference: list[Any], obfuscator: FlowField, native: bool) -> dict[str, Any]:
    found = Differences()
    for before, after in zip(reference, _published(bench, obfuscator, native), strict=True):
        found.add(before, after, 8)
    return {"largest": found.largest, "mean": found.mean, "share of pixels changed": found.changed_share}


def differences(bench: Bench) -> Figures:
    """Grey levels of 255 between the GPU and torch in float32 on the CPU."""
    if not bench.small:
        torch.set_num_threads(len(os.sched_getaffinity(0)))
    reference = bench.reference()
    at_size, native = _published(bench, reference, False), _published(bench, reference, True)
    moved = [float(np.abs(a.astype(int) - b).mean()) for a, b in zip(at_size, bench.levels, strict=True)]
    yield (
        "images",
        {"at size": len(at_size), "native": len(native), "of": bench.found["images"], "mu": bench.settings.mu},
    )
    yield "grey levels that obfuscation changes on average", round(float(np.mean(moved)), 2)
    for precision in PRECISIONS:
        obfuscator = bench.obfuscator(bench.engine(precision))
        yield f"{precision}, at size", tried(_compared, bench, at_size, obfuscator, False)
        for on_gpu in (True, False):
            flow_field.NATIVE_ON_GPU = on_gpu
            obfuscator.__dict__.pop("native_levels", None)
            yield (
                f"{precision}, native, deformed on the {'GPU' if on_gpu else 'CPU'}",
                tried(_compared, bench, native, obfuscator, True),
            )
        flow_field.NATIVE_ON_GPU = True


def determinism(bench: Bench) -> Figures:
    """Whether an image gives the same bits; fields are compared, in float32."""
    units = torch.from_numpy(np.stack(bench.levels[:16])[:, None] / np.float32(255)).float().to(bench.device)
    for precision in PRECISIONS:
        if bench.late():
            return
        engine = bench.engine(precision)
        first = engine(units)
        yield f"{precision}, again, ten times", all(torch.equal(engine(units), first) for _ in range(10))
        rolled = [torch.equal(engine(units.roll(by, 0)), first.roll(by, 0)) for by in range(1, len(units))]
        yield f"{precision}, at each place of a batch", all(rolled)
        alone = torch.cat([engine(units[number : number + 1]) for number in range(len(units))])
        yield f"{precision}, one in a call", torch.equal(alone, first)
        yield f"{precision}, captured anew", torch.equal(bench.engine(precision)(units), first)
        yield f"{precision}, not captured", _change(engine.outputs(units), first) if len(units) == 16 else None
        reference = _published(bench, bench.obfuscator(engine), False)
        for batch in (1, 2, 4, 8, 32):
            if bench.late():
                return
            other = bench.engine(precision, batch=batch)
            yield f"{precision}, batch of {batch} for 16", tried(_change, other(units), first)
            levels = tried(_compared, bench, reference, bench.obfuscator(other), False)
            yield f"{precision}, batch of {batch} for 16, levels", levels
    obfuscator = bench.obfuscator(bench.engine())
    narrow = _published(bench, obfuscator, False)
    images = [*bench.levels, bench.levels[0].astype(np.uint16)]
    wide = list(obfuscate_levels(obfuscator, images, [8] * len(bench.levels) + [12], torch.zeros(len(images))))
    yield "one byte a pixel as two", all(np.array_equal(a, b) for a, b in zip(narrow, wide, strict=False))


def _change(other: Tensor, first: Tensor) -> dict[str, Any]:
    return {"same bits": torch.equal(other, first), "largest change": float((other - first).abs().max())}


def float32_is_float32(bench: Bench) -> Figures:
    """The largest error of the field against float64 on the CPU, and what TF32 would make of it."""
    units = torch.from_numpy(np.stack(bench.levels[:2])[:, None] / np.float32(255)).float()
    with torch.no_grad():
        exact = fold_batch_norm(bench.network).double()(units.double())
    engine = bench.engine("float32", batch=2)
    yield "the engine", float((engine(units).cpu().double() - exact).abs().max())
    with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=True):
        inputs = units.to(bench.device).contiguous(memory_format=torch.channels_last)
        rounded = engine.network(inputs).float().cpu().double()
    yield "with TF32", float((rounded - exact).abs().max())
    yield "bfloat16", float((bench.engine(batch=2)(units).cpu().double() - exact).abs().max())
