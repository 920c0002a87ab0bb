import itertools

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from prichexy.imaging.resample import from_unit, to_unit
from prichexy.obfuscation.cuda.levels import LevelBatches, levels_of, units_of
from prichexy.obfuscation.cuda.queues import HostQueues
from tests.obfuscation.late_queues import LateQueues

SIDE, BATCH = 4, 3
Image = NDArray[np.uint8] | NDArray[np.uint16]


def inverted(levels_N1SS: Tensor, tops_N111: Tensor) -> tuple[Tensor, Tensor]:
    """A work that shows which image came with which depth; black images count as no numbers."""
    return tops_N111 - levels_N1SS, levels_N1SS.flatten(1).amax(dim=1) > 0


def pictures(depths: list[int]) -> list[Image]:
    rng = np.random.default_rng(len(depths))
    return [
        rng.integers(1, 2**depth, (SIDE, SIDE)).astype(np.uint8 if depth == 8 else np.uint16)
        for number, depth in enumerate(depths)
    ]


def depths_of(count: int, kind: str) -> list[int]:
    return [8] * count if kind == "8 bits" else [(8, 12, 16)[number % 3] for number in range(count)]


@pytest.mark.parametrize("depth", range(8, 17))
def test_units_and_levels_are_the_cpu_path_s_to_the_bit(depth: int) -> None:
    levels = np.arange(2**depth, dtype=np.uint8 if depth == 8 else np.uint16)
    tops_1111 = torch.full((1, 1, 1, 1), 2.0**depth - 1)
    units = units_of(torch.from_numpy(levels).to(torch.float32)[None, None, None], tops_1111)
    np.testing.assert_array_equal(units[0, 0, 0].numpy().view(np.int32), to_unit(levels, depth).view(np.int32))
    assert torch.equal(levels_of(units, tops_1111)[0, 0, 0], torch.from_numpy(levels).to(torch.float32))
    rng = np.random.default_rng(depth)
    between = np.concatenate(  # anywhere, beyond both ends, and the middle between two levels
        [rng.uniform(-0.1, 1.1, 100_000), (levels[:-1] + 0.5) / (2**depth - 1), [np.inf, -np.inf]]
    ).astype(np.float32)
    rounded = levels_of(torch.from_numpy(between)[None, None, None], tops_1111)[0, 0, 0].numpy()
    np.testing.assert_array_equal(rounded.astype(levels.dtype), from_unit(between, depth))


@pytest.mark.parametrize("kind", ["8 bits", "mixed"])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 6, 7, 9, 14])
def test_images_come_back_in_order_whatever_order_the_device_works_in(count: int, kind: str) -> None:
    depths = depths_of(count, kind)
    images = pictures(depths)
    for seed in range(30):
        batches = LevelBatches(LateQueues(seed), BATCH, SIDE, inverted)
        returned = list(batches(iter(images), depths))
        assert len(returned) == count
        for image, depth, result in zip(images, depths, returned, strict=True):
            assert result is not None
            assert result.dtype == image.dtype
            np.testing.assert_array_equal(result, 2**depth - 1 - image)


def test_calls_with_other_depths_follow_each_other() -> None:
    for seed in range(20):
        batches = LevelBatches(LateQueues(seed), BATCH, SIDE, inverted)
        for kind, count in [("8 bits", 7), ("mixed", 5), ("8 bits", 2)]:
            depths = depths_of(count, kind)
            for image, depth, result in zip(pictures(depths), depths, batches(pictures(depths), depths), strict=True):
                np.testing.assert_array_equal(result, 2**depth - 1 - image)


def test_a_batch_is_sent_before_the_one_before_it_is_waited_for() -> None:
    log: list[str] = []
    count = 4 * BATCH
    images = LevelBatches(LateQueues(0, log), BATCH, SIDE, inverted)(pictures([8] * count), [8] * count)
    seen = [log[:] for _ in images]
    went = [what for what in log if what in ("put in", "reached")]
    assert went == ["put in", "put in", "reached", "put in", "reached", "put in", "reached", "reached"]
    # When the caller gets the first batch, the next two are under way.
    assert seen[0].count("put compute") == 3


def test_images_are_read_at_most_two_batches_ahead() -> None:
    read = itertools.count()
    depths = [8] * 12
    images = LevelBatches(HostQueues(), BATCH, SIDE, inverted)(
        (image for image, _ in zip(pictures(depths), read, strict=False)), depths
    )
    next(images)
    assert next(read) <= 3 * BATCH + 1


def test_what_is_no_number_is_none_and_the_others_stay() -> None:
    images = pictures([8] * 7)
    images[2][:] = images[6][:] = 0
    for seed in range(20):
        returned = list(LevelBatches(LateQueues(seed), BATCH, SIDE, inverted)(images, [8] * 7))
        assert [number for number, image in enumerate(returned) if image is None] == [2, 6]
        np.testing.assert_array_equal(returned[5], 255 - images[5])


def test_a_result_is_its_own_memory() -> None:
    depths = [8] * (3 * BATCH)
    images = pictures(depths)
    first, *_ = list(LevelBatches(LateQueues(1), BATCH, SIDE, inverted)(images, depths))
    np.testing.assert_array_equal(first, 255 - images[0])


def test_a_call_that_is_given_up_leaves_the_next_one_right() -> None:
    depths = [8] * 10
    images = pictures(depths)
    for seed in range(20):
        batches = LevelBatches(LateQueues(seed), BATCH, SIDE, inverted)
        given_up = batches(images, depths)
        next(given_up)
        with pytest.raises(RuntimeError, match="earlier call are still under way"):
            next(batches(images, depths))
        given_up.close()  # type: ignore[attr-defined]
        for image, result in zip(images, batches(images, depths), strict=True):
            np.testing.assert_array_equal(result, 255 - image)


def test_views_that_may_not_be_written_are_read() -> None:
    image = np.frombuffer(bytes(range(16)), np.uint8).reshape(SIDE, SIDE)
    (result,) = LevelBatches(HostQueues(), BATCH, SIDE, inverted)([image], [8])
    np.testing.assert_array_equal(result, 255 - image)


def test_other_shapes_and_missing_images_are_refused() -> None:
    batches = LevelBatches(HostQueues(), BATCH, SIDE, inverted)
    with pytest.raises(ValueError, match=r"expected images \(4, 4\), not \(1, 4\)"):
        list(batches([np.ones((1, 4), np.uint8)], [8]))
    with pytest.raises(ValueError, match="argument 2 is"):
        list(batches(pictures([8]), [8, 8]))
    with pytest.raises(ValueError, match="argument 2 is"):
        list(batches(pictures([8] * 4), [8] * 3))
    (result,) = batches([np.full((SIDE, SIDE), 5, np.uint8)], [8])
    assert int(result[0, 0]) == 250  # type: ignore[index]
