"""How near the network comes to what this machine's cores can multiply: on one thread and on all.

The ceiling is measured, not read from a data sheet: the best rate of large square matrix products (1024 to 4096 a
side), by torch in float32 and bfloat16, over several tries. The network is PriCheXy-Net's U-Net of the published size
on images of 256 x 256, one at a time, on each engine and in each precision, products and tries by turns; its rate is
its multiplications and additions (counted from its convolutions) over the best time. On all cores, each core has a
worker of its own with one thread, as the job has: rates are those of the slowest worker times their number.

    python -m tests.bench.network_ceiling [--tries 15]

Seconds are those of the process's CPU time on one thread, so that other work on the machine disturbs them less. What
it does to the caches still shows.
"""

import argparse
import multiprocessing
import os
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from prichexy.networks.flow_generator import FlowFieldGenerator
from prichexy.obfuscation.engines import frozen
from tests.bench import report
from tests.bench.image_cost import bfloat16_instructions, engines

SIDE = 256
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def main() -> None:
    parser = argparse.ArgumentParser(description="The network's share of the measured matrix ceiling.")
    parser.add_argument("--tries", type=int, default=15)
    tries = parser.parse_args().tries
    cores = len(os.sched_getaffinity(0))
    operations = multiply_adds(FlowFieldGenerator())
    figures: dict[str, Any] = {
        "GFLOP an image": round(operations / 1e9, 2),
        "bfloat16 instructions": bfloat16_instructions(),
        "load of the machine (1 min)": round(os.getloadavg()[0], 1),
    }
    for workers in sorted({1, cores}):
        with multiprocessing.get_context("spawn").Pool(workers) as pool:
            seen = pool.starmap(best_seconds, [(tries,)] * workers, chunksize=1)
        slowest = {what: max(one[what] for one in seen) for what in seen[0]}
        figures[f"{workers} worker{'s' if workers > 1 else ''}"] = _rates(slowest, workers, operations)
    report("network_ceiling", figures)


def _rates(seconds: dict[str, float], workers: int, operations: int) -> dict[str, Any]:
    ceiling = {
        precision: max(workers * 2 * side**3 / seconds[f"product {precision} {side}"] / 1e9 for side in SIDES)
        for precision in DTYPES
    }
    rates: dict[str, Any] = {"ceiling, GFLOP/s": {name: round(rate) for name, rate in ceiling.items()}}
    for name in engines():
        rate = workers * operations / seconds[name] / 1e9
        rates[name] = {
            "images/s": round(workers / seconds[name], 1),
            "GFLOP/s": round(rate),
            "share of the ceiling": round(rate / ceiling[name.split()[1]], 2),
        }
    return rates


SIDES = (1024, 2048, 4096)


def best_seconds(tries: int) -> dict[str, float]:
    """The shortest CPU time of each product and of each network, on one thread."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    works: dict[str, Callable[[], Any]] = {}
    for precision, dtype in DTYPES.items():
        for side in SIDES:
            left, right = torch.rand(side, side).to(dtype), torch.rand(side, side).to(dtype)
            works[f"product {precision} {side}"] = lambda left=left, right=right: left @ right
    network, image_11SS = FlowFieldGenerator().eval(), torch.rand(1, 1, SIDE, SIDE)
    for name, settings in engines().items():
        compute = frozen(network, settings, "cpu")
        works[name] = lambda compute=compute: compute(image_11SS)
    best = dict.fromkeys(works, float("inf"))
    for _ in range(tries):
        for name, work in works.items():
            began = time.process_time()
            work()
            best[name] = min(best[name], time.process_time() - began)
    return best


def multiply_adds(network: nn.Module) -> int:
    """Multiplications and additions of the network's convolutions for one image."""
    total = 0

    def count(layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal total
        # A transposed convolution uses each weight once for each input pixel, a convolution for each output pixel.
        pixels = inputs[0][0, 0].numel() if isinstance(layer, nn.ConvTranspose2d) else output[0, 0].numel()
        total += 2 * layer.weight.numel() * pixels

    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    with torch.inference_mode():
        network.eval()(torch.zeros(1, 1, SIDE, SIDE))
    for hook in hooks:
        hook.remove()
    return total


if __name__ == "__main__":
    main()
