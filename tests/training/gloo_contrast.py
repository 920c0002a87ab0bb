"""One of some gloo workers that learn from all comparisons of a batch: `python -m ... RANK SIZE MEETING OUT`.

The network has the verifier's heads, but no batch norm, whose statistics differ between workers by design.
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from prichexy.training.batches import PatientPairs
from prichexy.training.compute import Compute, bare, sgd
from prichexy.training.verifier_step import patients_step
from prichexy.training.world import World


class Siamese(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Conv2d(1, 8, 5, 4), nn.Tanh(), nn.AdaptiveAvgPool2d(4), nn.Flatten())
        self.fc_end = nn.Linear(1, 1)
        nn.init.constant_(self.fc_end.weight, 4.0)

    def forward(self, images_N1HW: Tensor) -> Tensor:
        return F.normalize(self.model(images_N1HW), dim=1)

    def compare_all(self, queries_QE: Tensor, gallery_GE: Tensor) -> Tensor:
        return self.fc_end.weight * (queries_QE @ gallery_GE.T) + self.fc_end.bias


def main(rank: int, size: int, meeting: str, out: Path) -> None:
    torch.set_num_threads(1)
    if size > 1:
        dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=size)
    world = World(rank, size)
    torch.manual_seed(3)
    network = world.shared(Siamese())
    optimiser = sgd(network, 0.2)
    random = torch.Generator().manual_seed(4)
    losses = []
    for step in range(8):
        first, second = (F.interpolate(torch.rand(8, 1, 4, 4, generator=random), size=64) for _ in range(2))
        part = slice(rank, None, size)
        batch = PatientPairs(first[part], (first / 2 + second / 2)[part], (torch.arange(8) // 2)[part])
        losses.append(patients_step(batch, network, optimiser, Compute(channels_last=False), world, step)["verifier"])
    torch.save({"losses": losses, "weights": bare(network).state_dict()}, out / f"{rank}-of-{size}.pt")
    if size > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), str(Path(sys.argv[3]).absolute()), Path(sys.argv[4]))
