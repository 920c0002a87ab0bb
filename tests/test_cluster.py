"""How a cluster's cores and GPUs are shared out between actors and the tasks that feed them."""

import pytest

from prichexy.cluster import shared_out
from prichexy.errors import UsageError


@pytest.mark.parametrize("gpus", [0, 1, 2, 8])
@pytest.mark.parametrize("cpus", [2, 3, 8, 64])
@pytest.mark.parametrize("wished", [None, 1, 3, 200])
def test_a_core_is_always_left_for_the_tasks(cpus: int, gpus: int, wished: int | None) -> None:
    capacity = shared_out(cpus, gpus, wished)
    left = cpus - capacity.actors * capacity.actor_cpus
    assert left >= max(1.0, capacity.task_cpus)
    assert 0 < capacity.task_cpus <= 1
    assert capacity.actors == (wished or gpus if gpus else min(wished or cpus, 2 * cpus - 2))


def test_one_core_is_too_little() -> None:
    with pytest.raises(UsageError, match="two are needed"):
        shared_out(1, 1, None)
