"""The golden vectors and the images that they were made of."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor


@pytest.fixture(scope="session")
def vectors(golden: Path) -> dict[str, np.ndarray]:
    with np.load(golden / "reference_dev.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="session")
def golden_images(real_data: Path, vectors: dict[str, np.ndarray]) -> Tensor:
    folder = real_data / "chestxray14" / "images_256"
    grey = [np.asarray(Image.open(folder / name).convert("L"), dtype=np.float32) / 255 for name in vectors["files"]]
    return torch.from_numpy(np.stack(grey))[:, None]
