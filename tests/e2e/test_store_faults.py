"""The job over a store that fails now and then, one that dies, one whose objects change, and a read-only one."""

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from prichexy.cohort.catalog import build_catalog
from prichexy.cohort.phantom import PhantomCohort, write_mixed
from prichexy.config import CatalogConfig, StorageConfig
from prichexy.errors import StorageFault
from prichexy.lake.listing import StoredObject
from prichexy.lake.snapshots import quarantined_rows
from prichexy.lake.source import read_source
from prichexy.lake.storage import ObjectChanged, Store
from tests.e2e.conftest import S3Server, prichexy
from tests.e2e.fault_proxy import KINDS, FaultProxy

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]
BUCKET = "faults"
ROWS_PER_SHARD = 8


def proxy_of(s3: S3Server, **faults: object) -> FaultProxy:
    host, _, port = s3.endpoint.rpartition("://")[2].partition(":")
    return FaultProxy((host, int(port)), **faults)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def radiographs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """About 100 small phantoms, PNG and DICOM, by file name."""
    folder = tmp_path_factory.mktemp("phantoms") / "lake"
    write_mixed(PhantomCohort(34, 3, size=160), folder)
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.suffix in (".png", ".dcm")}


@pytest.fixture(scope="module")
def lake(s3: S3Server, radiographs: dict[str, bytes]) -> str:
    client = s3.client()
    client.mkdir(BUCKET)
    for name, data in radiographs.items():
        client.pipe_file(f"{BUCKET}/lake/{name}", data)
    return f"s3://{BUCKET}/lake"


@pytest.fixture(scope="module")
def options(model: Path, secret_file: Path) -> list[str]:
    """The job without its places."""
    flags = ["--model", str(model), "--secret-file", str(secret_file), "--allow-unaudited", "--resolution", "256"]
    return [*flags, "--json", f"rows_per_shard={ROWS_PER_SHARD}", "chunk=4", "deid.burned_in_text=off"]


def job(lake: str, name: str, options: list[str]) -> list[str]:
    return ["anonymize", lake, f"s3://{BUCKET}/{name}", *options, f"work_dir=s3://{BUCKET}/private"]


def through(endpoint: str, s3: S3Server) -> dict[str, str]:
    return {**s3.environment(), "AWS_ENDPOINT_URL": endpoint}


def parquet(s3: S3Server, name: str) -> dict[str, bytes]:
    """Every Parquet file below a destination."""
    root, client = f"{BUCKET}/{name}/", s3.client()
    return {path.removeprefix(root): client.cat_file(path) for path in client.find(root) if path.endswith(".parquet")}


@pytest.fixture(scope="module")
def undisturbed(s3: S3Server, lake: str, options: list[str]) -> dict[str, bytes]:
    """Every Parquet file of a run that nothing disturbed."""
    done = prichexy(*job(lake, "undisturbed", options), env=s3.environment(), timeout=500)
    assert done.returncode == 0, done.stderr
    return parquet(s3, "undisturbed")


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_job_over_a_store_that_fails_now_and_then_publishes_the_same(
    s3: S3Server,
    lake: str,
    radiographs: dict[str, bytes],
    options: list[str],
    undisturbed: dict[str, bytes],
) -> None:
    with proxy_of(s3, share=0.05, seed=1) as proxy:
        done = prichexy(*job(lake, "faulted", options), env=through(proxy.endpoint, s3), timeout=600)
    assert done.returncode == 0, f"{done.stderr}\n{proxy.counts}"
    assert set(proxy.counts) == {"requests", *KINDS}, proxy.counts
    summary = json.loads(done.stdout)
    assert (summary["published"], summary["quarantined"]) == (len(radiographs), 0)
    assert parquet(s3, "faulted") == undisturbed
    verified = prichexy("verify", f"s3://{BUCKET}/faulted", env=s3.environment())
    assert verified.returncode == 0, verified.stderr


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_store_that_dies_ends_the_job_in_one_sentence_and_the_same_command_goes_on(
    s3: S3Server,
    lake: str,
    radiographs: dict[str, bytes],
    options: list[str],
    undisturbed: dict[str, bytes],
) -> None:
    command = job(lake, "dead", [*options, "storage.attempts=3"])
    with proxy_of(s3, share=0.0) as proxy:
        proxy.die_at_put("_snapshots/0001/_commits/", 3)
        dead = prichexy(*command, env=through(proxy.endpoint, s3), timeout=500)
        took = time.monotonic() - proxy.died
        assert proxy.is_dead
        assert dead.returncode == 1, dead.stderr
        (sentence,) = [line for line in dead.stderr.splitlines() if line.startswith("error:")]
        assert f"s3://{BUCKET}/" in sentence
        assert "Traceback" not in dead.stderr
        assert not [name for name in radiographs if name in dead.stderr]
        assert not [name for name in undisturbed if name in dead.stderr]
        # 3 attempts are 9 requests and waits of 2.3 s at most between them; Ray's end, on a busy machine, takes longer.
        assert took < 120
        client = s3.client()
        assert len(client.find(f"{BUCKET}/dead/_snapshots/0001/_commits")) == 2
        assert not client.exists(f"{BUCKET}/dead/_SUCCESS")
        proxy.revive()
        again = prichexy(*command, env=through(proxy.endpoint, s3), timeout=500)
    assert again.returncode == 0, again.stderr
    summary = json.loads(again.stdout)
    assert (summary["resumed"], summary["published"], summary["quarantined"]) == (2, len(radiographs), 0)
    assert parquet(s3, "dead") == undisturbed


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("place", ["s3", "folder"])
def test_an_image_replaced_by_one_of_equal_size_is_quarantined_and_nothing_else(
    place: str,
    s3: S3Server,
    credentials: None,
    radiographs: dict[str, bytes],
    options: list[str],
    tmp_path: Path,
) -> None:
    root = f"s3://{BUCKET}-replaced/lake" if place == "s3" else str(tmp_path / "lake")
    if place == "s3":
        s3.client().mkdir(f"{BUCKET}-replaced")
    source = Store(root)
    few = dict(list(radiographs.items())[:6])
    for name, data in few.items():
        source.write(name, data)
    catalog = build_catalog(CatalogConfig(source=root, out=str(tmp_path / "catalog")))
    name, data = next((name, data) for name, data in few.items() if name.endswith(".dcm"))
    source.write(name, data[:-1] + bytes([data[-1] ^ 1]))  # another pixel
    out = tmp_path / "out"
    done = prichexy("anonymize", catalog.uri, str(out), *options, env=s3.environment(), timeout=500)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["published"], summary["reasons"]) == (5, {"SourceChanged": 1})
    assert name not in done.stderr
    (row,) = quarantined_rows(Store(str(out)))
    assert (row["stage"], row["reason"]) == ("fetch", "SourceChanged")


def test_an_object_is_read_on_condition_of_its_etag(s3: S3Server, credentials: None) -> None:
    s3.client().mkdir(f"{BUCKET}-etag")
    store = Store(f"s3://{BUCKET}-etag")
    store.write("a/Roe_Jane.dcm", b"image")
    (listed,) = store.list()
    assert listed == StoredObject("a/Roe_Jane.dcm", 5, "78805a221a988e79ef3f42d7c5bfd418")
    with proxy_of(s3, share=0.0) as proxy:
        watched = Store(store.uri, StorageConfig(endpoint_url=proxy.endpoint))
        assert watched.read_listed(listed) == b"image"
        assert proxy.counts["requests"] == 1
        store.write("a/Roe_Jane.dcm", b"image")  # written again, and yet the same
        assert watched.read_listed(listed) == b"image"
        store.write("a/Roe_Jane.dcm", b"other")
        with pytest.raises(ObjectChanged, match=r"^an object changed since it was listed$"):
            watched.read_listed(listed)
        assert watched.read_listed(StoredObject(listed.path, 5, "")) == b"other"
        store.delete("a/Roe_Jane.dcm")
        with pytest.raises(FileNotFoundError, match=r"^no such object$"):
            watched.read_listed(listed)


def test_answers_cut_short_are_asked_for_again_and_never_the_files_fault(s3: S3Server, credentials: None) -> None:
    s3.client().mkdir(f"{BUCKET}-cut")
    direct = Store(f"s3://{BUCKET}-cut")
    for number in range(12):
        direct.write(f"Roe_Jane{number}.dcm", bytes([number]) * 20_000)
    with proxy_of(s3, share=0.4, kinds=("cut",), seed=3) as proxy:
        store = Store(direct.uri, StorageConfig(endpoint_url=proxy.endpoint, attempts=10))
        listed = sorted(store.list(), key=lambda item: int(item.path[8:-4]))
        found = [read_source(store, item, 1 << 20, "row", True) for item in listed]
    assert found == [bytes([number]) * 20_000 for number in range(12)]
    assert proxy.counts["cut"] > 4
    with proxy_of(s3, share=1.0, kinds=("cut",)) as proxy:
        store = Store(direct.uri, StorageConfig(endpoint_url=proxy.endpoint, attempts=3))
        with pytest.raises(StorageFault, match=r": its answers break off \(row 7\)$") as caught:
            read_source(store, listed[0], 1 << 20, "row 7", True)
        assert proxy.counts["cut"] == 3
    assert "Roe" not in str(caught.value)


@pytest.fixture
def read_only_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "ro,size=1m", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip("a read-only file system can only be mounted by root")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_read_only_destination_is_told_before_anything_starts(
    radiographs: dict[str, bytes], options: list[str], read_only_disk: Path, tmp_path: Path
) -> None:
    name, data = next(iter(radiographs.items()))
    (tmp_path / "lake").mkdir()
    (tmp_path / "lake" / name).write_bytes(data)
    out = read_only_disk / "out"
    done = prichexy("anonymize", str(tmp_path / "lake"), str(out), *options)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"error: can't write to {out}: it is read-only\n"
