"""A lake that grows, published in increments by the job itself."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from prichexy.anonymize import anonymize
from prichexy.cohort.catalog import build_catalog
from prichexy.cohort.phantom import PhantomCohort, write_png
from prichexy.config import AnonymizeConfig, CatalogConfig
from prichexy.deid import Pseudonyms
from prichexy.errors import UsageError
from prichexy.lake.snapshots import read_manifest, shards_of
from prichexy.lake.storage import Store
from prichexy.lake.verify import verify
from prichexy.obfuscation import create_untrained

pytestmark = pytest.mark.usefixtures("local_ray")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("drawn") / "png"
    write_png(PhantomCohort(12, 3, size=96), folder)
    return sorted(folder.glob("*.png"))


@pytest.fixture
def config(tmp_path: Path, secret_file: Path) -> AnonymizeConfig:
    """Of a lake that holds nothing yet."""
    (tmp_path / "lake").mkdir()
    create_untrained("identity", tmp_path / "model", 0, {})
    return AnonymizeConfig(
        source=str(tmp_path / "lake"),
        destination=str(tmp_path / "out"),
        model=str(tmp_path / "model"),
        secret_file=secret_file,
        allow_unaudited=True,
        rows_per_shard=5,
        chunk=4,
        resolution="256",
        deid={"burned_in_text": "off"},
    )


def ids_of(destination: str, snapshot: int | None = None) -> list[str]:
    store = Store(destination)
    manifest = read_manifest(store, snapshot)
    assert manifest is not None
    paths = [f"{store.root}/{commit.data.path}" for commit in shards_of(manifest) if commit.data]
    return sorted(image_id for path in paths for image_id in pq.read_table(path)["image_id"].to_pylist())


def test_three_increments_hold_each_id_once_and_each_snapshot_is_whole(
    drawn: list[Path], config: AnonymizeConfig, tmp_path: Path, secret_file: Path
) -> None:
    lake, keys = tmp_path / "lake", Pseudonyms.from_file(secret_file)
    increment = config.model_copy(update={"increment": True})

    def add(*numbers: int, source: int | None = None) -> None:
        for number in numbers:
            (lake / f"{number:02d}.png").write_bytes(drawn[number if source is None else source].read_bytes())

    add(*range(8))
    first = anonymize(config)
    assert (first.snapshot, first.new, first.published) == (1, 8, 8)
    assert anonymize(increment).snapshot == 1, "nothing is new"

    add(8, 9)
    add(3, source=10)  # another radiograph under a name that is published
    (lake / "00.png").unlink()
    second = anonymize(increment)
    assert (second.snapshot, second.new, second.rows, second.published) == (2, 3, 11, 10)
    assert (second.replaced, second.gone) == (1, 1)
    assert anonymize(config).snapshot == 2, "the same command without --increment does nothing"

    add(10)
    (lake / "broken.png").write_bytes(b"no radiograph")
    add(9, source=11)
    third = anonymize(increment)
    assert (third.snapshot, third.new, third.published, third.quarantined, third.replaced) == (3, 3, 11, 1, 2)

    for snapshot, names in ((1, range(8)), (2, range(10)), (3, range(11))):
        assert verify(Store(config.destination), snapshot=snapshot).problems == []
        assert ids_of(config.destination, snapshot) == sorted(keys.image_id(f"{n:02d}.png") for n in names)

    # A catalog made by hand that follows the job's last one makes the next snapshot as well, without being told.
    add(11)
    last = Path(third.catalog)
    made = build_catalog(CatalogConfig(source=str(lake), out=str(tmp_path / "by-hand"), since=str(last)))
    by_hand = config.model_copy(update={"source": made.uri})
    fourth = anonymize(by_hand)
    assert (fourth.snapshot, fourth.new, fourth.published) == (4, 1, 12)
    assert anonymize(by_hand).snapshot == 4
    with pytest.raises(UsageError, match=r"another job's shards \(differing: catalog, rows\)"):
        anonymize(config.model_copy(update={"source": first.catalog}))
    assert verify(Store(config.destination)).problems == []


def test_an_increment_that_was_cut_off_goes_on_with_its_own_catalog(
    drawn: list[Path], config: AnonymizeConfig, tmp_path: Path
) -> None:
    lake = tmp_path / "lake"
    config = config.model_copy(update={"rows_per_shard": 1, "resolution": "native", "increment": True})
    for path in drawn[:2]:
        (lake / path.name).write_bytes(path.read_bytes())
    anonymize(config)
    for path in drawn[2:5]:
        (lake / path.name).write_bytes(path.read_bytes())
    whole = anonymize(config)
    shards = {path.name: path.read_bytes() for path in (tmp_path / "out" / "data").iterdir()}
    assert whole.new == 3
    # As a kill before the last commit and the switch leaves it; meanwhile the lake has grown further.
    (tmp_path / "out" / "_snapshots" / "0002" / "_commits" / "000002.json").unlink()
    (tmp_path / "out" / "_snapshots" / "0002" / "_MANIFEST.json").unlink()
    first = (tmp_path / "out" / "_snapshots" / "0001" / "_MANIFEST.json").read_bytes()
    from prichexy.lake.shards import digest

    switch = {"snapshot": 1, "manifest": "_snapshots/0001/_MANIFEST.json", "sha256": digest(first)}
    (tmp_path / "out" / "_SUCCESS").write_text(json.dumps(switch))
    (lake / drawn[6].name).write_bytes(drawn[6].read_bytes())
    again = anonymize(config)
    assert (again.snapshot, again.new, again.resumed) == (2, 3, 2)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out" / "data").iterdir()} == shards
    assert anonymize(config).new == 1
