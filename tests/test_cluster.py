"""How a cluster's cores and GPUs are shared out between actors and the tasks that feed them."""

import json

import pytest
from ray._private.ray_constants import AUTOSCALER_RESOURCE_REQUEST_CHANNEL
from ray.experimental.internal_kv import _internal_kv_get

from prichexy.cluster import scaled, shared_out
from prichexy.config import RayConfig
from prichexy.errors import PrichexyError, UsageError


@pytest.mark.parametrize("gpus", [0, 1, 2, 8])
@pytest.mark.parametrize("cpus", [2, 3, 8, 64])
@pytest.mark.parametrize("wished", [None, 1, 3, 200])
def test_a_core_is_always_left_for_the_tasks(cpus: int, gpus: int, wished: int | None) -> None:
    capacity = shared_out(cpus, gpus, wished)
    left = cpus - capacity.actors * capacity.actor_cpus
    assert left >= max(1.0, capacity.task_cpus)
    assert 0 < capacity.task_cpus <= 1
    assert capacity.actors == (wished or gpus if gpus else min(wished or cpus, 2 * cpus - 2))


@pytest.mark.parametrize(("cpus", "told"), [(0, "no cores"), (1, "one core")])
def test_less_than_two_cores_are_too_little(cpus: int, told: str) -> None:
    with pytest.raises(UsageError, match=rf"^setting ray\.wait_cpus: the cluster has {told} .* two are needed"):
        shared_out(cpus, 1, None)


def asked_for() -> list[dict[str, float]]:
    """What the autoscaler was last told to make room for."""
    told: list[dict[str, float]] = json.loads(_internal_kv_get(AUTOSCALER_RESOURCE_REQUEST_CHANNEL))
    return told


def test_a_job_waits_for_what_it_names_and_lets_it_go_afterwards(local_ray: None) -> None:
    with scaled(RayConfig(wait_cpus=2)):
        assert asked_for() == [{"CPU": 1}, {"CPU": 1}]
    assert asked_for() == []
    with (
        pytest.raises(PrichexyError, match=r"^2 cores and 1 GPUs did not come within 1 s \(ray\.wait_seconds\)"),
        scaled(RayConfig(wait_cpus=2, wait_gpus=1, wait_seconds=1)),
    ):
        raise AssertionError("unreachable")
    assert asked_for() == []
