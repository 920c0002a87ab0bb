"""When to lower the learning rate, when to stop, and which checkpoints to keep; all by validation losses."""

import math
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from prichexy.errors import UsageError


def decay_on_plateau(optimiser: Optimizer, patience: int = 3, factor: float = 0.1) -> ReduceLROnPlateau:
    """Schedule that multiplies the learning rate by `factor` when validation stalls (CheXNet's recipe: by 0.1).

    Call ``step(loss)`` after each epoch; its ``state_dict`` holds plain values.

    Args:
        optimiser: whose learning rate it lowers.
        patience: epochs without a lower loss that are put up with; the one after them lowers the rate.
        factor: above 0 and below 1.
    """
    return ReduceLROnPlateau(optimiser, mode="min", factor=factor, patience=patience)


class EarlyStopping:
    """Tells when a validation loss has not fallen for some epochs (the paper's attacker: 5).

    Args:
        patience: epochs in a row without a new lowest loss after which training stops; at least 1.
        smallest_gain: by how much a loss must be lower to count.
    """

    def __init__(self, patience: int = 5, smallest_gain: float = 0.0) -> None:
        if patience < 1:
            raise UsageError("early stopping's patience must be at least 1 epoch")
        self.patience = patience
        self.smallest_gain = smallest_gain
        self.lowest = math.inf
        self.stalled = 0

    def update(self, loss: float) -> bool:
        """Whether to stop after the epoch that ended with this loss."""
        if loss < self.lowest - self.smallest_gain:
            self.lowest, self.stalled = loss, 0
        else:
            self.stalled += 1
        return self.stop

    @property
    def stop(self) -> bool:
        """Whether the last epochs have exhausted the patience."""
        return self.stalled >= self.patience

    def state_dict(self) -> dict[str, Any]:
        """What has been seen, as plain values; patience and gain are settings, not state."""
        return {"lowest": self.lowest, "stalled": self.stalled}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.lowest, self.stalled = float(state["lowest"]), int(state["stalled"])


class LowestLosses:
    """The lowest value of each of some validation losses, for the checkpoints that are kept beside the latest.

    Args:
        names: of the losses; ``auxiliary``, ``verification`` and ``total`` in adversarial training.
    """

    def __init__(self, *names: str) -> None:
        self.lowest = dict.fromkeys(names, math.inf)

    def update(self, losses: dict[str, float]) -> list[str]:
        """Names of the losses that are lower than ever after this epoch."""
        improved = [name for name, lowest in self.lowest.items() if losses[name] < lowest]
        self.lowest.update({name: losses[name] for name in improved})
        return improved

    def state_dict(self) -> dict[str, Any]:
        """The lowest values by name."""
        return dict(self.lowest)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.lowest = {name: float(state[name]) for name in self.lowest}
