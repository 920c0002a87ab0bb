"""The GPU's engine on a GPU, where there is one: beside what the CPU's tests prove of the same code."""

import numpy as np
import pytest
import torch
from torch import Tensor

from prichexy.imaging.resample import from_unit, resize, to_unit
from prichexy.networks.deformation import Operator
from prichexy.networks.flow_generator import FlowFieldGenerator
from prichexy.obfuscation import flow_field, obfuscate_levels
from prichexy.obfuscation.cuda.levels import levels_of, units_of
from prichexy.obfuscation.cuda.network import CudaNetwork
from prichexy.obfuscation.cuda.queues import CudaQueues
from prichexy.obfuscation.flow_field import FlowField
from prichexy.obfuscation.frozen_network import FrozenNetwork
from prichexy.obfuscation.settings import ObfuscationSettings, Precision
from tests.networks.rule_weights import rule_state

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")

SIDE = 256


@pytest.fixture(scope="module")
def generator() -> FlowFieldGenerator:
    """Of the published size."""
    made = FlowFieldGenerator()
    shapes = {key: (list(value.shape), str(value.dtype)[6:]) for key, value in made.state_dict().items()}
    made.load_state_dict(rule_state(shapes))
    return made.eval()


def settings(precision: Precision = "bfloat16", operator: Operator = "corrected") -> ObfuscationSettings:
    return ObfuscationSettings(kind="flow-field", mu=0.01, precision=precision, operator=operator)


def picture(number: int, height: int = SIDE, width: int = SIDE, bit_depth: int = 8) -> np.ndarray:
    coarse = np.random.default_rng(number).integers(0, 2**bit_depth, (9, 7)).astype(np.uint16)
    smooth = resize(coarse, height, width)
    return smooth.astype(np.uint8) if bit_depth == 8 else smooth


def units(count: int) -> Tensor:
    return torch.stack([torch.from_numpy(to_unit(picture(number), 8))[None] for number in range(count)])


@pytest.mark.parametrize("depth", range(8, 17))
def test_units_and_levels_are_the_cpu_s_to_the_bit(depth: int) -> None:
    levels = np.arange(2**depth, dtype=np.uint8 if depth == 8 else np.uint16)
    tops = torch.full((1, 1, 1, 1), 2.0**depth - 1, device="cuda")
    there = units_of(torch.from_numpy(levels).cuda().to(torch.float32)[None, None, None], tops)
    np.testing.assert_array_equal(there[0, 0, 0].cpu().numpy().view(np.int32), to_unit(levels, depth).view(np.int32))
    some = np.random.default_rng(depth).uniform(-0.1, 1.1, 10**6).astype(np.float32)
    back = levels_of(torch.from_numpy(some).cuda()[None, None, None], tops)[0, 0, 0].cpu().numpy()
    np.testing.assert_array_equal(back.astype(levels.dtype), from_unit(some, depth))


def test_float32_is_the_cpu_s_and_not_tf32(generator: FlowFieldGenerator) -> None:
    expected = FrozenNetwork(generator, "float32", "cpu")(units(3))
    outputs = CudaNetwork(generator, "float32", SIDE, batch=2)(units(3)).cpu()
    assert float(expected.std()) > 0.01
    torch.testing.assert_close(outputs, expected, rtol=0, atol=2e-5)  # TF32 is off by 1e-3


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_an_image_gives_the_same_bits_whatever_the_images_beside_it(
    generator: FlowFieldGenerator, precision: Precision
) -> None:
    compute, batch = CudaNetwork(generator, precision, SIDE, batch=8), units(11).cuda()
    together = compute(batch)
    assert torch.equal(compute(batch), together)
    assert torch.equal(torch.cat([compute(batch[number : number + 1]) for number in range(11)]), together)
    assert torch.equal(compute(batch.flip(0)), together.flip(0))
    assert torch.equal(CudaNetwork(generator, precision, SIDE, batch=8)(batch), together)


@pytest.mark.parametrize("operator", ["corrected", "reference"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_published_levels_are_the_cpu_s_in_float32_to_one_of_255(
    generator: FlowFieldGenerator, precision: Precision, operator: Operator
) -> None:
    depths = [(8, 12, 8, 16, 8)[number % 5] for number in range(13)]
    images = [picture(number, bit_depth=depth) for number, depth in enumerate(depths)]
    by_gpu = FlowField(settings(precision, operator), generator, "cuda")
    by_cpu = FlowField(settings("float32", operator), generator)
    results = [list(obfuscate_levels(by, images, depths, torch.zeros(13))) for by in (by_gpu, by_cpu)]
    assert by_gpu.levels is not None
    for there, here, before, depth in zip(*results, images, depths, strict=True):
        assert there is not None
        assert here is not None
        assert there.dtype == here.dtype
        assert float((there != before).mean()) > 0.01
        assert float(np.abs(there.astype(int) - here).max()) * 255 / (2**depth - 1) <= 1.01


def test_mixed_depths_cross_as_well_as_single_bytes(generator: FlowFieldGenerator) -> None:
    obfuscator = FlowField(settings(), generator, "cuda")
    images = [picture(number) for number in range(40)]
    narrow = list(obfuscate_levels(obfuscator, images, [8] * 40, torch.zeros(40)))
    wide = list(obfuscate_levels(obfuscator, [*images, picture(0, bit_depth=12)], [8] * 40 + [12], torch.zeros(41)))
    np.testing.assert_array_equal(narrow, wide[:40])


@pytest.mark.parametrize("on_gpu", [True, False])
def test_native_levels_are_the_cpu_s(
    generator: FlowFieldGenerator, monkeypatch: pytest.MonkeyPatch, on_gpu: bool
) -> None:
    monkeypatch.setattr(flow_field, "NATIVE_ON_GPU", on_gpu)
    depths = [8, 12, 16]
    natives = [picture(9, 900, 700), picture(8, 400, 1000, 12), picture(7, 300, 301, 16)]
    small = [resize(image, SIDE, SIDE) for image in natives]
    results = [
        list(obfuscate_levels(by, natives, depths, torch.zeros(3), small))
        for by in (FlowField(settings("float32"), generator, "cuda"), FlowField(settings("float32"), generator))
    ]
    for there, here, depth in zip(*results, depths, strict=True):
        assert there is not None
        assert here is not None
        assert float(np.abs(there.astype(int) - here).max()) * 255 / (2**depth - 1) <= 1.01


def test_broken_weights_give_none(generator: FlowFieldGenerator) -> None:
    broken = FlowFieldGenerator()
    broken.load_state_dict({**generator.state_dict(), "conv.bias": torch.full((2,), torch.nan)})
    for small in (None, [picture(1)] * 2):
        published = obfuscate_levels(
            FlowField(settings(), broken, "cuda"), [picture(1)] * 2, [8] * 2, torch.zeros(2), small
        )
        assert list(published) == [None, None]


def test_a_batch_is_found_and_its_memory_given_back(generator: FlowFieldGenerator) -> None:
    queues = CudaQueues()
    compute = CudaNetwork(generator, "bfloat16", SIDE, queues=queues)
    assert compute.batch in (1, 2, 4, 8, 16)
    compute(units(1))
    assert queues.taken_bytes() < 4 * 2**30
