import numpy as np
import pytest
import torch
from torch import Tensor

from prichexy.errors import UsageError
from prichexy.networks.flow_generator import FlowFieldGenerator
from prichexy.networks.privacy_net import PrivacyNetGenerator
from prichexy.obfuscation import engine_check
from prichexy.obfuscation.engine_check import Differences, EngineCheck, check_engines
from prichexy.obfuscation.settings import ObfuscationSettings
from tests.networks.rule_weights import rule_state

FLOW = ObfuscationSettings(kind="flow-field", features=4, image_size=64, mu=0.1, precision="bfloat16")


def weights(network: torch.nn.Module) -> dict[str, Tensor]:
    shapes = {key: (list(value.shape), str(value.dtype)[6:]) for key, value in network.state_dict().items()}
    return rule_state(shapes)


def radiographs() -> list[tuple[np.ndarray, int]]:
    rng = np.random.default_rng(0)
    return [
        (rng.integers(0, 256, (90, 80)).astype(np.uint8), 8),
        (rng.integers(0, 4096, (64, 100)).astype(np.uint16), 12),
    ]


def by_name(checks: list[EngineCheck]) -> dict[str, EngineCheck]:
    return {f"{check.engine} {check.precision}": check for check in checks}


def test_differences_are_in_levels_of_255_whatever_the_depth() -> None:
    found = Differences()
    found.add(np.array([[10, 20], [30, 40]], np.uint8), np.array([[10, 23], [29, 40]], np.uint8), 8)
    assert (found.largest, found.mean, found.changed_share) == (3, 1, 0.5)
    found.add(np.array([[0, 4095]], np.uint16), np.array([[0, 4095 - 2 * 4095 // 255]], np.uint16), 12)
    assert found.largest == 3
    assert found.mean == pytest.approx(6 / 6, abs=0.01)
    assert found.changed_share == 0.5


def test_an_output_that_is_no_number_is_never_allowed() -> None:
    check = EngineCheck("torch", "bfloat16")
    check.at_size.add(np.zeros((2, 2), np.uint8), None, 8)
    assert check.at_size.largest == float("inf")
    assert not check.allowed_at_size


@pytest.mark.parametrize(("level", "at_size", "native"), [(1, True, True), (2, False, True), (3, False, False)])
def test_one_level_is_allowed_at_the_network_s_size_and_two_natively(level: int, at_size: bool, native: bool) -> None:
    black, other = np.zeros((2, 2), np.uint8), np.full((2, 2), level, np.uint8)
    check = EngineCheck("openvino", "bfloat16", native=Differences())
    check.at_size.add(black, other, 8)
    check.native.add(black, other, 8)  # type: ignore[union-attr]
    assert (check.allowed_at_size, check.allowed_native) == (at_size, native)


def test_torch_in_float32_is_the_reference_and_bfloat16_differs_from_it() -> None:
    checks = by_name(check_engines(FLOW, weights(FlowFieldGenerator(features=4)), radiographs()))
    reference, rounded = checks["torch float32"], checks["torch bfloat16"]
    assert (reference.at_size.largest, reference.native and reference.native.largest) == (0, 0)
    assert (reference.allowed_at_size, reference.allowed_native) == (True, True)
    assert reference.at_size.pixels == 2 * 64 * 64
    assert reference.native is not None
    assert reference.native.pixels == 90 * 80 + 64 * 100
    assert rounded.at_size.changed_share > 0.01  # white noise moved by up to 3 pixels: every rounding shows
    assert rounded.at_size.largest > 0
    assert rounded.native is not None
    assert rounded.native.mean > 0.01
    assert reference.images == 1
    assert reference.images_per_second is not None


@pytest.mark.parametrize("engine", ["winograd", "openvino"])
def test_other_engines_in_float32_are_allowed(engine: str) -> None:
    checks = by_name(check_engines(FLOW, weights(FlowFieldGenerator(features=4)), radiographs()))
    exact = checks[f"{engine} float32"]
    assert exact.unusable is None
    assert exact.at_size.largest <= 1
    assert exact.images_per_second is not None


def test_what_an_engine_can_t_do_is_told_and_not_allowed() -> None:
    checks = by_name(check_engines(FLOW, weights(FlowFieldGenerator(features=4)), radiographs()))
    absent = checks["winograd bfloat16"]
    assert absent.unusable is not None
    assert "computes in float32, not bfloat16" in absent.unusable
    assert (absent.allowed_at_size, absent.allowed_native, absent.images_per_second) == (False, False, None)
    assert checks["torch float32"].allowed_at_size


def test_a_model_without_native_results_is_checked_at_its_size() -> None:
    settings = ObfuscationSettings(kind="privacy-net", features=2, image_size=64)
    checks = by_name(check_engines(settings, weights(PrivacyNetGenerator(features=2)), radiographs()))
    assert checks["torch bfloat16"].native is None
    assert not checks["torch bfloat16"].allowed_native
    assert checks["torch bfloat16"].at_size.changed_share > 0


def test_what_can_t_be_checked_is_refused() -> None:
    with pytest.raises(UsageError, match="a 'dp-pix' model has no network"):
        check_engines(ObfuscationSettings(kind="dp-pix"), {}, radiographs())
    with pytest.raises(UsageError, match="no radiograph to check the engines on"):
        check_engines(FLOW, weights(FlowFieldGenerator(features=4)), [])


def test_limits_are_those_of_the_audit_s_claim() -> None:
    assert (engine_check.LARGEST_AT_SIZE, engine_check.LARGEST_NATIVE) == (1, 2)
