"""The GPU's engine on the CPU: the same class, on queues that do everything at once and capture nothing."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prichexy.errors import UsageError
from prichexy.imaging.resample import from_unit, resize, to_unit
from prichexy.networks.flow_generator import FlowFieldGenerator
from prichexy.networks.inference import exact_convolutions, fold_batch_norm
from prichexy.networks.privacy_net import PrivacyNetGenerator
from prichexy.obfuscation import engines, flow_field
from prichexy.obfuscation.cuda.epilogues import Epilogue, with_epilogue
from prichexy.obfuscation.cuda.network import MOST_IMAGES, CudaNetwork
from prichexy.obfuscation.cuda.queues import HostQueues, Work
from prichexy.obfuscation.flow_field import FlowField
from prichexy.obfuscation.frozen_network import FrozenNetwork
from prichexy.obfuscation.grey_levels import obfuscate_levels
from prichexy.obfuscation.privacy_net import PrivacyNet
from prichexy.obfuscation.settings import ObfuscationSettings, Precision
from tests.networks.rule_weights import rule_state

SIDE = 64


def generator(kind: str = "flow-field") -> nn.Module:
    made = FlowFieldGenerator(features=4) if kind == "flow-field" else PrivacyNetGenerator(features=4)
    shapes = {key: (list(value.shape), str(value.dtype)[6:]) for key, value in made.state_dict().items()}
    made.load_state_dict(rule_state(shapes))
    return made.eval()


def images(count: int) -> Tensor:
    return torch.rand(count, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(count))


def engine(
    kind: str = "flow-field", precision: Precision = "float32", batch: int | None = 4, **more: Any
) -> CudaNetwork:
    return CudaNetwork(generator(kind), precision, SIDE, batch=batch, queues=more.pop("queues", HostQueues()), **more)


def settings(**given: Any) -> ObfuscationSettings:
    return ObfuscationSettings.model_validate(
        {"kind": "flow-field", "features": 4, "image_size": SIDE, "mu": 0.05, **given}
    )


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FlowField]:
    """A flow field as on a GPU, with batches of 4."""

    def made(**given: Any) -> FlowField:
        monkeypatch.setattr(
            flow_field,
            "frozen",
            lambda network, settings, _: CudaNetwork(
                network, settings.precision, settings.image_size, batch=4, queues=HostQueues()
            ),
        )
        return FlowField(settings(**given), generator(), "cuda")

    return made


@pytest.mark.parametrize("kind", ["flow-field", "privacy-net"])
@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 9])
def test_it_computes_what_the_cpu_s_engine_computes(kind: str, count: int) -> None:
    expected = FrozenNetwork(generator(kind), "float32", "cpu")(images(count))
    outputs = engine(kind)(images(count))
    assert outputs.shape == expected.shape
    torch.testing.assert_close(outputs, expected, rtol=0, atol=2e-6)
    assert outputs.dtype == torch.float32


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_every_batch_has_the_same_size_and_an_image_the_same_bits_in_any(precision: Precision) -> None:
    compute = engine(precision=precision)
    sizes = []
    compute.network.register_forward_hook(lambda _, inputs, __: sizes.append(len(inputs[0])))
    batch = images(11)
    together = compute(batch)
    sizes.clear()
    assert torch.equal(torch.cat([compute(batch[number : number + 1]) for number in range(11)]), together)
    assert torch.equal(compute(batch.flip(0)), together.flip(0))
    assert set(sizes) == {4}


def test_bfloat16_rounds_weights_once_and_results_are_float32() -> None:
    exact, rounded = engine(), engine(precision="bfloat16")
    for once, folded in zip(rounded.network.parameters(), exact.network.parameters(), strict=True):
        assert torch.equal(once, folded.to(torch.bfloat16))
    difference = float((rounded(images(2)) - exact(images(2))).abs().max())
    assert 1e-5 < difference < 0.1


def test_layers_work_channels_last_from_the_first_on() -> None:
    compute = engine()
    first_layers = [layer for layer in compute.network.modules() if isinstance(layer, nn.Conv2d)]
    seen, strides = [], []
    # By these a GPU's library decides; the CPU's goes by the weights.
    compute.network.register_forward_pre_hook(lambda _, inputs: strides.append(inputs[0].stride()))
    for layer in first_layers[:2]:
        layer.register_forward_hook(lambda _, __, output: seen.append(output))
    compute.outputs(images(4))
    assert strides == [(SIDE * SIDE, 1, SIDE, 1)]
    assert len(seen) == 2
    for output in seen:
        assert output.is_contiguous(memory_format=torch.channels_last)
        assert not output.is_contiguous()


def test_results_carry_no_gradient_in_and_out_of_inference_mode() -> None:
    with torch.inference_mode():
        compute = engine()
        inside = compute(images(3))
    outside = compute(images(3).requires_grad_())
    assert torch.equal(inside, outside)
    assert not outside.requires_grad
    assert not outside.is_inference()


def test_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected images \(N, 1, 64, 64\), not \(2, 1, 64, 32\)"):
        engine()(torch.zeros(2, 1, SIDE, 32))


class Gpu(HostQueues):
    """A GPU on which a batch takes a fixed time and 1 ms an image more, and 30 bytes an image."""

    def __init__(self, fixed_ms: float, free: int, memory: int = 10**9) -> None:
        self.fixed_ms, self.free, self.memory = fixed_ms, free, memory
        self.batch = self.taken = 0

    def device_memory(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        self.batch = shape[0]
        return super().host_memory(shape, dtype)

    def captured(self, work: Work) -> Work:
        if 30 * self.batch > self.memory:
            raise torch.OutOfMemoryError
        self.taken += 30 * self.batch
        return work

    def seconds(self, work: Work, times: int) -> float:
        return (self.fixed_ms + self.batch) / 1000

    def free_bytes(self) -> int:
        return self.free

    def taken_bytes(self) -> int:
        return self.taken


@pytest.mark.parametrize(
    ("gpu", "batch"),
    [
        (Gpu(0.05, 10**6), 1),  # two images gain 2.4 %
        (Gpu(0.5, 10**6), 8),  # 8 gain 5.9 % over 4, 16 over 8 3 %
        (Gpu(50, 10**6), MOST_IMAGES),
        (Gpu(50, 4 * 30 * 5), 4),
        (Gpu(50, 10**6, memory=30 * 2), 2),
    ],
)
def test_the_batch_is_found_from_time_and_memory(gpu: Gpu, batch: int) -> None:
    compute = engine(batch=None, queues=gpu)
    assert compute.batch == batch
    assert compute(images(1)).shape == (1, 2, SIDE, SIDE)


def test_a_gpu_without_memory_is_told_with_the_mend() -> None:
    with pytest.raises(UsageError, match="too little free memory"):
        engine(batch=None, queues=Gpu(1, 100, memory=20))(images(1))


@pytest.mark.parametrize(
    ("name", "device", "chosen"),
    [
        ("cuda-graph", "cuda", "cuda"),
        ("cuda-graph", "cuda:1", "cuda"),
        ("cuda-graph", torch.device("cuda", 0), "cuda"),
        ("torch", "cuda", "frozen"),
        ("torch", "cpu", "frozen"),
    ],
)
def test_the_engine_is_the_one_that_was_audited(
    monkeypatch: pytest.MonkeyPatch, name: str, device: Any, chosen: str
) -> None:
    asked = []
    monkeypatch.setattr(engines, "CudaNetwork", lambda *given: asked.append(given) or "cuda")
    monkeypatch.setattr(engines, "FrozenNetwork", lambda *given: "frozen")
    network = generator()
    assert engines.frozen(network, settings(precision="bfloat16", engine=name), device) == chosen
    assert asked == ([(network, "bfloat16", SIDE, device)] if chosen == "cuda" else [])


def test_without_a_gpu_the_engine_says_what_to_do() -> None:
    with pytest.raises(UsageError, match="cuda-graph runs on NVIDIA GPUs only: give the workers GPUs"):
        engines.frozen(generator(), settings(engine="cuda-graph"), "cpu")


def picture(height: int, width: int, bit_depth: int) -> Any:
    coarse = np.random.default_rng(height).integers(0, 2**bit_depth, (9, 7)).astype(np.uint16)
    smooth = resize(coarse, height, width)
    return smooth.astype(np.uint8) if bit_depth == 8 else smooth


@pytest.mark.parametrize("operator", ["corrected", "reference"])
def test_published_levels_are_those_of_images_in_unit_range_to_the_bit(
    on_gpu: Callable[..., FlowField], operator: str
) -> None:
    obfuscator = on_gpu(operator=operator)
    depths = [8, 12, 8, 16, 8, 10, 8, 8, 12]
    levels = [picture(SIDE, SIDE, depth) for depth in depths]
    units = torch.stack([torch.from_numpy(to_unit(image, depth)) for image, depth in zip(levels, depths, strict=True)])
    expected = obfuscator(units[:, None], torch.zeros(9))
    published = list(obfuscate_levels(obfuscator, iter(levels), depths, torch.zeros(9), device="cuda"))
    for image, depth, result, before in zip(expected, depths, published, levels, strict=True):
        assert result is not None
        assert result.dtype == before.dtype
        np.testing.assert_array_equal(result, from_unit(image[0].numpy(), depth))
        assert float((result != before).mean()) > 0.1


def test_published_levels_are_the_cpu_s_to_one_level(on_gpu: Callable[..., FlowField]) -> None:
    levels = [picture(SIDE, SIDE, 8), picture(SIDE, SIDE, 8)[::-1].copy()]
    by_cpu, by_gpu = FlowField(settings(), generator()), on_gpu()
    assert by_cpu.levels is None
    with torch.inference_mode():  # as the job calls it
        results = [list(obfuscate_levels(by, levels, [8, 8], torch.zeros(2))) for by in (by_cpu, by_gpu)]
    again = list(obfuscate_levels(by_gpu, levels, [8, 8], torch.zeros(2)))
    np.testing.assert_array_equal(again, results[1])
    for on_cpu, other in zip(*results, strict=True):
        assert on_cpu is not None
        difference = np.abs(on_cpu.astype(int) - other)
        assert int(difference.max()) <= 1
        assert float((difference > 0).mean()) < 0.001


def test_a_field_that_is_no_number_is_none_at_any_resolution(on_gpu: Callable[..., FlowField]) -> None:
    obfuscator = on_gpu()
    compute = obfuscator._generator.network  # type: ignore[attr-defined]
    compute.register_forward_hook(
        lambda _, inputs, flow: flow.masked_fill(inputs[0].amax((1, 2, 3), True) < 0.1, torch.nan)
    )
    dark, bright = np.full((SIDE, SIDE), 9, np.uint8), picture(SIDE, SIDE, 8)
    for thumbnails in (None, [dark, bright, dark]):
        first, second, third = obfuscate_levels(obfuscator, [dark, bright, dark], [8] * 3, torch.zeros(3), thumbnails)
        assert (first, third) == (None, None)
        assert second is not None


@pytest.mark.parametrize("gpu_warps", [True, False])
def test_native_levels_are_the_cpu_s(
    on_gpu: Callable[..., FlowField], monkeypatch: pytest.MonkeyPatch, gpu_warps: bool
) -> None:
    monkeypatch.setattr(flow_field, "NATIVE_ON_GPU", gpu_warps)
    depths = [8, 12, 16, 8]
    natives = [
        picture(*shape, depth) for shape, depth in zip([(90, 70), (64, 200), (30, 31), (8, 9)], depths, strict=True)
    ]
    small = [resize(image, SIDE, SIDE) for image in natives]
    for image in natives:
        image.flags.writeable = False
    obfuscator, by_cpu = on_gpu(), FlowField(settings(), generator())
    units, thumbnails = (
        [torch.from_numpy(to_unit(image, depth))[None] for image, depth in zip(part, depths, strict=True)]
        for part in (natives, small)
    )
    expected = obfuscator.at_native(torch.stack(thumbnails), units, torch.zeros(4))
    published = obfuscate_levels(obfuscator, iter(natives), depths, torch.zeros(4), small)
    integers = obfuscate_levels(by_cpu, iter(natives), depths, torch.zeros(4), small)
    for image, depth, result, by_integers in zip(expected, depths, published, integers, strict=True):
        assert result is not None
        assert by_integers is not None
        assert result.dtype == by_integers.dtype
        difference = np.abs(result.astype(int) - by_integers)
        assert int(difference.max()) <= (2 if depth == 16 else 1)
        assert float((difference > 0).mean()) < 0.01
        if gpu_warps:
            np.testing.assert_array_equal(result, from_unit(image[0].numpy(), depth))


def test_the_comparison_model_runs_on_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prichexy.obfuscation.privacy_net.frozen", lambda *_: engine("privacy-net"))
    made = ObfuscationSettings(kind="privacy-net", features=4, image_size=SIDE)
    levels = [picture(SIDE, SIDE, 8)] * 3
    published = list(obfuscate_levels(PrivacyNet(made, generator("privacy-net")), levels, [8] * 3, torch.zeros(3)))
    by_cpu = list(obfuscate_levels(PrivacyNet(made, generator("privacy-net")), levels, [8] * 3, torch.zeros(3)))
    np.testing.assert_array_equal(published, by_cpu)


def in_one(x: Tensor, weight: Tensor, z: Tensor, alpha: float, bias: Tensor, *given: Any) -> Tensor:
    """cuDNN's operator, in torch's words."""
    assert z.is_contiguous(memory_format=torch.channels_last)
    assert not z.any()
    return F.relu(F.conv2d(x, weight, None, *given) + alpha * z + bias[:, None, None])


@pytest.mark.parametrize(
    ("epilogue", "convolve"), [("fused", in_one), ("one-pass", lambda sums, bias: F.relu(sums + bias))]
)
def test_bias_and_relu_can_be_computed_with_the_convolution(
    epilogue: Epilogue, convolve: Callable[..., Tensor]
) -> None:
    folded = fold_batch_norm(generator())
    with torch.no_grad():
        expected = folded(images(2))
        calls = []
        joined = with_epilogue(folded, epilogue, lambda *given: calls.append(1) or convolve(*given))
        torch.testing.assert_close(joined(images(2)), expected, rtol=0, atol=2e-6)
        torch.testing.assert_close(joined(images(5))[:1], joined(images(5)[:1]), rtol=0, atol=2e-6)
    assert len(calls) == 3 * 18  # two for each of nine blocks
    assert not [layer for layer in joined.modules() if isinstance(layer, nn.ReLU)]


def test_an_epilogue_leaves_what_no_relu_follows() -> None:
    folded = fold_batch_norm(generator("privacy-net"))
    before = [type(layer) for layer in folded.modules()]
    assert [type(layer) for layer in with_epilogue(folded, "fused", in_one).modules()] == before
    plain = nn.Sequential(nn.Conv2d(1, 2, 3, bias=False), nn.ReLU())
    with pytest.raises(ValueError, match="only convolutions with a bias"):
        with_epilogue(plain, "fused", in_one)
    assert with_epilogue(plain, "separate") is plain


def test_exact_convolutions_forbid_tf32_and_choices_by_the_clock_and_only_within() -> None:
    flags = torch.backends.cudnn
    before = (flags.allow_tf32, flags.benchmark, flags.deterministic)
    with exact_convolutions():
        assert (flags.allow_tf32, flags.benchmark, flags.deterministic) == (False, False, True)
    assert (flags.allow_tf32, flags.benchmark, flags.deterministic) == before
