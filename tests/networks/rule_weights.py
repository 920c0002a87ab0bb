"""The rule that fills a network with weights which every implementation can rebuild (golden vectors' README)."""

import json
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


def _values(key: str, shape: list[int]) -> np.ndarray:
    rng = np.random.RandomState(zlib.crc32(key.encode()))
    if key.endswith("running_var"):
        return 1 + 0.1 * rng.rand(*shape)
    if key.endswith("running_mean"):
        return 0.05 * rng.randn(*shape)
    if len(shape) == 1 and key.endswith("weight"):
        return 1 + 0.1 * rng.randn(*shape)
    if len(shape) == 1:
        return 0.05 * rng.randn(*shape)
    return rng.randn(*shape) * np.sqrt(2 / np.prod(shape[1:]))


def rule_state(shapes: dict[str, tuple[list[int], str]]) -> dict[str, Tensor]:
    """State dict for key names with (shape, dtype), as `state_dict_shapes.json` lists them."""
    state = {}
    for key, (shape, dtype) in shapes.items():
        if dtype.startswith("float"):
            state[key] = torch.from_numpy(np.asarray(_values(key, shape), dtype=np.float32))
        else:
            state[key] = torch.zeros(shape, dtype=getattr(torch, dtype))
    return state


def published_shapes(golden: Path, network: str) -> dict[str, tuple[list[int], str]]:
    """Key names, shapes and dtypes of a published checkpoint."""
    shapes = json.loads((golden / "state_dict_shapes.json").read_text())[network]
    return {key: (shape, dtype) for key, (shape, dtype) in shapes.items()}
