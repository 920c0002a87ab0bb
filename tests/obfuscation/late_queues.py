"""A device without a GPU: work waits in queues and is done late, in any order that the queues' rules allow."""

import random
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from prichexy.obfuscation.cuda.queues import Queue, Work

POISON = 77
"""What memory holds before anybody writes to it."""


@dataclass(eq=False)
class Mark:
    reached: bool = False


class LateQueues:
    """A seed stands for one of the orders in which a device may do what it was told; see `Queues`.

    Args:
        seed: of the order.
        log: gets what the host does: ``put in``, ``reached`` and so on.
    """

    device = torch.device("cpu")

    def __init__(self, seed: int, log: list[str] | None = None) -> None:
        self._random = random.Random(seed)
        self._log = log if log is not None else []
        self._queues: dict[Queue, deque[Work | Mark | tuple[Mark]]] = {
            "in": deque(),
            "compute": deque(),
            "out": deque(),
        }

    def host_memory(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.full(shape, POISON, dtype=torch.int64).to(dtype)

    device_memory = host_memory

    def put(self, queue: Queue, work: Work) -> None:
        self._log.append(f"put {queue}")
        self._queues[queue].append(work)
        self._some()

    def mark(self, queue: Queue) -> Mark:
        mark = Mark()
        self._queues[queue].append(mark)
        self._some()
        return mark

    def wait(self, queue: Queue, mark: Mark) -> None:
        self._queues[queue].append((mark,))
        self._some()

    def reached(self, mark: Mark) -> None:
        self._log.append("reached")
        while not mark.reached:
            self._step()

    def captured(self, work: Work) -> Work:
        work()
        return work

    @contextmanager
    def joined(self) -> Iterator[None]:
        while any(self._queues.values()):
            self._step()
        yield

    def seconds(self, work: Work, times: int) -> float:
        work()
        return 1.0

    def free_bytes(self) -> int:
        return sys.maxsize

    def taken_bytes(self) -> int:
        return 0

    def _some(self) -> None:
        """The device may do a little, or nothing, before the host goes on."""
        for _ in range(self._random.choice((0, 0, 1, 3))):
            self._step()

    def _step(self) -> None:
        """One thing at the head of a queue that does not wait."""
        heads = [(name, queue[0]) for name, queue in self._queues.items() if queue]
        ready = [name for name, head in heads if not isinstance(head, tuple) or head[0].reached]
        if not ready:
            assert not heads, "every queue waits: a mark was never made"
            return
        head = self._queues[self._random.choice(ready)].popleft()
        if isinstance(head, Mark):
            head.reached = True
        elif not isinstance(head, tuple):
            head()
