"""What the GPU's benchmarks measure on: a device, images, a network, and time that runs out."""

import os
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from prichexy.imaging import resize
from prichexy.networks.flow_generator import FlowFieldGenerator
from prichexy.obfuscation.cuda.epilogues import EPILOGUE, Epilogue
from prichexy.obfuscation.cuda.network import CudaNetwork
from prichexy.obfuscation.cuda.queues import CudaQueues, HostQueues, Queues
from prichexy.obfuscation.flow_field import FlowField
from prichexy.obfuscation.model_files import new_network, read
from prichexy.obfuscation.settings import ObfuscationSettings, Precision
from tests.bench.network_ceiling import SIDE, multiply_adds
from tests.networks.rule_weights import rule_state

BESIDE = Path(__file__).resolve().parents[3] / "shared" / "data"
Section = Callable[["Bench"], Iterator[tuple[str, Any]]]


@dataclass
class Bench:
    """What sections share.

    Attributes:
        device: ``cuda``, or ``cpu`` for a rehearsal that shows only that the script runs.
        small: few and small of everything, for the rehearsal.
        images: how many to compare with the CPU.
        folder: of PNG files, or None for those beside the checkout, or phantoms.
        model: folder of a trained flow-field model, or None for weights by the golden vectors' rule.
        deadline: by `time.monotonic`, when no further measurement begins.
        found: figures of sections that came before.
    """

    device: str
    small: bool
    images: int
    folder: Path | None
    model: Path | None
    deadline: float
    found: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def queues(self) -> Queues:
        return CudaQueues(self.device) if self.device == "cuda" else HostQueues()

    @cached_property
    def settings(self) -> ObfuscationSettings:
        if self.model is not None:
            return read(self.model)[0].model_copy(update={"engine": "torch"})
        features, side = (4, 64) if self.small else (32, 256)
        return ObfuscationSettings(kind="flow-field", mu=0.01, features=features, image_size=side)

    @property
    def side(self) -> int:
        return self.settings.image_size

    @cached_property
    def network(self) -> nn.Module:
        if self.model is not None:
            network, state = new_network(self.settings), read(self.model)[1]
            assert network is not None
        else:
            network = FlowFieldGenerator(features=self.settings.features or 32)
            shapes = {key: (list(value.shape), str(value.dtype)[6:]) for key, value in network.state_dict().items()}
            state = rule_state(shapes)
        network.load_state_dict(state)
        return network.eval()

    @cached_property
    def operations(self) -> int:
        """Multiplications and additions for an image."""
        return multiply_adds(self.network) * self.side**2 // SIDE**2

    @cached_property
    def natives(self) -> list[np.ndarray[Any, Any]]:
        """Radiographs of 8 bits at their own size."""
        folder = self.folder or Path(os.environ.get("PRICHEXY_REAL_DATA", BESIDE)) / "chestxray14" / "images_1024"
        files = sorted(folder.glob("*.png"))
        self.found["images"] = "radiographs" if files else "phantoms"
        if files:
            return [np.array(Image.open(file).convert("L")) for file in files[:: max(1, len(files) // self.images)]][
                : self.images
            ]
        from prichexy.cohort.phantom import PhantomCohort, render

        cohort = PhantomCohort(self.images, seed=7, size=1024).studies[: self.images]
        return [render(study, 8) for study in cohort]

    @cached_property
    def levels(self) -> list[np.ndarray[Any, Any]]:
        """The same at the network's size."""
        return [resize(image, self.side, self.side) for image in self.natives]

    def engine(
        self, precision: Precision = "bfloat16", batch: int | None = 16, epilogue: Epilogue = EPILOGUE
    ) -> CudaNetwork:
        return CudaNetwork(
            self.network, precision, self.side, self.device, batch=batch, epilogue=epilogue, queues=self.queues
        )

    def obfuscator(self, engine: CudaNetwork) -> FlowField:
        """A flow field as the job makes it, on an engine of one's choice."""
        made = FlowField(self.settings, nn.Identity(), "cpu")
        made._generator = engine
        return made

    def reference(self) -> FlowField:
        """Torch in float32 on the CPU, which every engine is compared with."""
        return FlowField(self.settings.model_copy(update={"precision": "float32"}), self.network, "cpu")

    def late(self) -> bool:
        return time.monotonic() > self.deadline

    def release(self) -> None:
        """Give memory of graphs that are gone back to the device."""
        if self.device == "cuda":
            torch.cuda.synchronize()
            torch.cuda.empty_cache()


def tried(measure: Callable[..., Any], *given: Any) -> Any:
    """What was measured, or what went wrong: one way that does not work leaves the others their turn."""
    try:
        return measure(*given)
    except Exception as error:
        return {"error": " ".join(f"{type(error).__name__}: {error}".split())[:300], "at": _place(error)}


def _place(error: BaseException) -> list[str]:
    frames = traceback.extract_tb(error.__traceback__)[-3:]
    return [f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames]
