from pathlib import Path

import pytest

from prichexy.lake.storage import Store
from tests.e2e.conftest import credentials, s3  # noqa: F401 - they are fixtures here too
from tests.publish.publications import published


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A finished publication of 40 images, two of them in quarantine."""
    return published(tmp_path / "out", bad=(3, 7))
