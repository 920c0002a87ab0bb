import pytest

from prichexy.errors import UsageError
from prichexy.obfuscation.cuda.batch_size import GAIN, Trial, find_batch

ROOMY = 10**12


class Device:
    """Images take as long as `seconds` says of a batch, and 100 bytes each."""

    def __init__(self, seconds: dict[int, float], memory: int = ROOMY) -> None:
        self.seconds, self.memory = seconds, memory
        self.tried: list[int] = []

    def attempt(self, batch: int) -> Trial | None:
        self.tried.append(batch)
        return None if 100 * batch > self.memory else Trial(batch, self.seconds[batch], 100 * batch)


def test_a_batch_grows_while_twice_the_size_is_faster_an_image() -> None:
    device = Device({1: 1.0, 2: 1.2, 4: 1.5, 8: 2.9, 16: 5.0})
    assert find_batch(device.attempt, ROOMY, 64).batch == 4
    assert device.tried == [1, 2, 4, 8]


@pytest.mark.parametrize(("gain", "chosen"), [(GAIN - 0.01, 1), (GAIN + 0.01, 2)])
def test_the_gain_that_counts_is_five_percent(gain: float, chosen: int) -> None:
    device = Device({1: 1.0, 2: 2 / (1 + gain), 4: 100.0})
    assert find_batch(device.attempt, ROOMY, 64).batch == chosen


@pytest.mark.parametrize(("most", "chosen"), [(1, 1), (3, 2), (4, 4)])
def test_no_batch_is_larger_than_asked_for(most: int, chosen: int) -> None:
    device = Device(dict.fromkeys((1, 2, 4, 8), 1.0))
    assert find_batch(device.attempt, ROOMY, most).batch == chosen
    assert max(device.tried) <= most


def test_a_batch_that_would_exceed_the_budget_is_not_even_tried() -> None:
    device = Device(dict.fromkeys((1, 2, 4, 8), 1.0))
    assert find_batch(device.attempt, 799, 64).batch == 4
    assert device.tried == [1, 2, 4]


def test_a_batch_that_took_more_than_the_budget_is_not_taken() -> None:
    assert find_batch(lambda batch: Trial(batch, 1.0, 100 * batch**2), 300, 64).batch == 1


def test_memory_that_runs_out_ends_the_search() -> None:
    device = Device(dict.fromkeys((1, 2, 4, 8), 1.0), memory=399)
    assert find_batch(device.attempt, ROOMY, 64).batch == 2
    assert device.tried == [1, 2, 4]


@pytest.mark.parametrize("device", [Device({1: 1.0}, memory=99), Device({1: 1.0})])
def test_no_room_for_one_image_is_told_with_the_mend(device: Device) -> None:
    with pytest.raises(UsageError, match="too little free memory for one image: end what else uses it"):
        find_batch(device.attempt, 99, 64)
