from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from prichexy.errors import UsageError
from prichexy.networks import deformation
from prichexy.networks.flow_generator import FlowFieldGenerator
from prichexy.networks.privacy_net import PrivacyNetGenerator
from prichexy.obfuscation.flow_field import FlowField
from prichexy.obfuscation.identity import Identity
from prichexy.obfuscation.model_files import build
from prichexy.obfuscation.privacy_net import PrivacyNet
from prichexy.obfuscation.protocol import Obfuscator
from prichexy.obfuscation.settings import ObfuscationSettings
from tests.networks.rule_weights import published_shapes, rule_state


def seeds(count: int) -> Tensor:
    return torch.arange(count)


def small_flow_field(mu: float = 0.01, operator: str = "corrected", precision: str = "float32") -> FlowField:
    generator = FlowFieldGenerator(features=4)
    shapes = {key: (list(value.shape), str(value.dtype)[6:]) for key, value in generator.state_dict().items()}
    generator.load_state_dict(rule_state(shapes))
    settings = ObfuscationSettings.model_validate(
        {"kind": "flow-field", "mu": mu, "operator": operator, "precision": precision, "features": 4, "image_size": 64}
    )
    return FlowField(settings, generator)


def images(count: int, height: int = 64, width: int = 64) -> Tensor:
    return torch.rand(count, 1, height, width, generator=torch.Generator().manual_seed(count))


def test_flow_field_at_the_published_settings_is_the_published_model(
    golden: Path, golden_images: Tensor, vectors: dict[str, np.ndarray]
) -> None:
    settings = ObfuscationSettings(kind="flow-field", mu=0.005, operator="reference")
    obfuscate = build(settings, rule_state(published_shapes(golden, "flow_field_generator")))
    np.testing.assert_allclose(
        obfuscate(golden_images[:2], seeds(2)).numpy(), vectors["warped_mu0.005"], rtol=1e-4, atol=1e-5
    )


def test_privacy_net_is_the_published_model(
    golden: Path, golden_images: Tensor, vectors: dict[str, np.ndarray]
) -> None:
    settings = ObfuscationSettings(kind="privacy-net")
    obfuscate = build(settings, rule_state(published_shapes(golden, "privacy_net_generator")))
    np.testing.assert_allclose(
        obfuscate(golden_images[:2], seeds(2)).numpy(), vectors["privacy_net"], rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("operator", ["corrected", "reference"])
def test_native_result_is_the_network_s_where_the_native_image_is_the_thumbnail(operator: str) -> None:
    obfuscate = small_flow_field(operator=operator)
    batch = images(3)
    native = list(obfuscate.at_native(batch, list(batch), seeds(3)))
    torch.testing.assert_close(torch.stack(native), obfuscate(batch, seeds(3)), rtol=0, atol=1e-6)
    assert float((obfuscate(batch, seeds(3)) - batch).abs().max()) > 0.01


def test_native_images_of_any_shape_move_by_the_same_share_of_their_extent() -> None:
    obfuscate = small_flow_field(mu=0.05)
    thumbnails = images(2)
    # On an image whose value is its x coordinate, deforming shows the displacement itself.
    ramps = [torch.linspace(0, 1, width).expand(1, height, width) for height, width in ((130, 317), (64, 64))]
    results = list(obfuscate.at_native(thumbnails, ramps, seeds(2)))
    assert [tuple(result.shape) for result in results] == [(1, 130, 317), (1, 64, 64)]
    displacement = obfuscate.displacement(thumbnails)
    for index, (result, ramp) in enumerate(zip(results, ramps, strict=True)):
        grid = deformation.grid_at(displacement[index : index + 1], *ramp.shape[1:])
        shown = (grid[..., 0].clamp(-1, 1) + 1) / 2
        torch.testing.assert_close(result, shown, rtol=0, atol=1e-5)
        assert float((result - ramp).abs().max()) <= 0.025 + 1e-5


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_an_image_s_result_does_not_depend_on_its_batch(precision: str) -> None:
    obfuscate = small_flow_field(precision=precision)
    batch = images(8)
    alone = torch.cat([obfuscate(batch[index : index + 1], seeds(1)) for index in range(8)])
    together = obfuscate(batch, seeds(8))
    assert float((together - alone).abs().max()) < (1e-5 if precision == "float32" else 2e-3)


def test_bfloat16_moves_pixels_almost_as_float32_does_and_warps_in_float32() -> None:
    batch = images(2)
    exact, rounded = (small_flow_field(precision=name).displacement(batch) for name in ("float32", "bfloat16"))
    assert rounded.dtype == torch.float32
    difference = float((rounded - exact).abs().max())
    assert 0 < difference < 0.2 * 0.01
    result = small_flow_field(precision="bfloat16")(batch, seeds(2))
    assert result.dtype == torch.float32
    assert len(torch.unique(result)) > 256 * 16  # bfloat16 has 128 values in [0.5, 1]


def test_results_are_in_range_and_carry_no_gradient() -> None:
    obfuscate = small_flow_field(mu=0.1)
    extremes = images(2).round().requires_grad_()
    for result in (obfuscate(extremes, seeds(2)), next(obfuscate.at_native(extremes, list(extremes), seeds(2)))):
        assert 0 <= float(result.min()) <= float(result.max()) <= 1
        assert not result.requires_grad
        assert not result.is_inference()  # an attacker can train on it


def test_the_generator_given_is_left_as_it_was() -> None:
    generator = FlowFieldGenerator(features=4).train()
    FlowField(ObfuscationSettings(kind="flow-field", features=4, image_size=64), generator)
    assert generator.training
    assert all(parameter.requires_grad for parameter in generator.parameters())
    assert isinstance(generator.encoder1.enc1norm1, torch.nn.BatchNorm2d)


def test_wrong_shapes_are_refused() -> None:
    obfuscate = small_flow_field()
    with pytest.raises(ValueError, match=r"expected images \(N, 1, 64, 64\), not \(2, 3, 64, 64\)"):
        obfuscate(torch.zeros(2, 3, 64, 64), seeds(2))
    with pytest.raises(ValueError, match="one seed for each of 2 images"):
        obfuscate(images(2), seeds(3))
    with pytest.raises(ValueError, match="expected 2 native images, one for each thumbnail"):
        list(obfuscate.at_native(images(2), [torch.zeros(1, 9, 9)], seeds(2)))
    with pytest.raises(ValueError, match=r"shape \(1, H, W\)"):
        list(obfuscate.at_native(images(1), [torch.zeros(9, 9)], seeds(1)))


def test_identity_changes_nothing_at_any_resolution() -> None:
    obfuscate = Identity(ObfuscationSettings(kind="identity", image_size=64))
    batch, native = images(1), images(1, 100, 30)[0]
    assert obfuscate.native is True
    assert torch.equal(obfuscate(batch, seeds(1)), batch)
    assert torch.equal(next(obfuscate.at_native(batch, [native], seeds(1))), native)


def test_privacy_net_refuses_native_resolution_with_the_mend() -> None:
    settings = ObfuscationSettings(kind="privacy-net", features=2, image_size=64)
    obfuscate = PrivacyNet(settings, PrivacyNetGenerator(features=2))
    assert obfuscate(images(2), seeds(2)).shape == (2, 1, 64, 64)
    assert obfuscate.native is False
    with pytest.raises(UsageError, match=r"'privacy-net' model can't publish at native resolution: .* to 64"):
        obfuscate.at_native(images(1), [torch.zeros(1, 9, 9)], seeds(1))


def test_all_follow_the_protocol() -> None:
    assert isinstance(small_flow_field(), Obfuscator)
    assert isinstance(build(ObfuscationSettings(kind="dp-pix")), Obfuscator)
    assert isinstance(build(ObfuscationSettings(kind="identity")), Obfuscator)
