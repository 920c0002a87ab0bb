"""One of some gloo workers that train small networks adversarially: `python -m ... RANK SIZE MEETING TABLE OUT`.

The networks have no batch norm, whose statistics differ between workers by design.
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from prichexy.cohort.pairs import draw_pairs
from prichexy.cohort.table import open_table
from prichexy.config import StorageConfig
from prichexy.lake.storage import Store
from prichexy.obfuscation import ObfuscationSettings
from prichexy.training.adversarial_step import (
    AdversarialSettings,
    Networks,
    Optimisers,
    adversarial_step,
    evaluate_adversarial,
)
from prichexy.training.batches import LabelledPairs
from prichexy.training.checkpoints import Checkpoints
from prichexy.training.compute import adam, bare, sgd
from prichexy.training.epochs import Course, Stage, train_stage
from prichexy.training.samples import Samples, labelled_pairs
from prichexy.training.seeds import seed_everything
from prichexy.training.world import World


class Siamese(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = features(16)
        self.end = nn.Linear(16, 1)

    def forward(self, first_P1HW: Tensor, second_P1HW: Tensor) -> Tensor:
        logits_P1: Tensor = self.end(torch.abs(self.embed(first_P1HW) - self.embed(second_P1HW)))
        return logits_P1


def features(outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 8, 5, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(128, outputs)
    )


def field() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 8, 5, padding=2), nn.ReLU(), nn.Conv2d(8, 2, 5, padding=2), nn.Tanh())


def main(rank: int, size: int, meeting: str, table: str, out: str) -> None:
    torch.set_num_threads(1)
    if size > 1:
        dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=size)
    world, opened = World(rank, size), open_table(table, StorageConfig())
    seed_everything(3)
    networks = Networks(world.shared(field()), world.shared(Siamese()), world.shared(features(14)))
    optimisers = Optimisers(adam(networks[0], 1e-3), adam(networks[1], 1e-3), sgd(networks[2], 1e-2))
    settings = AdversarialSettings(ObfuscationSettings(kind="flow-field", image_size=64, mu=0.05))

    def samples(split: str) -> Samples[LabelledPairs]:
        rows = opened.split(split)
        return labelled_pairs(rows, draw_pairs(rows.patients, 64, 3))

    stage = Stage(
        "adversarial",
        networks._asdict(),
        optimisers._asdict(),
        samples("train"),
        samples("validation"),
        None,
        lambda batch, step: adversarial_step(batch, networks, optimisers, settings, step),
        lambda batches, gather: evaluate_adversarial(Networks(*map(bare, networks)), batches, settings, gather),
        watched="total",
        kept=("auxiliary", "verification", "total"),
        course=Course(epochs=3, batch=16),
    )
    train_stage(stage, world, Checkpoints(Store(out)), seed=3)
    if size > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), str(Path(sys.argv[3]).absolute()), sys.argv[4], sys.argv[5])
