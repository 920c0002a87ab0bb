"""A generator made ready to obfuscate by torch on an NVIDIA GPU: folded, frozen, captured for one size of batch.

Shape suffixes: N batch, 1 the grey channel, C channel, S side.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from prichexy.networks.inference import exact_convolutions, fold_batch_norm
from prichexy.obfuscation.cuda.batch_size import Trial, find_batch
from prichexy.obfuscation.cuda.epilogues import EPILOGUE, Epilogue, with_epilogue
from prichexy.obfuscation.cuda.levels import LevelBatches, levels_of, units_of
from prichexy.obfuscation.cuda.queues import CudaQueues, Queues, Work
from prichexy.obfuscation.settings import Precision

MOST_IMAGES = 16
"""Images in a batch at most: a chunk of the job has 16 or 64, and what a batch lacks of its size is computed anyway."""

_MEMORY_SHARE = 0.25
"""Of the GPU's free memory, what a batch may take: work may be captured twice, with and without the grey levels."""

_TIMED_RUNS = 10

Deform = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""From images (N, 1, S, S) in [0, 1] and the network's outputs for them, float32, to images of the same form, and (N,)
whether all that was computed of an image are numbers."""


class CudaNetwork:
    """A network's outputs without gradients, in float32 whatever it computes in; see `NetworkEngine`.

    Batch norms are folded, memory is channels-last, weights are rounded once. The network is a CUDA graph for batches
    of one size, which is found when it is first needed; a smaller batch is padded.

    An image's result is meant to be the same bits whatever the images beside it, its place among them, and the number
    of them in a call: always the same kernels run, deterministic ones, which add an image's numbers in an order of
    their own. It may differ by the precision's rounding with another size of batch, GPU or version of cuDNN, for which
    cuDNN may choose other kernels, and two starts of a job may find two sizes: `batch` fixes one.

    No GPU has run this yet: `tests/bench/gpu_network.py` measures what is claimed here, and speed and memory.

    Args:
        network: a generator with its weights; it is copied.
        precision: what the convolutions compute in; float32 is not rounded to TF32.
        image_size: side S of the images.
        device: of type ``cuda``.
        batch: images in a batch; found by trial when None.
        epilogue: how bias and ReLU are computed.
        queues: the device's, for tests without a GPU.
    """

    def __init__(
        self,
        network: nn.Module,
        precision: Precision,
        image_size: int,
        device: torch.device | str = "cuda",
        *,
        batch: int | None = None,
        epilogue: Epilogue = EPILOGUE,
        queues: Queues | None = None,
    ) -> None:
        self.queues = queues or CudaQueues(device)
        self.device = self.queues.device
        self._size, self._batch = image_size, batch
        self._dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
        folded = with_epilogue(
            fold_batch_norm(network), epilogue
        )  # rounded afterwards, so that weights are rounded once
        self.network = folded.to(self.device, self._dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._alone: tuple[Tensor, Tensor, Work] | None = None

    @property
    def batch(self) -> int:
        """Images that are computed at once; found by trial at first use unless it was given.

        Raises:
            UsageError: the GPU has no memory for one image.
        """
        if self._batch is None:
            budget = int(_MEMORY_SHARE * self.queues.free_bytes())
            self._batch = find_batch(self.trial, budget, MOST_IMAGES).batch
        return self._batch

    def __call__(self, images_NCHW: Tensor) -> Tensor:
        """Outputs of the network, float32, on its device.

        Args:
            images_NCHW: values in [0, 1], shape (N, 1, S, S), on any device.

        Raises:
            ValueError: the shape is another.
        """
        side = self._size
        if tuple(images_NCHW.shape[1:]) != (1, side, side):
            raise ValueError(f"expected images (N, 1, {side}, {side}), not {tuple(images_NCHW.shape)}")
        if self._alone is None:
            self._alone = self._captured_alone(self.batch)
        units_N1SS, outputs_NCSS, run = self._alone
        images = images_NCHW.detach().to(self.device, torch.float32)
        results = torch.empty((len(images), *outputs_NCSS.shape[1:]), dtype=torch.float32, device=self.device)
        with self.queues.joined():
            for first in range(0, len(images), self.batch):
                part = images[first : first + self.batch]
                units_N1SS[: len(part)].copy_(part)
                run()
                results[first : first + len(part)].copy_(outputs_NCSS[: len(part)])
        return results

    def on_levels(self, deform: Deform) -> LevelBatches:
        """Grey levels in, deformed grey levels out, all between captured with the network.

        Args:
            deform: of torch operations that can be captured.
        """

        @torch.no_grad()
        def compute(levels_N1SS: Tensor, tops_N111: Tensor) -> tuple[Tensor, Tensor]:
            units_N1SS = units_of(levels_N1SS, tops_N111)
            with exact_convolutions():
                deformed_N1SS, sound_N = deform(units_N1SS, self.outputs(units_N1SS))
            return levels_of(deformed_N1SS, tops_N111), sound_N

        return LevelBatches(self.queues, self.batch, self._size, compute)

    @torch.no_grad()
    def outputs(self, units_N1SS: Tensor) -> Tensor:
        """Outputs for a batch on the device as torch computes them, neither padded nor captured: float32."""
        inputs = units_N1SS.to(self._dtype).contiguous()
        # The same memory, but told as channels-last: of one channel torch takes it for channels-first otherwise, the
        # first layer writes so, and the second turns it.
        side = self._size
        inputs = inputs.as_strided(inputs.shape, (side * side, 1, side, 1))
        with exact_convolutions():
            outputs: Tensor = self.network(inputs)
        return outputs.float().contiguous()

    def trial(self, batch: int) -> Trial | None:
        """How a batch of a size does, captured alone; None if the memory does not suffice."""
        before = self.queues.taken_bytes()
        try:
            _, _, run = self._captured_alone(batch)
        except torch.OutOfMemoryError:
            return None
        taken = self.queues.taken_bytes() - before
        return Trial(batch, self.queues.seconds(run, _TIMED_RUNS), max(0, taken))

    def _captured_alone(self, batch: int) -> tuple[Tensor, Tensor, Work]:
        """The network by itself: memory for images and for outputs, and the work between."""
        side = self._size
        units_N1SS = self.queues.device_memory((batch, 1, side, side), torch.float32)
        units_N1SS.view(-1).copy_(torch.linspace(0, 1, units_N1SS.numel()))  # zeros would be computed faster
        with self.queues.joined():
            channels = self.outputs(units_N1SS).shape[1]
        outputs_NCSS = self.queues.device_memory((batch, channels, side, side), torch.float32)

        def work() -> None:
            outputs_NCSS.copy_(self.outputs(units_N1SS))

        return units_N1SS, outputs_NCSS, self.queues.captured(work)
