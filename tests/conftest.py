"""Fixtures shared by all tests: the real radiographs and golden vectors (beside the checkout, never inside it)."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


def _folder(variable: str, default: Path, what: str) -> Path:
    folder = Path(os.environ.get(variable, default))
    if not folder.is_dir():
        pytest.skip(f"{what} not found: set {variable} or place them at ../shared beside the checkout")
    return folder


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder that holds ``chestxray14/`` (part of NIH ChestX-ray14)."""
    return _folder("PRICHEXY_REAL_DATA", SHARED / "data", "the real radiographs are")


@pytest.fixture(scope="session")
def golden() -> Path:
    """Folder that holds ``reference_dev.npz`` and ``state_dict_shapes.json``."""
    return _folder("PRICHEXY_GOLDEN", SHARED / "golden", "the golden vectors are")


@pytest.fixture(scope="session", autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Ray writes a token into the home folder; tests and what they start get a home of their own."""
    patch = pytest.MonkeyPatch()
    patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
    patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    for variable in ("RAY_ADDRESS", "PRICHEXY_SECRET_FILE", "MLFLOW_TRACKING_URI"):
        patch.delenv(variable, raising=False)
    yield
    patch.undo()


@pytest.fixture(scope="session")
def local_ray(_own_home: None) -> Iterator[None]:
    """One local Ray for all tests that need one: its start takes seconds."""
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def secret_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project secret."""
    path = tmp_path_factory.mktemp("secret") / "project.key"
    path.write_bytes(bytes(range(32)))
    return path
