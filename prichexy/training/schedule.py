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


class CosineDecay:
    """Schedule along half a cosine, from an optimiser's learning rate in its first epoch almost to 0 in its last.

    After Loshchilov and Hutter, arXiv 1608.03983, without restarts.

    Args:
        optimiser: whose learning rate it lowers.
        epochs: over which it falls.
    """

    def __init__(self, optimiser: Optimizer, epochs: int) -> None:
        self._optimiser = optimiser
        self._first = [float(group["lr"]) for group in optimiser.param_groups]
        self._epochs = epochs
        self.done = 0

    def step(self, loss: float) -> None:
        """Set the learning rate of the next epoch, after one has ended; the loss does not count."""
        self.done += 1
        share = (1 + math.cos(math.pi * min(1.0, self.done / self._epochs))) / 2
        for group, first in zip(self._optimiser.param_groups, self._first, strict=True):
            group["lr"] = first * share

    def state_dict(self) -> dict[str, Any]:
        """Epochs done; the learning rate itself is in the optimiser's state."""
        return {"done": self.done}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.done = int(state["done"])


def learning_rate_decay(
    optimiser: Optimizer, epochs: int, cosine: bool, patience: int | None
) -> CosineDecay | ReduceLROnPlateau | None:
    """The schedule that a stage's settings ask for, whose ``step(loss)`` is called after each epoch.

    Args:
        optimiser: whose learning rate it lowers.
        epochs: most epochs of the stage.
        cosine: the setting ``cosine_decay``, which goes before the other.
        patience: the setting ``decay_patience``.
    """
    if cosine:
        return CosineDecay(optimiser, epochs)
    return None if patience is None else decay_on_plateau(optimiser, patience)


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
