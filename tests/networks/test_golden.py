"""Every network and the reference operator against the published implementation's outputs."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from prichexy.networks import deformation
from prichexy.networks.checkpoints import load_into
from prichexy.networks.classifier import Classifier
from prichexy.networks.flow_generator import FlowFieldGenerator
from prichexy.networks.inference import fold_batch_norm
from prichexy.networks.privacy_net import PrivacyNetGenerator
from prichexy.networks.verifier import Verifier
from tests.networks.rule_weights import published_shapes, rule_state

Vectors = dict[str, np.ndarray]


def filled(network: nn.Module, golden: Path, name: str) -> nn.Module:
    network.load_state_dict(rule_state(published_shapes(golden, name)), strict=True)
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def flow(golden: Path, golden_images: Tensor) -> Tensor:
    with torch.no_grad():
        return filled(FlowFieldGenerator(), golden, "flow_field_generator")(golden_images[:2])


def assert_same(actual: Tensor, expected: np.ndarray) -> None:
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-4, atol=1e-5)


def test_flow_field_is_the_published_one(flow: Tensor, vectors: Vectors) -> None:
    assert_same(flow, vectors["flow"])


def test_reference_grid_is_the_published_one(flow: Tensor, vectors: Vectors) -> None:
    assert_same(deformation.sampling_grid(flow, 0.01, "reference"), vectors["grid_mu0.01"])


@pytest.mark.parametrize("mu", [0.001, 0.005, 0.01])
def test_reference_warp_is_the_published_one(mu: float, flow: Tensor, golden_images: Tensor, vectors: Vectors) -> None:
    warped = deformation.warp(golden_images[:2], deformation.sampling_grid(flow, mu, "reference"))
    assert_same(warped, vectors[f"warped_mu{mu}"])


def test_reference_operator_shows_its_border_artefact(golden_images: Tensor, vectors: Vectors) -> None:
    grid_NHW2 = deformation.sampling_grid(torch.zeros(2, 2, 256, 256), 0.01, "reference")
    assert_same(deformation.warp(golden_images[:2], grid_NHW2), vectors["warped_identity_flow"])
    assert float(deformation.displacement_pixels(grid_NHW2).largest[0]) == pytest.approx(116, abs=1)


def test_privacy_net_is_the_published_one(golden: Path, golden_images: Tensor, vectors: Vectors) -> None:
    network = filled(PrivacyNetGenerator(), golden, "privacy_net_generator")
    assert_same(network(golden_images[:2]), vectors["privacy_net"])
    assert_same(fold_batch_norm(network)(golden_images[:2]), vectors["privacy_net"])


def test_verifier_is_the_published_one(golden: Path, golden_images: Tensor, vectors: Vectors) -> None:
    network = filled(Verifier(), golden, "verifier")
    assert_same(network(golden_images[:2], golden_images[2:]), vectors["snn_logit_eval"])
    embedding = network.embed(golden_images[:1])
    torch.testing.assert_close(network.embed(golden_images[:1].expand(-1, 3, -1, -1)), embedding)
    assert embedding.shape == (1, 128)


def test_classifier_is_the_published_one(golden: Path, golden_images: Tensor, vectors: Vectors) -> None:
    network = filled(Classifier(), golden, "classifier")
    assert_same(torch.sigmoid(network(golden_images[:2])), vectors["classifier_prob_eval"])


def test_classifier_speaks_published_key_names(golden: Path) -> None:
    shapes = published_shapes(golden, "classifier")
    network = Classifier()
    assert {key: list(value.shape) for key, value in network.state_dict().items()} == {
        key: shape for key, (shape, _) in shapes.items()
    }
    weights = rule_state(shapes)
    wrapped = nn.DataParallel(network)
    wrapped.load_state_dict({f"module.{key}": value for key, value in weights.items()}, strict=True)
    load_into(network, network.state_dict())
    torch.testing.assert_close(dict(network.state_dict()), weights, rtol=0, atol=0)


def test_flow_generator_has_the_published_size() -> None:
    assert sum(parameter.numel() for parameter in FlowFieldGenerator().parameters()) == 7_762_498


def test_sides_that_cannot_be_pooled_are_refused() -> None:
    with pytest.raises(ValueError, match="multiples of 16, not 256 x 248"):
        FlowFieldGenerator(features=2)(torch.zeros(1, 1, 256, 248))
    with pytest.raises(ValueError, match="multiples of 8, not 100 x 256"):
        PrivacyNetGenerator(features=2)(torch.zeros(1, 1, 100, 256))
