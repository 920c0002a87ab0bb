import copy

import pytest
import torch
from torch import nn

from prichexy.networks.flow_generator import FlowFieldGenerator
from prichexy.networks.inference import fold_batch_norm
from prichexy.networks.privacy_net import PrivacyNetGenerator
from prichexy.obfuscation.winograd.layers import WinogradConvolution, can_replace, replace_convolutions


def convolution(channels: int = 16, out_channels: int = 32, bias: bool = True) -> nn.Conv2d:
    torch.manual_seed(channels + out_channels)
    return nn.Conv2d(channels, out_channels, 3, padding=1, bias=bias).requires_grad_(False)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (4, 4), (5, 17), (8, 8), (31, 64), (64, 64), (40, 516)])
@pytest.mark.parametrize(("channels", "out_channels"), [(16, 16), (16, 48), (96, 32), (256, 16)])
def test_it_convolves_as_torch_does_in_float64(size: tuple[int, int], channels: int, out_channels: int) -> None:
    layer = convolution(channels, out_channels)
    images = torch.rand(2, channels, *size)
    expected = copy.deepcopy(layer).double()(images.double())
    convolved = WinogradConvolution(layer, 1.0)(images)
    assert convolved.dtype == torch.float32
    assert float((convolved - expected).abs().max()) < 2e-5
    assert convolved.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("slope", [0.0, 0.2, 1.0])
def test_bias_and_activation_go_with_it(slope: float) -> None:
    images = torch.rand(1, 16, 12, 12)
    for layer in (convolution(bias=True), convolution(bias=False)):
        expected = nn.functional.leaky_relu(layer(images), slope)
        torch.testing.assert_close(WinogradConvolution(layer, slope)(images), expected, rtol=0, atol=1e-5)


def test_images_of_any_memory_format_are_taken_and_left_as_they_are() -> None:
    layer = convolution()
    images = torch.rand(3, 16, 9, 10)
    before = images.clone()
    expected = WinogradConvolution(layer, 1.0)(images)
    assert torch.equal(images, before)
    assert torch.equal(WinogradConvolution(layer, 1.0)(images.contiguous(memory_format=torch.channels_last)), expected)
    stretched = torch.rand(3, 32, 9, 20)[:, ::2, :, ::2].copy_(images)
    assert torch.equal(WinogradConvolution(layer, 1.0)(stretched), expected)
    assert WinogradConvolution(layer, 1.0)(images[:0]).shape == (0, 32, 9, 10)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("slope", [0.0, 1.0])
def test_what_is_no_number_never_becomes_one(value: float, slope: float) -> None:
    images = torch.rand(1, 16, 16, 16)
    images[0, 3, 8, 8] = value
    convolved = WinogradConvolution(convolution(), slope)(images)
    assert not convolved[0, :, 7:10, 7:10].isfinite().any()
    assert convolved[0, :, 0, 0].isfinite().all()


def test_torch_s_default_type_changes_nothing() -> None:
    layer, images = WinogradConvolution(convolution(), 1.0), torch.rand(1, 16, 9, 9)
    expected = layer(images)
    torch.set_default_dtype(torch.bfloat16)
    try:
        assert torch.equal(layer(images), expected)
    finally:
        torch.set_default_dtype(torch.float32)


def test_what_it_can_t_read_is_refused() -> None:
    with pytest.raises(ValueError, match="expected float32"):
        WinogradConvolution(convolution(), 1.0).half()(torch.rand(1, 16, 4, 4))
    layer = WinogradConvolution(convolution(), 1.0)
    for images in (torch.rand(1, 8, 4, 4), torch.rand(16, 4, 4), torch.rand(1, 16, 4, 4).double()):
        with pytest.raises(ValueError, match=r"expected float32 images \(N, 16, H, W\) on a CPU"):
            layer(images)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(16, 16, 1),
        nn.Conv2d(16, 16, 3),
        nn.Conv2d(16, 16, 3, padding=1, stride=2),
        nn.Conv2d(16, 16, 3, padding=2, dilation=2),
        nn.Conv2d(16, 16, 3, padding=1, groups=2),
        nn.Conv2d(16, 16, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(1, 16, 3, padding=1),
        nn.Conv2d(16, 2, 3, padding=1),
        nn.ConvTranspose2d(16, 16, 3, padding=1),
    ],
)
def test_other_convolutions_are_left_to_torch(layer: nn.Module) -> None:
    assert not can_replace(layer)
    block = nn.Sequential(layer)
    assert replace_convolutions(block) == 0
    assert block[0] is layer
    with pytest.raises(ValueError, match="3 x 3 convolutions of stride 1 and padding 1 only"):
        WinogradConvolution(layer, 1.0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("network", "replaced", "all_convolutions"),
    [(FlowFieldGenerator(features=16), 17, 19), (PrivacyNetGenerator(features=16), 13, 15)],
)
def test_the_generators_are_computed_by_it(network: nn.Module, replaced: int, all_convolutions: int) -> None:
    torch.manual_seed(3)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):  # else a fresh network's output hardly depends on its input
            nn.init.kaiming_normal_(layer.weight)
    folded = fold_batch_norm(network)
    assert sum(isinstance(layer, nn.Conv2d) for layer in folded.modules()) == all_convolutions
    images = torch.rand(1, 1, 48, 80)
    expected = copy.deepcopy(folded).double()(images.double())
    assert replace_convolutions(folded) == replaced
    outputs = folded(images)
    assert float(expected.std()) > 0.01
    assert float((outputs - expected).abs().max()) < 1e-4
