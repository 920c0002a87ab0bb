"""A learning rate that falls along half a cosine (Loshchilov and Hutter, arXiv 1608.03983, without restarts)."""

import math
from typing import Any

from torch.optim import Optimizer


class CosineDecay:
    """Schedule from an optimiser's learning rate, in its first epoch, down to almost 0 in its last.

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
