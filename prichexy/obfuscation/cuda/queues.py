"""Queues of a device's work: each is done in order, and beside the others unless it is told to wait for one.

No GPU has run `CudaQueues` yet. What is built on it was proven on queues that do their work late and in any order that
is allowed (`tests/obfuscation/late_queues.py`); `tests/bench/gpu_network.py` is to show the rest.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

Queue = Literal["in", "compute", "out"]
Work = Callable[[], None]

_WARM_UPS = 3
"""Runs before work is captured: that libraries load kernels and choose algorithms can't be captured."""


class Queues(Protocol):
    """A device with three queues: copies to it, work on it, copies from it."""

    @property
    def device(self) -> torch.device:
        """Whose they are."""
        ...

    def host_memory(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Zeros in the host's memory that copies reach without detour (page-locked)."""
        ...

    def device_memory(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Zeros in the device's memory."""
        ...

    def put(self, queue: Queue, work: Work) -> None:
        """Have work done after all that is in the queue; returns at once."""
        ...

    def mark(self, queue: Queue) -> Any:
        """A mark behind all that is in the queue."""
        ...

    def wait(self, queue: Queue, mark: Any) -> None:
        """Have the queue go on only when a mark of another is reached; returns at once."""
        ...

    def reached(self, mark: Any) -> None:
        """Return when the mark is reached."""
        ...

    def captured(self, work: Work) -> Work:
        """The same work on the same memory, made ready to be put into ``compute`` again and again.

        It is done a few times on the way, and must not depend on values that the host holds.
        """
        ...

    def joined(self) -> AbstractContextManager[None]:
        """Within it torch computes in the queue ``compute``, after all that the caller asked of the device; what the
        caller asks of it afterwards comes after that.
        """
        ...

    def seconds(self, work: Work, times: int) -> float:
        """Seconds that captured work takes, the mean of several runs after one that does not count."""
        ...

    def free_bytes(self) -> int:
        """Of the device's memory, what nobody uses."""
        ...

    def taken_bytes(self) -> int:
        """Of the device's memory, what this process uses."""
        ...


class CudaQueues:
    """CUDA streams; captured work is a CUDA graph with memory of its own. See `Queues`.

    Args:
        device: of type ``cuda``; the current one unless it has an index.
    """

    def __init__(self, device: torch.device | str = "cuda") -> None:
        asked = torch.device(device)
        self.device = torch.device("cuda", torch.cuda.current_device() if asked.index is None else asked.index)
        names: tuple[Queue, ...] = ("in", "compute", "out")
        self._streams = {name: torch.cuda.Stream(self.device) for name in names}  # type: ignore[no-untyped-call]

    def host_memory(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Page-locked zeros."""
        with torch.inference_mode(False):  # memory that is written to in and out of inference mode
            return torch.zeros(shape, dtype=dtype, pin_memory=True)

    def device_memory(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Zeros, there when the call returns."""
        with torch.inference_mode(False):
            zeros = torch.zeros(shape, dtype=dtype, device=self.device)
        torch.cuda.current_stream(self.device).synchronize()  # the queues don't wait for the stream that fills it
        return zeros

    def put(self, queue: Queue, work: Work) -> None:
        """Have work done in a stream."""
        with torch.cuda.stream(self._streams[queue]):
            work()

    def mark(self, queue: Queue) -> torch.cuda.Event:
        """An event; who waits for it leaves its core to others."""
        event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        event.record(self._streams[queue])
        return event

    def wait(self, queue: Queue, mark: torch.cuda.Event) -> None:
        """Have a stream wait for an event."""
        self._streams[queue].wait_event(mark)

    def reached(self, mark: torch.cuda.Event) -> None:
        """Wait for an event."""
        mark.synchronize()

    def captured(self, work: Work) -> Work:
        """A CUDA graph's replay."""
        with self.joined():
            for _ in range(_WARM_UPS):
                work()
        graph = torch.cuda.CUDAGraph()
        # Other threads of a worker may go on using the GPU meanwhile; only this one's mistakes shall be errors.
        with torch.cuda.graph(graph, stream=self._streams["compute"], capture_error_mode="thread_local"):
            work()
        return graph.replay

    @contextmanager
    def joined(self) -> Iterator[None]:
        """The stream of ``compute`` between two waits."""
        outside, compute = torch.cuda.current_stream(self.device), self._streams["compute"]
        compute.wait_stream(outside)
        try:
            with torch.cuda.stream(compute):
                yield
        finally:
            outside.wait_stream(compute)

    def seconds(self, work: Work, times: int) -> float:
        """By the GPU's own clock."""
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        with self.joined():
            work()
            first.record()
            for _ in range(times):
                work()
            last.record()
        last.synchronize()
        return float(first.elapsed_time(last)) / 1000 / times

    def free_bytes(self) -> int:
        """Of the whole GPU."""
        return torch.cuda.mem_get_info(self.device)[0]

    def taken_bytes(self) -> int:
        """What torch has reserved, after it gave back what it only keeps for later: graphs that are gone."""
        torch.cuda.empty_cache()
        return torch.cuda.memory_reserved(self.device)


class HostQueues:
    """The CPU as if it were such a device: all is done at once, nothing is captured. See `Queues`.

    It shows that what runs on queues computes the right thing; no job uses it.
    """

    device = torch.device("cpu")

    def host_memory(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Zeros."""
        with torch.inference_mode(False):
            return torch.zeros(shape, dtype=dtype)

    device_memory = host_memory

    def put(self, queue: Queue, work: Work) -> None:
        """Do it."""
        work()

    def mark(self, queue: Queue) -> None:
        """Nothing to mark."""

    def wait(self, queue: Queue, mark: None) -> None:
        """Nothing to wait for."""

    def reached(self, mark: None) -> None:
        """It is."""

    def captured(self, work: Work) -> Work:
        """The work itself."""
        work()
        return work

    @contextmanager
    def joined(self) -> Iterator[None]:
        """Nothing to join."""
        yield

    def seconds(self, work: Work, times: int) -> float:
        """By the wall clock."""
        work()
        began = time.perf_counter()
        for _ in range(times):
            work()
        return (time.perf_counter() - began) / times

    def free_bytes(self) -> int:
        """Not looked at."""
        return sys.maxsize

    def taken_bytes(self) -> int:
        """Not looked at."""
        return 0
