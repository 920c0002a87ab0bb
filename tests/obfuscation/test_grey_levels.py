import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from prichexy.imaging.resample import from_unit, resize, to_unit
from prichexy.networks import deformation
from prichexy.networks.flow_generator import FlowFieldGenerator
from prichexy.obfuscation.grey_levels import obfuscate_levels
from prichexy.obfuscation.grey_warp import warp_grey_levels
from prichexy.obfuscation.model_files import build
from prichexy.obfuscation.protocol import Obfuscator
from prichexy.obfuscation.settings import ObfuscationSettings
from tests.networks.rule_weights import rule_state

SEEDS = torch.arange(2)


def picture(height: int, width: int, bit_depth: int) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Smooth structures with sharp edges, over the whole range."""
    rng = np.random.default_rng(height)
    coarse = rng.integers(0, 2**bit_depth, (9, 7)).astype(np.uint16)
    smooth = resize(coarse, height, width)
    smooth[height // 3 : height // 2, width // 4 : width // 2] = 2**bit_depth - 1
    return smooth.astype(np.uint8) if bit_depth == 8 else smooth


def field(operator: deformation.Operator = "corrected", mu: float = 0.05) -> torch.Tensor:
    coarse = torch.rand(1, 2, 8, 8, generator=torch.Generator().manual_seed(3)) * 2 - 1
    return deformation.displacement(torch.nn.functional.interpolate(coarse, (64, 64)), mu, operator)


def flow_field() -> Obfuscator:
    settings = ObfuscationSettings(kind="flow-field", features=4, image_size=64, mu=0.05)
    network = FlowFieldGenerator(features=4)
    shapes = {key: (list(value.shape), str(value.dtype)[6:]) for key, value in network.state_dict().items()}
    return build(settings, rule_state(shapes))


@pytest.mark.parametrize(
    ("height", "width", "bit_depth"),
    [(64, 64, 8), (300, 201, 8), (50, 311, 8), (97, 64, 12), (333, 130, 16), (1, 70, 8), (70, 1, 8), (40, 33000, 8)],
)
@pytest.mark.parametrize("operator", ["corrected", "reference"])
def test_grey_levels_are_warped_as_torch_warps_them(
    height: int, width: int, bit_depth: int, operator: deformation.Operator
) -> None:
    pixels, displacement_12HW = picture(height, width, bit_depth), field(operator)
    unit_11HW = torch.from_numpy(to_unit(pixels, bit_depth))[None, None]
    expected = deformation.warp(unit_11HW, deformation.grid_at(displacement_12HW, height, width))
    levels = from_unit(expected[0, 0].numpy(), bit_depth)
    warped = warp_grey_levels(pixels, displacement_12HW[0])
    assert warped.dtype == pixels.dtype
    difference = np.abs(warped.astype(np.int64) - levels.astype(np.int64))
    # On a steep edge one rounding of a coordinate (1e-7 of the width) moves a value by more than that of a value.
    assert int(difference.max()) <= max(1, (2**bit_depth - 1) * width // 2**22)
    assert float((difference > 0).mean()) < 0.02
    assert min(height, width) == 1 or float((warped != pixels).mean()) > 0.1


def test_no_displacement_changes_no_pixel() -> None:
    pixels = picture(123, 77, 16)
    np.testing.assert_array_equal(warp_grey_levels(pixels, torch.zeros(2, 64, 64)), pixels)


def test_a_view_that_may_not_be_written_is_read() -> None:
    pixels = picture(80, 90, 8)
    sealed = np.frombuffer(pixels.tobytes(), np.uint8).reshape(80, 90)
    np.testing.assert_array_equal(warp_grey_levels(sealed, field()[0]), warp_grey_levels(pixels, field()[0]))


def test_at_the_network_s_size_levels_are_the_obfuscator_s_rounded() -> None:
    images = [picture(64, 64, 8), picture(64, 64, 12)]
    obfuscator = flow_field()
    units = torch.stack([torch.from_numpy(to_unit(image, depth)) for image, depth in zip(images, (8, 12), strict=True)])
    outputs = obfuscator(units[:, None], SEEDS)
    published = list(obfuscate_levels(obfuscator, iter(images), [8, 12], SEEDS))
    for output, levels, depth in zip(outputs, published, (8, 12), strict=True):
        assert levels is not None
        np.testing.assert_array_equal(levels, from_unit(output[0].numpy(), depth))


@pytest.mark.parametrize("kind", ["flow-field", "identity"])
def test_native_levels_are_the_obfuscator_s_to_one_level(kind: str) -> None:
    images = [picture(200, 170, 8), picture(99, 300, 12)]
    small = [resize(image, 64, 64) for image in images]
    obfuscator = flow_field() if kind == "flow-field" else build(ObfuscationSettings(kind="identity", image_size=64))
    unit = [torch.from_numpy(to_unit(image, depth))[None] for image, depth in zip(images, (8, 12), strict=True)]
    thumbnails = [torch.from_numpy(to_unit(image, depth))[None] for image, depth in zip(small, (8, 12), strict=True)]
    expected = list(obfuscator.at_native(torch.stack(thumbnails), unit, SEEDS))
    published = list(obfuscate_levels(obfuscator, iter(images), [8, 12], SEEDS, small))
    for output, levels, image, depth in zip(expected, published, images, (8, 12), strict=True):
        assert levels is not None
        assert (levels.shape, levels.dtype) == (image.shape, image.dtype)
        difference = np.abs(levels.astype(int) - from_unit(output[0].numpy(), depth).astype(int))
        assert int(difference.max()) <= 1
        assert float((difference > 0).mean()) < 0.005


def test_an_output_that_is_no_number_is_none_and_the_others_stay() -> None:
    obfuscator = flow_field()
    genuine = obfuscator.displacement  # type: ignore[attr-defined]

    def broken(images: torch.Tensor) -> torch.Tensor:
        fields: torch.Tensor = genuine(images)
        fields[0, 1, 5, 5] = float("nan")
        return fields

    obfuscator.displacement = broken  # type: ignore[attr-defined]
    images = [picture(64, 64, 8), picture(64, 64, 8)[::-1].copy()]
    for thumbnails in (None, images):
        first, second = obfuscate_levels(obfuscator, images, [8, 8], SEEDS, thumbnails)
        assert second is not None
        assert float((second != images[1]).mean()) > 0.1
        # At 256 torch reads a coordinate that is no number as one; natively the field itself is looked at.
        assert thumbnails is None or first is None


def test_a_missing_image_is_refused() -> None:
    images = [picture(64, 64, 8), picture(64, 64, 8)]
    with pytest.raises(ValueError, match="argument 2 is"):
        list(obfuscate_levels(flow_field(), images[:1], [8, 8], SEEDS, images))
