"""A generator made ready to obfuscate by Winograd's filtering, on CPUs."""

from torch import nn

from prichexy.errors import UsageError
from prichexy.obfuscation.frozen_network import FrozenNetwork
from prichexy.obfuscation.settings import Precision
from prichexy.obfuscation.winograd.layers import replace_convolutions


class WinogradNetwork(FrozenNetwork):
    """A network's outputs in float32 without gradients; see `NetworkEngine`.

    Its 3 x 3 convolutions are computed by Winograd's filtering, where channels are multiples of 16, the rest by torch.

    Args:
        network: a generator with its weights; it is copied.
        precision: ``float32``.

    Raises:
        UsageError: another precision is asked for, or nothing in the network can be computed so.
    """

    def __init__(self, network: nn.Module, precision: Precision) -> None:
        if precision != "float32":
            raise UsageError(f"engine: winograd computes in float32, not {precision}: use openvino or torch")
        super().__init__(network, precision, "cpu")
        if not replace_convolutions(self.network):
            raise UsageError("engine: winograd computes none of this network, whose channels are too few: use torch")
