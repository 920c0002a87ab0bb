"""PriCheXy-Net: each radiograph deformed by a field that a network predicts (arXiv 2209.11531, section 2.1).

Shape suffixes: N batch, 1 the grey channel, 2 the axes (x, y), H height, W width.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import cached_property

import torch
from torch import Tensor, nn

from prichexy.imaging.radiograph import Pixels
from prichexy.networks import deformation
from prichexy.networks.inference import exact_convolutions
from prichexy.obfuscation.cuda.levels import LevelBatches
from prichexy.obfuscation.cuda.native_warp import NativeWarp
from prichexy.obfuscation.cuda.network import CudaNetwork
from prichexy.obfuscation.engines import frozen
from prichexy.obfuscation.grey_warp import warp_grey_levels
from prichexy.obfuscation.protocol import check_batch, checked_natives
from prichexy.obfuscation.settings import ObfuscationSettings

NativeDeform = Callable[[Pixels, Tensor, int], Pixels]
"""From grey levels (H, W), a normalised displacement (2, S, S) and the bit depth to the deformed grey levels."""

NATIVE_ON_GPU = True
"""Whether a GPU that predicts a field also deforms the native image. Not measured yet: a generator actor has one core,
and 21 ms of it for 2500 x 3000 pixels (`warp_grey_levels`) would hold its GPU to 48 images a second, whatever that can.
`tests/bench/gpu_network.py` measures both."""


class FlowField:
    """Deforms images by their predicted fields; see `Obfuscator`.

    Args:
        settings: of kind ``flow-field``.
        generator: the network with its weights; it is copied.
        device: where the network and the warping run.
    """

    native = True
    keyed = False

    def __init__(self, settings: ObfuscationSettings, generator: nn.Module, device: torch.device | str = "cpu") -> None:
        if settings.mu is None or settings.operator is None or settings.precision is None:
            raise ValueError("FlowField needs settings of kind 'flow-field'")
        self.settings = settings
        self._mu, self._operator = settings.mu, settings.operator
        self._generator = frozen(generator, settings, device)

    @property
    def device(self) -> torch.device:
        """Where fields are predicted, and images deformed."""
        return self._generator.device

    def displacement(self, images_N1HW: Tensor, seeds_N: Tensor | None = None) -> Tensor:
        """Normalised displacement of each image, float32, shape (N, 2, S, S); what an audit measures.

        Seeds are ignored.
        """
        return self._displacement(self._generator(images_N1HW))

    @cached_property
    def levels(self) -> LevelBatches | None:
        """Grey levels in, deformed ones out, at the network's resolution, where images cross to a GPU and back as such
        (engine ``cuda-graph``); None elsewhere.
        """
        if not isinstance(self._generator, CudaNetwork):
            return None
        return self._generator.on_levels(self._deform_soundly)

    @cached_property
    def native_levels(self) -> NativeDeform | None:
        """Deforms grey levels of any size and of a bit depth by a displacement that lies on this device: on the GPU
        with engine ``cuda-graph``, if that is cheaper (`NATIVE_ON_GPU`), else on the CPU; None for torch on a GPU,
        which deforms in float32.
        """
        if isinstance(self._generator, CudaNetwork) and NATIVE_ON_GPU:
            return NativeWarp(self._generator.queues)
        if self.device.type != "cpu" and not isinstance(self._generator, CudaNetwork):
            return None
        return lambda pixels_HW, displacement_2hw, _: warp_grey_levels(pixels_HW, displacement_2hw.cpu())

    def __call__(self, images_N1HW: Tensor, seeds_N: Tensor) -> Tensor:
        """Deformed images at the network's resolution; seeds are ignored."""
        check_batch(images_N1HW, seeds_N, self.settings.image_size)
        return self._deform(images_N1HW, self.displacement(images_N1HW))

    def at_native(self, thumbnails_N1HW: Tensor, natives: Iterable[Tensor], seeds_N: Tensor) -> Iterator[Tensor]:
        """Native images deformed by the fields of their thumbnails; seeds are ignored."""
        check_batch(thumbnails_N1HW, seeds_N, self.settings.image_size)
        displacements = torch.split(self.displacement(thumbnails_N1HW), 1)
        paired = zip(checked_natives(natives, len(thumbnails_N1HW)), displacements, strict=False)
        return (self._deform(native[None], displacement_12HW)[0] for native, displacement_12HW in paired)

    @torch.no_grad()
    def _displacement(self, flow_N2HW: Tensor) -> Tensor:
        with exact_convolutions():  # the published operator's smoothing is one
            return deformation.displacement(flow_N2HW, self._mu, self._operator)

    def _deform_soundly(self, images_N1HW: Tensor, flow_N2HW: Tensor) -> tuple[Tensor, Tensor]:
        """Deformed images, and for each whether field and image are numbers."""
        displacement_N2HW = self._displacement(flow_N2HW)
        deformed_N1HW = self._deform(images_N1HW, displacement_N2HW)
        finite = [part.isfinite().flatten(1).all(dim=1) for part in (displacement_N2HW, deformed_N1HW)]
        return deformed_N1HW, finite[0] & finite[1]

    @torch.no_grad()
    def _deform(self, images_N1HW: Tensor, displacement_N2HW: Tensor) -> Tensor:
        height, width = images_N1HW.shape[-2:]
        grid_NHW2 = deformation.grid_at(displacement_N2HW, height, width)
        deformed = deformation.warp(images_N1HW.to(grid_NHW2.device, torch.float32), grid_NHW2)
        return deformed.clamp_(0, 1).to(images_N1HW.device)  # interpolation weights may sum to 1 + 1e-7
