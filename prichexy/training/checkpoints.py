"""Checkpoints of one stage in a folder or bucket: the latest two, and the networks of each lowest validation loss.

A checkpoint is one object that ends in the SHA-256 of what stands before. It is written whole (a rename, or a single
put), so that a kill leaves all of it or nothing; one that was damaged later is noticed, and the one before is used.
(Ray Train's own checkpoints are folders, copied file by file, and kept by one metric; here three kinds are kept.)

    epoch-00012.ckpt                          all that training needs to go on after epoch 12
    lowest_total/generator.safetensors        each network at the epoch of the lowest total loss
    test.json                                 metrics of held-out patients, once training has ended
    history.json                              every epoch's metrics; derived from the latest checkpoint
    figures/epoch-00012.png
"""

import io
import json
import logging
import re
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

import torch
from torch import nn

from prichexy.lake.storage import Store
from prichexy.networks.checkpoints import State, load_safetensors_bytes, safetensors_bytes
from prichexy.training.compute import bare

log = logging.getLogger("prichexy.training.checkpoints")

KEPT = 2
"""The latest, and the one before, in case the latest is damaged."""

HISTORY, TEST = "history.json", "test.json"
DIGEST_BYTES = 32

_NAME = re.compile(r"epoch-(\d{5,})\.ckpt")


def below(store: Store, name: str) -> Store:
    """The place one level below another."""
    return Store(f"{store.uri.rstrip('/')}/{name}", store.options)


class Checkpoints:
    """The checkpoints of one stage.

    Args:
        store: the stage's place.
    """

    def __init__(self, store: Store) -> None:
        self.store = store

    def epochs(self) -> list[int]:
        """Epochs after which there is a checkpoint, the latest first."""
        found = (_NAME.fullmatch(item.path) for item in self.store.list())
        return sorted((int(match[1]) for match in found if match), reverse=True)

    def write(self, epoch: int, state: Mapping[str, Any]) -> None:
        """Store what training needs to go on after `epoch`, and drop the checkpoints before the last two.

        Raises:
            StorageFault: the store failed; the earlier checkpoints are still there.
        """
        buffer = io.BytesIO()
        torch.save(dict(state), buffer)
        content = buffer.getvalue()
        self.store.write(_name(epoch), content + sha256(content).digest())
        for old in self.epochs()[KEPT:]:
            self.store.delete(_name(old))

    def read(self, epoch: int) -> dict[str, Any] | None:
        """What `write` stored, on the CPU, or None if it is gone or not whole."""
        try:
            content = self.store.read(_name(epoch))
        except FileNotFoundError:
            return None
        if len(content) <= DIGEST_BYTES or sha256(content[:-DIGEST_BYTES]).digest() != content[-DIGEST_BYTES:]:
            log.warning("the checkpoint of epoch %d is damaged and is left out", epoch)
            return None
        state: dict[str, Any] = torch.load(io.BytesIO(content[:-DIGEST_BYTES]), map_location="cpu", weights_only=True)
        return state

    def latest(self) -> tuple[int, dict[str, Any]] | None:
        """Epoch and state of the latest whole checkpoint."""
        for epoch in self.epochs():
            state = self.read(epoch)
            if state is not None:
                return epoch, state
        return None

    def write_lowest(self, kind: str, networks: Mapping[str, nn.Module]) -> None:
        """Store the networks of the lowest loss of some kind, over those before.

        Killed between two of them, the run goes on from the epoch before and writes the same ones again.
        """
        for name, network in networks.items():
            self.store.write(f"lowest_{kind}/{name}.safetensors", safetensors_bytes(bare(network).state_dict()))

    def read_lowest(self, kind: str, network: str) -> State | None:
        """A network's weights at the lowest loss of some kind, on the CPU, or None."""
        try:
            return load_safetensors_bytes(self.store.read(f"lowest_{kind}/{network}.safetensors"))
        except FileNotFoundError:
            return None

    def write_history(self, history: list[dict[str, float]]) -> None:
        """Store every epoch's metrics, for those who look on."""
        self.store.write(HISTORY, json.dumps(history).encode())

    def read_history(self) -> list[dict[str, float]]:
        """Every epoch's metrics; empty before the first epoch has ended."""
        try:
            history: list[dict[str, float]] = json.loads(self.store.read(HISTORY))
        except FileNotFoundError:
            return []
        return history

    def write_test(self, metrics: Mapping[str, float]) -> None:
        """Store the metrics of held-out patients."""
        self.store.write(TEST, json.dumps(dict(metrics)).encode())

    def read_test(self) -> dict[str, float]:
        """The metrics of held-out patients; empty before the stage has ended, and without a test split."""
        try:
            metrics: dict[str, float] = json.loads(self.store.read(TEST))
        except FileNotFoundError:
            return {}
        return metrics

    def write_figure(self, epoch: int, png: bytes) -> None:
        """Store an epoch's figure."""
        self.store.write(f"figures/{figure_name(epoch)}", png)

    def read_figure(self, epoch: int) -> bytes | None:
        """An epoch's figure, PNG, or None."""
        try:
            return self.store.read(f"figures/{figure_name(epoch)}")
        except FileNotFoundError:
            return None


def figure_name(epoch: int) -> str:
    """File name of an epoch's figure."""
    return f"epoch-{epoch:05d}.png"


def _name(epoch: int) -> str:
    return f"epoch-{epoch:05d}.ckpt"
