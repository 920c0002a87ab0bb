"""A half-done job whose project secret is another one when it goes on: refused at once, and nothing is written."""

from pathlib import Path
from typing import Any

import pytest

from prichexy.anonymize import anonymize
from prichexy.cohort.phantom import PhantomCohort, write_png
from prichexy.config import AnonymizeConfig
from prichexy.errors import UsageError
from prichexy.lake.storage import Store
from prichexy.lake.verify import verify
from prichexy.obfuscation import create_untrained

pytestmark = pytest.mark.usefixtures("local_ray")

SECRET, OTHER = b"s" * 32, b"o" * 32


@pytest.fixture(params=["beside the destination", "in a work_dir"])
def config(request: pytest.FixtureRequest, tmp_path: Path) -> AnonymizeConfig:
    """Of a job that is finished; its catalog lies in one of the two places."""
    write_png(PhantomCohort(2, 7, size=96), tmp_path / "lake")
    create_untrained("identity", tmp_path / "model", 0, {})
    (tmp_path / "project.key").write_bytes(SECRET)
    more: dict[str, Any] = {"work_dir": str(tmp_path / "work")} if request.param == "in a work_dir" else {}
    config = AnonymizeConfig(
        source=str(tmp_path / "lake"),
        destination=str(tmp_path / "out"),
        model=str(tmp_path / "model"),
        secret_file=tmp_path / "project.key",
        allow_unaudited=True,
        exclude=("*.csv",),
        rows_per_shard=2,
        chunk=2,
        deid={"burned_in_text": "off"},  # type: ignore[arg-type]
        **more,
    )
    anonymize(config)
    return config


def files(folder: Path) -> dict[str, bytes]:
    """All that lies there: destination, catalog, lake, secret."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(config: AnonymizeConfig, folder: Path) -> None:
    before = files(folder)
    with pytest.raises(UsageError, match="another project secret") as caught:
        anonymize(config)
    assert "secret_file" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert files(folder) == before


def test_a_secret_that_was_exchanged_is_named_nothing_is_written_and_the_right_one_goes_on(
    config: AnonymizeConfig, tmp_path: Path
) -> None:
    out = Path(config.destination)
    shards = {path: path.read_bytes() for path in out.rglob("*.parquet")}
    (tmp_path / "project.key").write_bytes(OTHER)
    refused(config, tmp_path)  # though it is finished, and a new snapshot could be begun

    commits = sorted(path for path in out.rglob("*.json") if path.parent.name == "_commits")
    assert len(commits) == len(shards) >= 2
    for lost in (*out.rglob("_SUCCESS"), *out.rglob("_MANIFEST.json"), commits[-1]):
        lost.unlink()
    refused(config, tmp_path)

    (tmp_path / "project.key").write_bytes(SECRET)
    assert anonymize(config).resumed == len(commits) - 1
    assert {path: path.read_bytes() for path in out.rglob("*.parquet")} == shards
    assert verify(Store(str(out))).whole
