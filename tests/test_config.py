from pathlib import Path

import pytest

from prichexy.config import AnonymizeConfig, load, secret_file
from prichexy.errors import UsageError


def test_file_is_overridden_by_key_value_and_both_by_given_values(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("source: a\ndestination: b\nchunk: 4\nstorage: {region: one, attempts: 2}\n")
    config = load(AnonymizeConfig, tmp_path / "c.yaml", ["chunk=8", "storage.region=two"], destination="c", model=None)
    assert (config.source, config.destination, config.chunk) == ("a", "c", 8)
    assert (config.storage.region, config.storage.attempts) == ("two", 2)
    assert config.model == "models:/prichexy-net@champion"


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["chnk=8"], "unknown setting chnk; the settings are: allow_missing, allow_unaudited, also_dicom, chunk"),
        (["storage.regoin=x"], "unknown setting storage.regoin"),
        (["chunk=many"], "setting chunk: Input should be a valid integer"),
        (["chunk"], "'chunk' is not a setting: write key=value"),
        (["chunk={"], "the value of setting chunk can't be read as YAML"),
        (["resolution=512"], "setting resolution: Input should be 'native' or '256'"),
        (["encoding=webp"], "setting encoding: Input should be 'png' or 'jpeg-xl'"),
        (["destination=a/inner"], "source and destination must not lie within each other"),
        (["work_dir=./b/../b/inner"], "work_dir names source files and must not lie within destination"),
        (["source=s3://x/lake", "destination=s3://x/lake//out"], "must not lie within each other"),
        (["work_dir=b/inner"], "work_dir names source files and must not lie within destination"),
        (["source=null"], "setting source"),
    ],
)
def test_a_wrong_setting_is_named(overrides: list[str], sentence: str) -> None:
    with pytest.raises(UsageError) as caught:
        load(AnonymizeConfig, None, ["source=a", "destination=b", *overrides])
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_off_is_a_word_although_yaml_takes_it_for_false() -> None:
    given = ["source=a", "destination=b", "deid.burned_in_text=off"]
    assert load(AnonymizeConfig, None, given).deid.burned_in_text == "off"


def test_a_missing_setting_is_explained() -> None:
    with pytest.raises(UsageError, match="setting destination is missing: folder or s3:// prefix for the published"):
        load(AnonymizeConfig, None, ["source=a"])


@pytest.mark.parametrize("text", ["- a\n- b", "{", "just text"])
def test_an_unusable_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(UsageError, match="the configuration"):
        load(AnonymizeConfig, tmp_path / "c.yaml")


def test_endpoint_and_region_are_read_once_at_the_edge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://one")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "here")
    storage = load(AnonymizeConfig, None, ["source=a", "destination=b"]).storage
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://two")
    assert (storage.endpoint_url, storage.region) == ("http://one", "here")
    assert load(AnonymizeConfig, None, ["source=a", "destination=b", "storage.region=x"]).storage.region == "x"


def test_shards_are_smaller_at_native_size() -> None:
    config = load(AnonymizeConfig, None, ["source=a", "destination=b"])
    assert config.shard_rows == 128
    assert load(AnonymizeConfig, None, ["source=a", "destination=b", "resolution='256'"]).shard_rows == 1024
    assert load(AnonymizeConfig, None, ["source=a", "destination=b", "rows_per_shard=7"]).shard_rows == 7


def test_secret_comes_from_the_setting_before_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRICHEXY_SECRET_FILE", "/env")
    assert secret_file(Path("/set")) == Path("/set")
    assert secret_file(None) == Path("/env")
    monkeypatch.delenv("PRICHEXY_SECRET_FILE")
    assert secret_file(None) is None
