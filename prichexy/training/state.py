"""All that training needs to go on, as one value of tensors and plain values, which a weights-only load reads."""

from collections.abc import Mapping
from typing import Any, Protocol

from torch import nn
from torch.optim import Optimizer

from prichexy.errors import PrichexyError, UsageError
from prichexy.networks.checkpoints import load_into
from prichexy.training.compute import bare
from prichexy.training.seeds import random_state, restore_random_state

FORMAT_VERSION = 1

Plain = int | float | str | bool | None


class Stateful(Protocol):
    """What has a state of plain values, such as a schedule."""

    def state_dict(self) -> dict[str, Any]:
        """The state."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any:
        """Go on from a state."""
        ...


def training_state(
    networks: Mapping[str, nn.Module],
    optimisers: Mapping[str, Optimizer],
    schedules: Mapping[str, Stateful],
    position: Mapping[str, Plain],
) -> dict[str, Any]:
    """State of a training run between two steps.

    Its tensors are the live ones: store it before the next step.

    Args:
        networks: by name; DDP wrappers are left out of the key names.
        optimisers: by name.
        schedules: learning-rate decay, early stopping, lowest losses, by name.
        position: epoch, step, and where the data stand.

    Returns:
        For `restore_training`.
    """
    return {
        "format": FORMAT_VERSION,
        "networks": {name: dict(bare(network).state_dict()) for name, network in networks.items()},
        "optimisers": {name: optimiser.state_dict() for name, optimiser in optimisers.items()},
        "schedules": {name: schedule.state_dict() for name, schedule in schedules.items()},
        "position": dict(position),
        "random": random_state(),
    }


def restore_training(
    state: Mapping[str, Any],
    networks: Mapping[str, nn.Module],
    optimisers: Mapping[str, Optimizer],
    schedules: Mapping[str, Stateful],
) -> dict[str, Plain]:
    """Position of a run that networks, optimisers, schedules and random numbers now go on from.

    Args:
        state: what `training_state` gave, on any device.
        networks: those of the run, made anew, by the same names.
        optimisers: of their parameters.
        schedules: as in `training_state`.

    Raises:
        PrichexyError: if the state is of another format or another run's; nothing has been restored.
        UsageError: if the weights don't fit the networks, that is, the settings have changed since.
    """
    if state.get("format") != FORMAT_VERSION:
        raise PrichexyError(f"the checkpoint's format must be {FORMAT_VERSION}: start the run anew")
    given = {"networks": networks, "optimisers": optimisers, "schedules": schedules}
    for part, expected in given.items():
        if set(state[part]) != set(expected):
            raise PrichexyError(
                f"the checkpoint's {part} are {', '.join(sorted(state[part]))}, but the run has "
                f"{', '.join(sorted(expected))}: it belongs to another stage"
            )
    for name, network in networks.items():
        load_into(bare(network), state["networks"][name])
    for name, optimiser in optimisers.items():
        try:
            optimiser.load_state_dict(state["optimisers"][name])
        except ValueError:
            raise UsageError(
                f"the checkpoint's optimiser of the {name} has other parameters: the settings have changed"
            ) from None
    for name, schedule in schedules.items():
        schedule.load_state_dict(state["schedules"][name])
    restore_random_state(state["random"])
    return dict(state["position"])
