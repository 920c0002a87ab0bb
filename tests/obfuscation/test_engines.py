from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from prichexy.errors import UsageError
from prichexy.networks.flow_generator import FlowFieldGenerator
from prichexy.networks.privacy_net import PrivacyNetGenerator
from prichexy.obfuscation.engines import frozen
from prichexy.obfuscation.frozen_network import FrozenNetwork
from prichexy.obfuscation.model_files import build, fingerprint_of
from prichexy.obfuscation.settings import ObfuscationSettings
from prichexy.obfuscation.winograd.layers import WinogradConvolution
from prichexy.obfuscation.winograd.network import WinogradNetwork
from prichexy.silent_openvino import silent_openvino
from tests.networks.rule_weights import rule_state

Networks = dict[str, Callable[[], nn.Module]]
NETWORKS: Networks = {
    "flow-field": lambda: FlowFieldGenerator(features=4),
    "privacy-net": lambda: PrivacyNetGenerator(features=4),
}


def network(kind: str) -> nn.Module:
    made = NETWORKS[kind]()
    shapes = {key: (list(value.shape), str(value.dtype)[6:]) for key, value in made.state_dict().items()}
    made.load_state_dict(rule_state(shapes))
    return made.eval()


def settings(kind: str = "flow-field", **given: str) -> ObfuscationSettings:
    return ObfuscationSettings.model_validate({"kind": kind, "features": 4, "image_size": 64, **given})


def images(count: int) -> Tensor:
    return torch.rand(count, 1, 64, 64, generator=torch.Generator().manual_seed(count))


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("engine", ["torch", "winograd", "openvino"])
def test_every_engine_computes_the_network(kind: str, engine: str) -> None:
    made, batch = network(kind), images(3)
    with torch.no_grad():
        expected = made(batch)
    outputs = frozen(made, settings(kind, engine=engine), "cpu")(batch)
    assert float(expected.std()) > 0.01
    torch.testing.assert_close(outputs, expected, rtol=0, atol=2e-6)
    assert outputs.dtype == torch.float32
    assert not outputs.requires_grad


@pytest.mark.parametrize("kind", NETWORKS)
def test_openvino_rounds_where_bfloat16_is_asked_for_and_only_there(kind: str) -> None:
    if not any(torch.cpu.get_capabilities().get(name) for name in ("avx512_bf16", "amx_bf16")):
        pytest.skip("this processor has no bfloat16 instructions")
    made, batch = network(kind), images(2)
    exact = frozen(made, settings(kind, engine="openvino"), "cpu")(batch)
    rounded = frozen(made, settings(kind, engine="openvino", precision="bfloat16"), "cpu")(batch)
    assert 1e-5 < float((rounded - exact).abs().max()) < 0.1


@pytest.mark.parametrize(
    ("engine", "precision"),
    [
        ("torch", "float32"),
        ("torch", "bfloat16"),
        ("winograd", "float32"),
        ("openvino", "float32"),
        ("openvino", "bfloat16"),
    ],
)
def test_an_image_s_result_is_the_same_bits_whatever_its_batch(engine: str, precision: str) -> None:
    compute = frozen(network("flow-field"), settings(engine=engine, precision=precision), "cpu")
    batch = images(5)
    together = compute(batch)
    assert torch.equal(torch.cat([compute(batch[index : index + 1]) for index in range(5)]), together)
    assert compute(batch[:0]).shape == (0, 2, 64, 64)


@pytest.mark.parametrize("engine", ["winograd", "openvino"])
def test_an_engine_for_cpus_is_refused_on_a_gpu_with_the_mend(engine: str) -> None:
    with pytest.raises(UsageError, match=f"{engine} runs on CPUs only: hide the GPUs"):
        frozen(network("flow-field"), settings(engine=engine), "cuda")


def test_winograd_is_used_where_it_is_asked_for_and_refused_where_it_computes_nothing() -> None:
    computed = frozen(network("flow-field"), settings(engine="winograd"), "cpu")
    assert isinstance(computed, WinogradNetwork)
    assert sum(isinstance(layer, WinogradConvolution) for layer in computed.network.modules()) == 9
    with pytest.raises(UsageError, match="winograd computes none of this network"):
        frozen(PrivacyNetGenerator(features=1), settings("privacy-net", engine="winograd"), "cpu")


def test_winograd_in_bfloat16_is_refused() -> None:
    with pytest.raises(ValueError, match="winograd computes in float32 only"):
        settings(engine="winograd", precision="bfloat16")
    asked = settings(precision="bfloat16").model_copy(update={"engine": "winograd"})
    with pytest.raises(UsageError, match="winograd computes in float32, not bfloat16: use openvino or torch"):
        frozen(network("flow-field"), asked, "cpu")


def test_openvino_s_converter_which_reports_to_its_makers_is_not_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(silent_openvino(), "convert_model", None)
    assert frozen(network("flow-field"), settings(engine="openvino"), "cpu")(images(1)).shape == (1, 2, 64, 64)


def test_torch_is_the_engine_unless_another_is_named() -> None:
    assert settings().engine == "torch"
    assert isinstance(frozen(network("flow-field"), settings(), "cpu"), FrozenNetwork)


def test_an_audit_on_one_engine_is_not_one_on_another() -> None:
    state = network("flow-field").state_dict()
    before_engines = settings().recorded()
    assert "engine" not in before_engines
    assert settings(engine="openvino").recorded() == {**before_engines, "engine": "openvino"}
    assert fingerprint_of(settings(engine="openvino"), state) != fingerprint_of(settings(), state)
    assert fingerprint_of(settings(engine="torch"), state) == fingerprint_of(settings(), state)


@pytest.mark.parametrize("engine", ["winograd", "openvino"])
def test_a_model_publishes_on_the_engine_of_its_settings(engine: str) -> None:
    state, batch = network("flow-field").state_dict(), images(2)
    by_torch, by_other = (build(settings(engine=asked), state)(batch, torch.zeros(2)) for asked in ("torch", engine))
    assert float((by_torch - batch).abs().max()) > 0.01
    torch.testing.assert_close(by_other, by_torch, rtol=0, atol=1e-5)
