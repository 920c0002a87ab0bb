import time
from pathlib import Path

import pytest

from prichexy.errors import PrichexyError, UsageError
from prichexy.obfuscation import create_untrained, load
from prichexy.registry import Registry


@pytest.fixture
def model(tmp_path: Path) -> Path:
    create_untrained("flow-field", tmp_path / "model", 3, {"features": 4, "mu": 0.005, "operator": "reference"})
    return tmp_path / "model"


def test_a_registered_model_comes_back_with_its_settings_and_weights(
    registry: Registry, model: Path, tmp_path: Path
) -> None:
    made = registry.register(model, "roundtrip", "a test")
    (tmp_path / "there").mkdir()
    found = registry.fetch(f"models:/roundtrip/{made.version}", tmp_path / "there")
    assert (found.name, found.version, found.audited) == ("roundtrip", "1", False)
    assert (found.settings.mu, found.settings.operator, found.settings.image_size) == (0.005, "reference", 256)
    assert found.fingerprint == made.fingerprint
    assert load(found.folder).settings == load(model).settings


def test_versions_count_up_and_an_alias_finds_its_version(registry: Registry, model: Path, tmp_path: Path) -> None:
    versions = [registry.register(model, "counted", "a test").version for _ in range(2)]
    assert versions == ["1", "2"]
    with registry.asked() as client:
        client.set_registered_model_alias("counted", "champion", "1")
    assert registry.fetch("models:/counted@champion", tmp_path / "a").version == "1"
    listed = [model for model in registry.list() if model.name == "counted"]
    assert [(model.version, model.aliases) for model in listed] == [("2", ()), ("1", ("champion",))]


def test_altered_files_are_refused(registry: Registry, model: Path, tmp_path: Path) -> None:
    made = registry.register(model, "altered", "a test")
    with registry.asked() as client:
        stored = Path(client.get_model_version_download_uri("altered", made.version))
    settings = stored / "obfuscation.json"
    settings.write_text(settings.read_text().replace("0.005", "0.001"))
    with pytest.raises(PrichexyError, match="not those that were registered"):
        registry.fetch("models:/altered/1", tmp_path / "b")


@pytest.mark.parametrize("uri", ["models:/absent/1", "models:/absent@champion", "models:/roundtrip/99"])
def test_an_absent_model_is_a_users_mistake(registry: Registry, tmp_path: Path, uri: str) -> None:
    with pytest.raises(UsageError, match=f"there is no {uri} in the registry"):
        registry.fetch(uri, tmp_path)


def test_an_unreachable_registry_is_told_in_seconds_without_its_password(model: Path, tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(PrichexyError) as caught:
        Registry("http://user:hunter2@127.0.0.1:9").register(model, "m", "a test")
    assert "the model registry http://127.0.0.1:9 can't be used" in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert time.monotonic() - began < 30


def test_a_local_database_is_that_of_the_folder_one_is_in(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        Registry("sqlite:///mlflow.db").register(model, name, "a test")
        assert [model.name for model in Registry("sqlite:///mlflow.db").list()] == [name]
