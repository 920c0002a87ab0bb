"""Ways to add the bias and to cut off at zero behind a convolution, which cost passes over memory, not arithmetic.

Torch reads and writes what a convolution wrote once for the bias and once more for the ReLU. Over all layers of the
published U-Net these are 128 MB an image of 256 x 256 in bfloat16, and 8,000 images a second leave 125 microseconds for
each: counted, not measured. No GPU has run any of these ways yet; `tests/bench/gpu_network.py` is to compare them.
"""

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Epilogue = Literal["separate", "one-pass", "fused"]
"""``separate``: torch's own, two passes. ``one-pass``: bias and ReLU in one, by a kernel that torch compiles at run
time. ``fused``: cuDNN does both where it has the sums, in float32, and rounds once; it reads a tensor of zeros for it,
and makes 0 of what is no number."""

EPILOGUE: Epilogue = "separate"
"""What jobs and audits use: the one way whose arithmetic is that of a CPU, until a GPU has shown what another gains."""

Convolve = Callable[..., Tensor]


def with_epilogue(network: nn.Module, epilogue: Epilogue, convolve: Convolve | None = None) -> nn.Module:
    """The network with each convolution that a ReLU follows inside one ``nn.Sequential`` made one layer; it is changed.

    Args:
        network: in eval mode, batch norms folded.
        epilogue: the way; ``separate`` changes nothing.
        convolve: in place of cuDNN's operator (``fused``) or of the kernel (``one-pass``), for tests.
    """
    if epilogue == "separate":
        return network
    layer: Callable[[nn.Conv2d], nn.Module] = (
        partial(_Fused, convolve=convolve or torch.cudnn_convolution_add_relu, zeros=_Zeros())
        if epilogue == "fused"
        else partial(_OnePass, finish=convolve or _bias_and_relu())
    )
    for block in [module for module in network.modules() if isinstance(module, nn.Sequential)]:
        places = [number for number, module in enumerate(block) if not isinstance(module, nn.Identity)]
        for place, after in pairwise(places):
            convolution = block[place]
            if isinstance(convolution, nn.Conv2d) and isinstance(block[after], nn.ReLU):
                block[place], block[after] = layer(convolution), nn.Identity()
    return network


class _Convolution(nn.Module):
    """What the layers below have of a convolution."""

    weight: Tensor
    bias: Tensor

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        if convolution.bias is None or convolution.padding_mode != "zeros" or isinstance(convolution.padding, str):
            raise ValueError("only convolutions with a bias and a padding of so many zeros are known here")
        self.weight, self.bias = convolution.weight, convolution.bias
        self._given: tuple[Any, ...] = (
            convolution.stride,
            convolution.padding,
            convolution.dilation,
            convolution.groups,
        )


class _OnePass(_Convolution):
    def __init__(self, convolution: nn.Conv2d, finish: Convolve) -> None:
        super().__init__(convolution)
        self._finish = finish

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return self._finish(F.conv2d(x_NCHW, self.weight, None, *self._given), self.bias[None, :, None, None])


class _Zeros:
    """One tensor of zeros, seen in the shapes that the layers need; made before work is captured, never written."""

    def __init__(self) -> None:
        self._kept: list[Tensor] = []  # the largest last; smaller ones may be part of captured work

    def like(self, shape: tuple[int, int, int, int], of: Tensor) -> Tensor:
        """Zeros of a shape, channels-last, of the device and dtype of another tensor."""
        count, channels, height, width = shape
        size = count * channels * height * width
        if not self._kept or len(self._kept[-1]) < size:
            with torch.inference_mode(False):
                self._kept.append(torch.zeros(size, dtype=of.dtype, device=of.device))
        return self._kept[-1].as_strided(shape, (channels * height * width, 1, width * channels, channels))


class _Fused(_Convolution):
    def __init__(self, convolution: nn.Conv2d, convolve: Convolve, zeros: _Zeros) -> None:
        super().__init__(convolution)
        self._convolve, self._zeros = convolve, zeros

    def forward(self, x_NCHW: Tensor) -> Tensor:
        stride, padding, dilation, _ = self._given
        height, width = (
            (x_NCHW.shape[2 + axis] + 2 * padding[axis] - dilation[axis] * (self.weight.shape[2 + axis] - 1) - 1)
            // stride[axis]
            + 1
            for axis in range(2)
        )
        # cuDNN adds a tensor times a factor. The operator without it hands over memory as it finds it and factor 0:
        # where that memory holds no number, neither does the sum.
        zeros_NCHW = self._zeros.like((len(x_NCHW), len(self.weight), height, width), x_NCHW)
        return self._convolve(x_NCHW, self.weight, zeros_NCHW, 0.0, self.bias, *self._given)


def _bias_and_relu() -> Convolve:
    """A kernel that torch compiles when it is first called; as torch's own, it rounds the sum and keeps NaN."""
    create: Callable[[str], Convolve] = torch.cuda.jiterator._create_jit_fn
    return create("template <typename T> T bias_relu(T x, T b) { T y = x + b; return y < T(0) ? T(0) : y; }")
