"""The workers of a training run as one of them sees them: who it is, and what all of them do together."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from prichexy.training.compute import bare


@dataclass(frozen=True)
class World:
    """One worker among some, which have a process group (gloo on CPUs, NCCL on GPUs); or one alone, without.

    Attributes:
        rank: which worker this is, from 0; the first one writes checkpoints.
        size: how many there are.
        device: where this one computes.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def shared(self, network: nn.Module) -> nn.Module:
        """The network, its gradients averaged over the workers, or as it is when there is only one."""
        if self.size == 1:
            return network
        devices = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(network, device_ids=devices)

    def gather(self, values: Tensor) -> Tensor:
        """Rows of all workers, as if one had them: worker r's k-th row becomes row k * size + r.

        Args:
            values: this worker's rows; the first workers may have one more than the others.
        """
        if self.size == 1:
            return values
        counts = [torch.zeros(1, dtype=torch.int64, device=values.device) for _ in range(self.size)]
        dist.all_gather(counts, torch.tensor([len(values)], device=values.device))
        rows = [int(count) for count in counts]
        padded = values.new_zeros((max(rows), *values.shape[1:]))
        padded[: len(values)] = values
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(parts, padded)
        return torch.stack(parts, dim=1).flatten(0, 1)[: sum(rows)]

    def mean(self, values: Mapping[str, float]) -> dict[str, float]:
        """Each value's mean over the workers."""
        if self.size == 1:
            return dict(values)
        total = torch.tensor(list(values.values()), dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return dict(zip(values, (total / self.size).tolist(), strict=True))

    def agreed(self, value: Any) -> Any:
        """The first worker's value, for all."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, device=self.device)
        return box[0]

    def align(self, networks: Iterable[nn.Module]) -> None:
        """Give all workers the first one's batch-norm statistics, so that all validate the same network.

        Without synchronized batch norm each worker normalizes by the statistics of its own part of a batch.
        """
        if self.size > 1:
            for network in networks:
                for buffer in bare(network).buffers():
                    dist.broadcast(buffer, src=0)
