"""One adversarial training step, ours against the plain formulation.

The plain one lets the generator's backward pass compute the critics' weight gradients too, and copies the classifier
at each step; eager, float32. Steps alternate (plain, ours, plain, ours, ...), each from the weights that it has.

    python -m tests.bench.adversarial_step [--device cuda] [--pairs 2] [--rounds 3] [--size 256] [--small]
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam

from prichexy.networks.classifier import Classifier
from prichexy.networks.deformation import sampling_grid, warp
from prichexy.networks.flow_generator import FlowFieldGenerator
from prichexy.networks.verifier import Verifier
from prichexy.obfuscation.settings import ObfuscationSettings
from prichexy.training.adversarial_step import (
    AdversarialSettings,
    Networks,
    Optimisers,
    adversarial_step,
    published_optimisers,
)
from prichexy.training.batches import LabelledPairs
from prichexy.training.compute import Compute
from tests.bench import report

OBFUSCATION = ObfuscationSettings(kind="flow-field")
OURS = {"ours float32": Compute(), "ours bf16": Compute(bf16=True)}
Step = Callable[[], object]


def plain_step(batch: LabelledPairs, networks: Networks, optimisers: Optimisers) -> None:
    """The step as it is written without thinking of what backward computes."""
    generator, verifier, classifier = networks
    generator.train()
    judge = copy.deepcopy(classifier).eval()
    verifier.eval()
    images = warp(batch.first, sampling_grid(generator(batch.first), OBFUSCATION.mu, OBFUSCATION.operator))
    auxiliary = F.binary_cross_entropy_with_logits(judge(images), batch.labels)
    verification = -torch.log(1 - torch.sigmoid(verifier(images, batch.second).double())).mean()
    optimisers.generator.zero_grad()
    (auxiliary + verification).backward()
    optimisers.generator.step()
    verifier.train()
    optimisers.verifier.zero_grad()
    logits = verifier(images.detach(), batch.second)[:, 0]
    F.binary_cross_entropy_with_logits(logits, batch.same).backward()
    optimisers.verifier.step()
    classifier.train()
    optimisers.classifier.zero_grad()
    F.binary_cross_entropy(torch.sigmoid(classifier(images.detach())), batch.labels).backward()
    optimisers.classifier.step()


def plain_optimisers(networks: Networks) -> Optimisers:
    return Optimisers(
        Adam(networks.generator.parameters(), lr=1e-4),
        Adam(networks.verifier.parameters(), lr=1e-4),
        SGD(networks.classifier.parameters(), lr=1e-4, momentum=0.9, weight_decay=1e-4),
    )


def new_networks(small: bool, device: str) -> Networks:
    torch.manual_seed(0)
    verifier, classifier = ("tiny", "tiny") if small else ("resnet50", "densenet121")
    return Networks(
        FlowFieldGenerator(features=8 if small else 32).to(device),
        Verifier(verifier).to(device),  # type: ignore[arg-type]
        Classifier(classifier).to(device),  # type: ignore[arg-type]
    )


def new_batch(pairs: int, size: int, device: str) -> LabelledPairs:
    random = torch.Generator().manual_seed(1)
    first, second = (_smooth_noise(pairs, size, random).to(device) for _ in range(2))
    same = (torch.arange(pairs) % 2).float().to(device)
    labels = (torch.rand(pairs, 14, generator=random) < 0.1).float().to(device)
    return LabelledPairs(first, second, same, labels)


def _smooth_noise(count: int, size: int, random: torch.Generator) -> Tensor:
    """Images in [0, 1] with structure at several scales; speed does not depend on what they show."""
    scales = [torch.rand(count, 1, size // s, size // s, generator=random) for s in (32, 8, 2)]
    return sum(F.interpolate(each, size=(size, size), mode="bilinear") for each in scales) / 3  # type: ignore[return-value]


def gradient(network: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten().double() for p in network.parameters() if p.grad is not None])


def timed(step: Step, device: str) -> float:
    start = time.perf_counter()
    step()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def contenders(arguments: argparse.Namespace, batch: LabelledPairs) -> tuple[dict[str, Step], dict[str, Networks]]:
    networks = {"plain float32": new_networks(arguments.small, arguments.device)}
    plain = networks["plain float32"]
    plain_optims = plain_optimisers(plain)
    steps: dict[str, Step] = {"plain float32": lambda: plain_step(batch, plain, plain_optims)}
    for name, compute in OURS.items():
        networks[name] = new_networks(arguments.small, arguments.device)
        for network in networks[name]:
            compute.prepare(network, arguments.device)
        steps[name] = _ours(batch, networks[name], AdversarialSettings(OBFUSCATION, compute=compute))
    return steps, networks


def _ours(batch: LabelledPairs, networks: Networks, settings: AdversarialSettings) -> Step:
    optimisers = published_optimisers(networks)
    return lambda: adversarial_step(batch, networks, optimisers, settings)


def _first_gradient(arguments: argparse.Namespace, batch: LabelledPairs, compute: Compute) -> Tensor:
    networks = new_networks(arguments.small, arguments.device)
    _ours(batch, networks, AdversarialSettings(OBFUSCATION, compute=compute))()
    return gradient(networks.generator)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    batch = new_batch(arguments.pairs, arguments.size, arguments.device)
    steps, networks = contenders(arguments, batch)
    for step in steps.values():  # the first step of each also warms up; all start from the same weights
        timed(step, arguments.device)
    gradients = {name: gradient(each.generator) for name, each in networks.items()}
    # Layout and precision round otherwise; in the plain layout nothing but the unused gradients is left out.
    gradients["ours float32, plain layout"] = _first_gradient(arguments, batch, Compute(channels_last=False))
    plain = gradients.pop("plain float32")
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(arguments.rounds):
        for name, step in steps.items():
            seconds[name].append(timed(step, arguments.device))
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    ours = [name for name in steps if name != "plain float32"]
    return {
        "pairs": arguments.pairs,
        "size": arguments.size,
        "networks": "small" if arguments.small else "published",
        "rounds": arguments.rounds,
        "median seconds a step": {name: round(median, 4) for name, median in medians.items()},
        "times as fast as plain float32": {name: round(medians["plain float32"] / medians[name], 3) for name in ours},
        "generator gradient, relative difference to plain float32": {
            name: float((each - plain).norm() / plain.norm()) for name, each in gradients.items()
        },
        "seconds": {name: [round(value, 4) for value in each] for name, each in seconds.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--small", action="store_true", help="tiny critics and 8 features, as for 64 px on a CPU")
    arguments = parser.parse_args()
    suffix = f"{'_small' if arguments.small else ''}{'_cuda' if arguments.device == 'cuda' else ''}"
    report(f"adversarial_step{suffix}", measure(arguments), arguments.device)


if __name__ == "__main__":
    main()
