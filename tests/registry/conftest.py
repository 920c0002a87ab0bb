import pytest

from prichexy.registry import Registry


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """One for all tests, each with models of its own: making the database takes seconds."""
    return Registry(f"sqlite:///{tmp_path_factory.mktemp('registry')}/mlflow.db")
