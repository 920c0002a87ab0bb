import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from prichexy.obfuscation.winograd.kernels import LANES, PLANE_GAP, kernels
from prichexy.obfuscation.winograd.transforms import INPUT, OUTPUT

SIZES = [(1, 1), (3, 5), (4, 4), (6, 6), (7, 12), (16, 9), (20, 20)]


def guarded(values: Tensor, beside: float) -> tuple[Tensor, Tensor]:
    """The values within memory that holds something else before and behind them; and that memory."""
    memory = torch.full((values.numel() + 2 * 512,), beside)
    inner = memory[512:-512].view(values.shape)
    return inner.copy_(values), memory


def matrix(rows: tuple[tuple[int, ...], ...]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def windows_of(image_HWC: Tensor) -> Tensor:
    """Each tile's 6 x 6 pixels, (rows, columns, C, 6, 6), 0 beyond the image."""
    height, width = image_HWC.shape[:2]
    right, below = -width % 4 + 1, -height % 4 + 1
    padded_CHW = F.pad(image_HWC.double().permute(2, 0, 1), (1, right, 1, below))
    return padded_CHW.unfold(1, 6, 4).unfold(2, 6, 4).permute(1, 2, 0, 3, 4)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [LANES, 3 * LANES])
def test_windows_are_transformed_and_nothing_beyond_the_image_is_read(size: tuple[int, int], channels: int) -> None:
    height, width = size
    image_HWC, _ = guarded(torch.rand(height, width, channels), float("nan"))
    rows, across = -(-height // 4), -(-width // 4)
    for first, end in [(0, rows), (rows - 1, rows)]:
        tiles = (end - first) * across
        planes, memory = guarded(torch.full((36, tiles * channels + PLANE_GAP), -7.0), -7.0)
        windows = planes[:, :-PLANE_GAP].view(36, tiles, channels)
        kernels().transform_input(image_HWC.data_ptr(), planes.data_ptr(), height, width, channels, first, end)
        share = matrix(INPUT)
        expected = share @ windows_of(image_HWC)[first:end] @ share.T
        expected = expected.flatten(0, 1).permute(2, 3, 0, 1).flatten(0, 1)
        torch.testing.assert_close(windows.double(), expected, rtol=0, atol=1e-4)
        assert torch.equal(memory[:512], torch.full((512,), -7.0))
        assert torch.equal(memory[-512:], torch.full((512,), -7.0))
        assert bool((planes[:, -PLANE_GAP:] == -7).all())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("slope", [0.0, 0.2, 1.0])
def test_outputs_are_transformed_biased_and_sloped_and_nothing_beyond_the_image_is_written(
    size: tuple[int, int], slope: float
) -> None:
    (height, width), channels = size, 2 * LANES
    rows, across = -(-height // 4), -(-width // 4)
    products, _ = guarded(torch.rand(36, rows * across, channels) - 0.5, float("nan"))
    bias, _ = guarded(torch.rand(channels) - 0.5, float("nan"))
    image_HWC, memory = guarded(torch.full((height, width, channels), 99.0), -7.0)
    kernels().transform_output(
        products.data_ptr(), bias.data_ptr(), image_HWC.data_ptr(), slope, height, width, channels, 0, rows
    )
    share = matrix(OUTPUT)
    tiles = products.double().view(6, 6, rows, across, channels).permute(2, 3, 4, 0, 1)
    expected = (share @ tiles @ share.T).permute(0, 3, 1, 4, 2).reshape(4 * rows, 4 * across, channels)
    expected = F.leaky_relu(expected[:height, :width] + bias.double(), slope)
    torch.testing.assert_close(image_HWC.double(), expected, rtol=0, atol=1e-4)
    assert torch.equal(memory[:512], torch.full((512,), -7.0))
    assert torch.equal(memory[-512:], torch.full((512,), -7.0))
