"""How a step computes: precision, memory layout, gradient clipping; and the few lines that every update shares."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD, Adam, AdamW, Optimizer

from prichexy.errors import PrichexyError

ADAMW_DECAY = 0.05


@dataclass(frozen=True)
class Compute:
    """How a step computes; none of it changes what is trained.

    Attributes:
        bf16: convolutions and linear layers in bfloat16 (autocast); weights, losses and deformation stay float32.
        channels_last: memory layout of the networks, set by `prepare`.
        clip_norm: largest norm of a network's gradient in one update; longer ones are scaled down. None is no limit.
        compile: the networks run through torch.compile, set by `prepare`; it needs a C++ compiler on CPUs.
    """

    bf16: bool = False
    channels_last: bool = True
    clip_norm: float | None = None
    compile: bool = False

    def __post_init__(self) -> None:
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ValueError("clip_norm must be above 0, or None for no limit")

    def autocast(self, device: torch.device) -> torch.autocast:
        """Context in which networks run; leave it before losses, gradients and deformation."""
        return torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.bf16)

    def prepare(self, network: nn.Module, device: torch.device | str) -> None:
        """Move a network to its device and layout, in place; before optimisers and DDP are made of it."""
        network.to(device)
        if self.channels_last:
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self.compile:
            network.compile()  # in place: key names stay as they are


class NonFiniteLossError(PrichexyError):
    """A loss became NaN or infinite; nothing was updated from it.

    Attributes:
        loss: its name, such as ``generator``.
        step: number of the optimiser step, from 0; None in validation.
        learning_rate: of the network concerned; None in validation.
    """

    def __init__(self, loss: str, step: int | None = None, learning_rate: float | None = None) -> None:
        super().__init__(loss, step, learning_rate)  # all three, so that it survives pickling between workers
        self.loss = loss
        self.step = step
        self.learning_rate = learning_rate

    def __str__(self) -> str:
        if self.step is None:
            return f"the {self.loss} loss is not finite in validation: lower the learning rate"
        return (
            f"the {self.loss} loss is not finite at step {self.step} (learning rate {self.learning_rate:g}): "
            "lower the learning rate, or set gradient clipping"
        )


def device_of(network: nn.Module) -> torch.device:
    """Device of a network's parameters."""
    return next(network.parameters()).device


def bare(network: nn.Module) -> nn.Module:
    """The network inside a DDP wrapper, or the network itself."""
    inner: nn.Module = network.module if isinstance(network, DistributedDataParallel) else network
    return inner


@contextmanager
def frozen(*networks: nn.Module) -> Iterator[None]:
    """Networks in eval mode whose parameters get no gradient; what flows through them still does.

    Without it a backward pass through a critic computes the gradients of all its weights, for nobody.
    """
    modes = [(network, network.training) for network in networks]
    trainable = [p for network in networks for p in network.parameters() if p.requires_grad]
    for network in networks:
        network.eval()
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
        for network, mode in modes:
            network.train(mode)


@contextmanager
def evaluating(*networks: nn.Module) -> Iterator[None]:
    """Networks in eval mode, without gradients; afterwards in the mode that they were in."""
    modes = [(network, network.training) for network in networks]
    for network in networks:
        network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for network, mode in modes:
            network.train(mode)


def descend(loss: Tensor, name: str, network: nn.Module, optimiser: Optimizer, compute: Compute, step: int) -> float:
    """Value of a loss after one update of a network by its gradient.

    Args:
        loss: a scalar.
        name: of the loss, for the error.
        network: whose parameters the optimiser updates.
        optimiser: of this network alone.
        compute: gives the clipping.
        step: number of the step, for the error.

    Raises:
        NonFiniteLossError: if the loss is NaN or infinite; the network has not been touched.
    """
    value = finite(loss, name, optimiser, step)
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    if compute.clip_norm is not None:
        nn.utils.clip_grad_norm_(network.parameters(), compute.clip_norm)
    optimiser.step()
    return value


def finite(value: Tensor, name: str, optimiser: Optimizer, step: int) -> float:
    """A scalar as a number.

    Raises:
        NonFiniteLossError: if it is NaN or infinite.
    """
    number = float(value.detach())
    if not torch.isfinite(torch.tensor(number)):
        raise NonFiniteLossError(name, step, float(optimiser.param_groups[0]["lr"]))
    return number


def adam(network: nn.Module, learning_rate: float = 1e-4) -> Adam:
    """Adam as the paper has it: 1e-4 for generator, verifier and attacker; otherwise torch's defaults."""
    # One pass over memory instead of a dozen.
    return Adam(network.parameters(), lr=learning_rate, fused=True)


def sgd(network: nn.Module, learning_rate: float = 1e-4) -> SGD:
    """SGD with momentum 0.9 and weight decay 1e-4, as the paper (and CheXNet's recipe) has it for the classifier."""
    return SGD(network.parameters(), lr=learning_rate, momentum=0.9, weight_decay=1e-4, fused=True)


def adamw(network: nn.Module, learning_rate: float) -> AdamW:
    """AdamW for small networks that learn from few patients; biases and normalizations don't decay."""
    weights = [parameter for parameter in network.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in network.parameters() if parameter.ndim <= 1]
    groups = [{"params": weights, "weight_decay": ADAMW_DECAY}, {"params": others, "weight_decay": 0.0}]
    return AdamW(groups, lr=learning_rate, fused=True)


OPTIMISERS: dict[str, Callable[[nn.Module, float], Optimizer]] = {"adam": adam, "adamw": adamw, "sgd": sgd}
"""By the names that settings have for them."""
