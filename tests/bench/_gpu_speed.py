"""How fast a GPU is, and how much of that the network, and an actor's loop around it, make use of."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import cycle, islice
from typing import Any

import cv2
import numpy as np
import torch

from prichexy.obfuscation import obfuscate_levels
from prichexy.obfuscation.cuda.epilogues import Epilogue
from prichexy.obfuscation.cuda.levels import LevelBatches
from prichexy.obfuscation.cuda.native_warp import NativeWarp
from prichexy.obfuscation.cuda.network import CudaNetwork
from prichexy.obfuscation.flow_field import FlowField
from prichexy.obfuscation.grey_warp import warp_grey_levels
from tests.bench._gpu_setup import Bench, tried

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
Figures = Iterator[tuple[str, Any]]


def device(bench: Bench) -> Figures:
    """What it is, and how fast page-locked memory gets there and back."""
    if bench.device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        yield "multiprocessors", properties.multi_processor_count
        yield "memory, GiB", round(properties.total_memory / 2**30, 1)
        yield "compute capability", f"{properties.major}.{properties.minor}"
        yield "cuda", torch.version.cuda
        yield "cudnn", torch.backends.cudnn.version()
    size = 2 ** (20 if bench.small else 26)
    host, there = bench.queues.host_memory((size,), torch.uint8), bench.queues.device_memory((size,), torch.uint8)
    for name, to, of in (("to the device", there, host), ("from the device", host, there)):
        seconds = bench.queues.seconds(lambda to=to, of=of: to.copy_(of, non_blocking=True), 10)
        yield f"GB/s {name}", round(size / seconds / 1e9, 1)
    copy = torch.empty_like(there)
    yield (
        "GB/s within the device, read and written",
        round(2 * size / bench.queues.seconds(lambda: copy.copy_(there), 10) / 1e9),
    )


def ceilings(bench: Bench) -> Figures:
    """The best rate of large square products of random numbers, TFLOP/s; float32 without TF32."""
    allowed = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        for name, dtype in DTYPES.items():
            rates = {}
            for side in (256,) if bench.small else (2048, 4096, 8192):
                left, right = (torch.randn(side, side, device=bench.device, dtype=dtype) for _ in range(2))
                out = torch.empty_like(left)
                work = lambda left=left, right=right, out=out: torch.mm(left, right, out=out)  # noqa: E731
                rates[side] = 2 * side**3 / min(bench.queues.seconds(work, 10) for _ in range(3)) / 1e12
            yield f"{name}, TFLOP/s by side", {side: round(rate, 1) for side, rate in rates.items()}
            bench.found[f"ceiling {name}"] = max(rates.values())
    finally:
        torch.backends.cuda.matmul.allow_tf32 = allowed


def rated(bench: Bench, images_per_second: float, precision: str) -> dict[str, Any]:
    """A rate, and what share of the ceiling the network's convolutions are at it."""
    rate = images_per_second * bench.operations / 1e12
    ceiling = bench.found.get(f"ceiling {precision}")
    share = {"share of the ceiling": round(rate / ceiling, 3)} if ceiling else {}
    return {"images/s": round(images_per_second), "TFLOP/s": round(rate, 1), **share}


def graph(bench: Bench, engine: CudaNetwork, batch: int, precision: str) -> dict[str, Any]:
    """A captured batch of the network alone."""
    bench.release()
    trial = engine.trial(batch)
    if trial is None:
        return {"error": "out of memory"}
    return {**rated(bench, trial.rate, precision), "MiB": round(trial.bytes / 2**20)}


def eager(bench: Bench, engine: CudaNetwork, batch: int, precision: str) -> dict[str, Any]:
    """A batch of the network alone, layer by layer."""
    units = torch.rand(batch, 1, bench.side, bench.side, device=bench.device)
    return rated(bench, batch / bench.queues.seconds(lambda: engine.outputs(units), 5), precision)


def batches(bench: Bench) -> Figures:
    """The network alone by size of batch, captured and not."""
    yield "GFLOP an image", round(bench.operations / 1e9, 2)
    for precision, sizes in (("bfloat16", (1, 2, 4, 8, 16, 32, 64)), ("float32", (4, 16))):
        engine = bench.engine(precision)  # type: ignore[arg-type]
        for batch in sizes[:2] if bench.small else sizes:
            if bench.late():
                return
            yield f"{precision}, graph of {batch}", tried(graph, bench, engine, batch, precision)
        for batch in (1, 16):
            yield f"{precision}, not captured, {batch}", tried(eager, bench, engine, batch, precision)


def start(bench: Bench) -> Figures:
    """What a job's first batch waits for, and the batch that is found."""
    image = bench.levels[:1]
    for precision in ("bfloat16", "float32"):
        bench.release()
        began = time.perf_counter()
        engine = bench.engine(precision, batch=None)  # type: ignore[arg-type]
        batch = engine.batch
        found = time.perf_counter()
        list(obfuscate_levels(bench.obfuscator(engine), image, [8], torch.zeros(1)))
        yield (
            precision,
            {
                "batch": batch,
                "seconds to find it": round(found - began, 2),
                "seconds to the first image then": round(time.perf_counter() - found, 2),
            },
        )


def loop(bench: Bench, obfuscator: FlowField, chunk: int, wide: bool = False) -> dict[str, Any]:
    """Chunks of grey levels to bytes of obfuscated ones, as the generator's actor does it, on one core."""
    images = [image.astype(np.uint16) * 16 if wide else image for image in bench.levels]
    depths, seeds_N, rotating = [12 if wide else 8] * chunk, torch.zeros(chunk), cycle(images)

    @torch.inference_mode()  # as the actor does
    def once() -> None:
        part = islice(rotating, chunk)
        for result in obfuscate_levels(obfuscator, part, depths, seeds_N, device=bench.device):
            assert result is not None
            result.tobytes()

    once()
    done, began, worked = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - began < (0.2 if bench.small else 2):
        once()
        done += chunk
    seconds, cpu = time.perf_counter() - began, time.process_time() - worked
    figures = {**rated(bench, done / seconds, "bfloat16"), "CPU microseconds an image": round(1e6 * cpu / done)}
    if bench.device == "cuda":
        free, all_of_it = torch.cuda.mem_get_info()
        figures["MiB of the GPU in use"] = round((all_of_it - free) / 2**20)
    return figures


def loops(bench: Bench) -> Figures:
    """One actor's loop, host to device and back included, by rows of a chunk and images of a batch."""
    torch.set_num_threads(1)  # as the actor does
    for batch in (8, 16, 32):
        bench.release()
        obfuscator = bench.obfuscator(bench.engine(batch=batch))
        for chunk in (16, 64, 16 if bench.small else 1024):
            if bench.late():
                return
            yield f"batch {batch}, chunks of {chunk}", tried(loop, bench, obfuscator, chunk)
    obfuscator = bench.obfuscator(bench.engine(batch=16))
    yield "batch 16, chunks of 64, 12 bits", tried(loop, bench, obfuscator, 64, True)
    still = LevelBatches(bench.queues, 16, bench.side, lambda levels, tops: (levels, tops[:, 0, 0, 0] > 0))
    obfuscator.__dict__["levels"] = still  # in the place of the property's cached value
    yield "no network, batch 16, chunks of 64: what the host allows", tried(loop, bench, obfuscator, 64)


def native(bench: Bench) -> Figures:
    """Milliseconds an image to deform it at its own resolution, on the GPU and on the CPU: wall, and of a core."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    field = bench.obfuscator(bench.engine()).displacement(torch.rand(1, 1, bench.side, bench.side))[0]
    on_host = field.cpu()
    shapes = [(96, 80, 12)] if bench.small else [(1024, 1024, 8), (3000, 2500, 12), (3000, 2500, 16)]
    for height, width, depth in shapes:
        rng = np.random.default_rng(0)
        images = [rng.integers(0, 2**depth, (height, width)) for _ in range(4)]
        images = [image.astype(np.uint8 if depth == 8 else np.uint16) for image in images]
        by_gpu = NativeWarp(bench.queues)
        with ThreadPoolExecutor(8) as pool:
            ways: dict[str, Callable[[], Any]] = {
                "GPU": partial(_by_gpu, images, by_gpu, field, depth),
                "CPU, one thread": partial(_by_cpu, images, on_host, map),
                "CPU, 8 threads": partial(_by_cpu, images * 4, on_host, pool.map),
            }
            for name, work in ways.items():
                yield f"{height} x {width}, {depth} bits, {name}", tried(_milliseconds, work)


def _by_gpu(images: list[Any], warp: NativeWarp, field: torch.Tensor, depth: int) -> list[Any]:
    return [warp(image, field, depth) for image in images]


def _by_cpu(images: list[Any], field: torch.Tensor, mapped: Callable[..., Any]) -> list[Any]:
    return list(mapped(lambda image: warp_grey_levels(image, field), images))


def _milliseconds(work: Callable[[], list[Any]]) -> dict[str, float]:
    count = len(work())
    began, worked = time.perf_counter(), time.process_time()
    for _ in range(5):
        work()
    wall, cpu = time.perf_counter() - began, time.process_time() - worked
    return {"wall": round(200 * wall / count, 2), "core": round(200 * cpu / count, 2)}


def profile(bench: Bench) -> Figures:
    """Which kernels and copies take the device's time, in microseconds an image, from levels to levels."""
    obfuscator, count = bench.obfuscator(bench.engine()), 64
    images = list(islice(cycle(bench.levels), count))
    work = lambda: list(obfuscate_levels(obfuscator, images, [8] * count, torch.zeros(count)))  # noqa: E731
    work()
    kinds = torch.profiler.ProfilerActivity
    with torch.profiler.profile(activities=[kinds.CUDA if bench.device == "cuda" else kinds.CPU]) as seen:
        work()
        bench.release()
    times: dict[str, float] = {}
    for event in seen.key_averages():
        spent = getattr(event, "self_device_time_total", 0) or event.self_cpu_time_total
        times[event.key[:90]] = times.get(event.key[:90], 0) + spent / count
    yield "all", round(sum(times.values()), 1)
    for name, microseconds in sorted(times.items(), key=lambda item: -item[1])[:16]:
        yield name, round(microseconds, 2)


def epilogues(bench: Bench) -> Figures:
    """Other ways for bias and ReLU: rates by batch, the loop, and what they change in the field."""
    names: tuple[Epilogue, ...] = ("one-pass", "fused")
    for name in names:
        for batch in (16, 8, 32):
            if bench.late():
                return
            made = tried(_with_epilogue, bench, name, batch)
            yield f"{name}, graph of {batch}", made
            if "error" in made:
                break
        else:
            yield f"{name}, largest change of the field", tried(_field_change, bench, name)
            engine = bench.engine(epilogue=name)
            yield f"{name}, loop, batch 16, chunks of 64", tried(loop, bench, bench.obfuscator(engine), 64)


def _with_epilogue(bench: Bench, name: Epilogue, batch: int) -> dict[str, Any]:
    return graph(bench, bench.engine(epilogue=name), batch, "bfloat16")


def _field_change(bench: Bench, name: Epilogue) -> float:
    """Beside `separate`; what bfloat16 changes is told among the errors of float32."""
    units = torch.from_numpy(np.stack(bench.levels[:16])[:, None] / np.float32(255)).float()
    return float((bench.engine(epilogue=name)(units) - bench.engine()(units)).abs().max())


def choices_by_the_clock(bench: Bench) -> Figures:
    """What cuDNN's choices by trial would gain, which may differ from start to start."""
    engine, units = bench.engine(), torch.rand(16, 1, bench.side, bench.side, device=bench.device)
    inputs = units.to(torch.bfloat16).as_strided(units.shape, (bench.side**2, 1, bench.side, 1))
    for name, given in {
        "benchmark": {"benchmark": True, "deterministic": False},
        "benchmark, deterministic": {"benchmark": True, "deterministic": True},
        "as the engine": {"benchmark": False, "deterministic": True},
    }.items():

        def measured(given: dict[str, bool] = given) -> dict[str, Any]:
            with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False, **given):
                run = bench.queues.captured(lambda: engine.network(inputs))
                return rated(bench, 16 / bench.queues.seconds(run, 10), "bfloat16")

        yield name, tried(measured)


def compiled(bench: Bench) -> Figures:
    """The network by torch.compile, captured."""
    engine = bench.engine()
    engine.network = torch.compile(engine.network, dynamic=False)  # type: ignore[assignment]
    began = time.perf_counter()
    yield "graph of 16", tried(graph, bench, engine, 16, "bfloat16")
    yield "seconds to compile and capture", round(time.perf_counter() - began, 1)
