"""What computes a network, behind one protocol: torch on any device, Winograd's filtering or OpenVINO on a CPU, a
captured graph on a GPU.

Shape suffixes: N batch, C channel, H height, W width.
"""

from typing import Protocol

import torch
from torch import Tensor, nn

from prichexy.errors import UsageError
from prichexy.obfuscation.cuda.network import CudaNetwork
from prichexy.obfuscation.frozen_network import FrozenNetwork
from prichexy.obfuscation.settings import ObfuscationSettings
from prichexy.obfuscation.winograd.network import WinogradNetwork


class NetworkEngine(Protocol):
    """A generator's outputs without gradients, in float32 whatever it computes in."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        ...

    def __call__(self, images_NCHW: Tensor) -> Tensor:
        """Outputs of the network, float32, on its device.

        Args:
            images_NCHW: values in [0, 1], shape (N, 1, S, S) with S the settings' image size, on any device.
        """
        ...


def frozen(network: nn.Module, settings: ObfuscationSettings, device: torch.device | str) -> NetworkEngine:
    """A network on the engine and in the precision that its settings name.

    Args:
        network: a generator with its weights; it is copied.
        settings: of a kind that has a network.
        device: where it runs.

    Raises:
        ValueError: the settings' kind has no network.
        UsageError: the engine can't run on this device or processor, or not in this precision.
    """
    if settings.precision is None:
        raise ValueError(f"a '{settings.kind}' has no network")
    kind = torch.device(device).type
    if settings.engine == "cuda-graph":
        if kind != "cuda":
            raise UsageError(
                "engine: cuda-graph runs on NVIDIA GPUs only: give the workers GPUs, or audit the model on torch"
            )
        return CudaNetwork(network, settings.precision, settings.image_size, device)
    if settings.engine == "torch":
        return FrozenNetwork(network, settings.precision, device)
    if kind != "cpu":
        raise UsageError(
            f"engine: {settings.engine} runs on CPUs only: hide the GPUs from the workers, or audit and use the model "
            "on torch"
        )
    if settings.engine == "winograd":
        return WinogradNetwork(network, settings.precision)
    from prichexy.obfuscation.openvino_network import OpenVinoNetwork

    return OpenVinoNetwork(network, settings.precision, settings.image_size)
