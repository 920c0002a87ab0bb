"""3 x 3 convolutions by Winograd's minimal filtering, put in the place of torch's.

Shape suffixes: N batch, C channel, O output channel, H height, W width, P the 36 products, T tile.
"""

import torch
from torch import Tensor, nn

from prichexy.obfuscation.winograd.kernels import LANES, PLANE_GAP, kernels
from prichexy.obfuscation.winograd.transforms import FILTER, TILE, WINDOW

_PRODUCTS = WINDOW * WINDOW

_BLOCK_BYTES = 600_000
"""Transformed windows of at most so many bytes, and one row of tiles at least, are worked on at once: they stay in the
core's cache (86 ms an image of 256 x 256; 88 with a quarter or the double of it)."""

_LEAST_TILES = 64
"""Of deep layers, which have few tiles and large weights, so many at once: weights are read less often (91 ms with 32,
85 with 128)."""


class WinogradConvolution(nn.Module):
    """A 3 x 3 convolution of stride 1 and padding 1, its bias and its activation; float32, on a CPU, no gradients.

    Args:
        convolution: one that `can_replace` accepts.
        slope: what values below 0 are multiplied by: 0 for a ReLU, 1 for no activation.
    """

    weight_PCO: Tensor  # noqa: N815 - tensors carry their shape
    bias_O: Tensor  # noqa: N815

    def __init__(self, convolution: nn.Conv2d, slope: float) -> None:
        super().__init__()
        if not can_replace(convolution):
            raise ValueError("Winograd's filtering computes 3 x 3 convolutions of stride 1 and padding 1 only")
        transform = torch.tensor([[float(share) for share in row] for row in FILTER], dtype=torch.float64)
        weight = convolution.weight.detach().double()
        transformed = torch.einsum("ia,jb,ocab->ijco", transform, transform, weight).flatten(0, 1)
        bias = convolution.bias if convolution.bias is not None else torch.zeros(convolution.out_channels)
        self.register_buffer("weight_PCO", transformed.float().contiguous())
        self.register_buffer("bias_O", bias.detach().float().contiguous())
        self.slope = slope
        kernels()

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Convolved images, (N, O, H, W) in channels-last memory.

        Raises:
            ValueError: not float32 images on a CPU with the convolution's channels.
        """
        _, channels, out_channels = self.weight_PCO.shape
        given = (images_NCHW, self.weight_PCO, self.bias_O)
        known = all(tensor.dtype == torch.float32 and tensor.device.type == "cpu" for tensor in given)
        if not known or images_NCHW.ndim != 4 or images_NCHW.shape[1] != channels:
            raise ValueError(f"expected float32 images (N, {channels}, H, W) on a CPU")
        images_NHWC = images_NCHW.permute(0, 2, 3, 1).contiguous()
        outputs_NHWO = images_NHWC.new_empty(*images_NHWC.shape[:3], out_channels)
        for image_HWC, output_HWO in zip(images_NHWC, outputs_NHWO, strict=True):
            self._convolve(image_HWC, output_HWO)
        return outputs_NHWO.permute(0, 3, 1, 2)

    def _convolve(self, image_HWC: Tensor, output_HWO: Tensor) -> None:
        transform_input, transform_output, _ = kernels()
        height, width, channels = image_HWC.shape
        out_channels = output_HWO.shape[-1]
        rows, across = -(-height // TILE), -(-width // TILE)
        bytes_a_row = 4 * _PRODUCTS * across * max(channels, out_channels)
        together = min(rows, max(1, _BLOCK_BYTES // bytes_a_row, -(-_LEAST_TILES // across)))
        windows = image_HWC.new_empty(_PRODUCTS * (together * across * channels + PLANE_GAP))
        products = image_HWC.new_empty(_PRODUCTS * together * across * out_channels)
        for first in range(0, rows, together):
            end = min(first + together, rows)
            tiles = (end - first) * across
            windows_PTC = windows.as_strided((_PRODUCTS, tiles, channels), (tiles * channels + PLANE_GAP, channels, 1))
            products_PTO = products[: _PRODUCTS * tiles * out_channels].view(_PRODUCTS, tiles, out_channels)
            transform_input(image_HWC.data_ptr(), windows_PTC.data_ptr(), height, width, channels, first, end)
            torch.bmm(windows_PTC, self.weight_PCO, out=products_PTO)
            transform_output(
                products_PTO.data_ptr(),
                self.bias_O.data_ptr(),
                output_HWO.data_ptr(),
                self.slope,
                height,
                width,
                out_channels,
                first,
                end,
            )


def can_replace(layer: nn.Module) -> bool:
    """Whether a layer is a convolution that `WinogradConvolution` computes."""
    return (
        isinstance(layer, nn.Conv2d)
        and (layer.kernel_size, layer.stride, layer.dilation) == ((3, 3), (1, 1), (1, 1))
        and layer.padding in ((1, 1), "same")
        and (layer.groups, layer.padding_mode) == (1, "zeros")
        and layer.in_channels % LANES == layer.out_channels % LANES == 0
    )


def replace_convolutions(network: nn.Module) -> int:
    """Put `WinogradConvolution` in the place of all that it computes and an ``nn.Sequential`` holds; how many.

    An activation that follows in the same ``nn.Sequential``, with nothing but ``nn.Identity`` between, goes with it.
    """
    replaced = 0
    for block in [module for module in network.modules() if isinstance(module, nn.Sequential)]:
        for index, layer in enumerate(block):
            if not isinstance(layer, nn.Conv2d) or not can_replace(layer):
                continue
            after = index + 1
            while after < len(block) and isinstance(block[after], nn.Identity):
                after += 1
            slope = _slope(block[after]) if after < len(block) else None
            block[index] = WinogradConvolution(layer, 1.0 if slope is None else slope)
            if slope is not None:
                block[after] = nn.Identity()
            replaced += 1
    return replaced


def _slope(layer: nn.Module) -> float | None:
    """Of an activation that is a line below 0; None for any other layer."""
    if isinstance(layer, nn.ReLU):
        return 0.0
    if isinstance(layer, nn.LeakyReLU) and 0 <= layer.negative_slope <= 1:
        return float(layer.negative_slope)
    return None
