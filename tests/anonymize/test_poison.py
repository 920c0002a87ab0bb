"""Files that kill the process that decodes them: bounds, the careful mode, and that it changes nothing else."""

import resource
import signal
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from prichexy.anonymize import ingest as ingest_module  # type: ignore[attr-defined]
from prichexy.anonymize.careful import Careful, bounded
from prichexy.anonymize.work import INGESTED, Work
from prichexy.cohort.catalog import build_catalog
from prichexy.cohort.phantom import PhantomCohort, write_mixed
from prichexy.config import CatalogConfig, DeidConfig, LimitsConfig, StorageConfig
from prichexy.deid import LinkRecipient, create_custodian_key
from prichexy.errors import PrichexyError, Quarantined
from prichexy.imaging import DecodeLimits
from prichexy.lake.job import Job

GIB = 1 << 30
DECODER = """
import ctypes, os, signal, time
from prichexy.errors import UsageError

def decode(what, number=0):
    print("the patient is JANE ROE", flush=True)
    if what == "crash":
        ctypes.string_at(0)
    if what == "exit":
        os._exit(0)
    if what == "kill" or what == "kill once" and not os.path.exists(number):
        if what == "kill once":
            open(number, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "terminate":
        os.kill(os.getpid(), signal.SIGTERM)
    while what == "loop":
        pass
    if what == "fail":
        raise ValueError("the patient is JANE ROE")
    if what == "refuse":
        raise UsageError("setting x can't work")
    if what == "allocate":
        bytes(number)
    return str(os.getpid()).encode()
"""


@pytest.fixture
def decoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., bytes]:
    """A decoder that does to its process what it is told, and else tells which one it is in."""
    name = f"decoder_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(DECODER)
    monkeypatch.syspath_prepend(tmp_path)
    found: Callable[..., bytes] = import_module(name).decode
    return found


@pytest.fixture
def careful(decoder: Callable[..., bytes]) -> Iterator[Careful]:
    with Careful(decoder, memory=GIB, seconds=2) as careful:
        yield careful


@pytest.mark.parametrize(
    ("what", "reason"),
    [("crash", "KilledItsProcess"), ("exit", "KilledItsProcess"), ("loop", "TookTooLong"), ("kill", "OutOfMemory")],
)
def test_what_kills_its_process_is_set_aside_and_the_next_goes_on(careful: Careful, what: str, reason: str) -> None:
    process = careful("nothing")
    assert careful("nothing") == process, "a child that lives is used again"
    with pytest.raises(Quarantined) as caught:
        careful(what)
    assert (caught.value.stage, caught.value.reason) == ("decode", reason)
    assert careful("nothing") != process


def test_an_allocation_beyond_the_limit_is_set_aside_and_the_process_lives(careful: Careful) -> None:
    process = careful("allocate", GIB // 2)
    with pytest.raises(Quarantined, match="needs more than 1,073,741,824 bytes of memory") as caught:
        careful("allocate", 2 * GIB)
    assert caught.value.reason == "OutOfMemory"
    assert careful("nothing") == process


def test_a_child_that_somebody_else_killed_gets_a_second_chance(careful: Careful, tmp_path: Path) -> None:
    assert int(careful("kill once", str(tmp_path / "killed"))) > 0
    assert (tmp_path / "killed").exists()


def test_a_request_to_stop_is_not_blamed_on_the_file(careful: Careful) -> None:
    assert careful("terminate") == careful("nothing")


def test_errors_of_another_kind_stop_the_job_without_quoting_the_file(careful: Careful) -> None:
    with pytest.raises(PrichexyError, match=r"^work on a single file failed with ValueError$"):
        careful("fail")
    with pytest.raises(PrichexyError, match=r"^setting x can't work$"):
        careful("refuse")


def test_no_child_is_left_behind(decoder: Callable[..., bytes]) -> None:
    with Careful(decoder, memory=GIB, seconds=2) as careful:
        process = int(careful("nothing"))
    assert not Path(f"/proc/{process}").exists()


def test_a_child_that_does_not_start_is_not_the_files_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    with Careful(str.encode, memory=GIB, seconds=2) as careful, pytest.raises(PrichexyError, match="does not start"):
        careful("nothing")


def test_bounds_hold_inside_and_are_gone_outside() -> None:
    kinds = (resource.RLIMIT_DATA, resource.RLIMIT_CORE)
    before, alarm = [resource.getrlimit(kind) for kind in kinds], signal.getitimer(signal.ITIMER_REAL)[0]
    with bounded(GIB, 77):
        assert 70 < signal.getitimer(signal.ITIMER_REAL)[0] <= 77
        assert resource.getrlimit(resource.RLIMIT_CORE)[0] in (0, 1)
        assert np.empty(GIB // 2, np.uint8).size == GIB // 2
        with pytest.raises(MemoryError):
            np.empty(2 * GIB, np.uint8)
        with pytest.raises(RuntimeError), bounded(GIB, 5):  # and within one another
            raise RuntimeError
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 5
    assert [resource.getrlimit(kind) for kind in kinds] == before
    assert signal.getitimer(signal.ITIMER_REAL)[0] == pytest.approx(alarm, abs=60)
    assert np.empty(2 * GIB, np.uint8).size == 2 * GIB


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, secret_file: Path) -> Work:
    """A span of PNG and DICOM files, some broken, of which headers are published and linked."""
    folder = tmp_path_factory.mktemp("poison")
    write_mixed(PhantomCohort(3, 7, size=96), folder / "lake", planted=folder / "planted.csv")
    (folder / "lake" / "a.png").write_bytes(b"")
    (folder / "lake" / "z.dcm").write_bytes(next((folder / "lake").glob("*.dcm")).read_bytes()[:900])
    catalog = build_catalog(
        CatalogConfig(source=str(folder / "lake"), out=str(folder / "catalog"), exclude=("*.csv",)), salt=b"s" * 32
    )
    create_custodian_key(folder / "link.key")
    limits = LimitsConfig(memory=GIB, seconds=100)
    job = Job(
        catalog.rows,
        100,
        "256",
        16,
        limits.model_dump(),
        "",
        "",
        "",
        {},
        False,
        columns=["body_part"],
        transfer_syntax="uncompressed",
    )
    return Work(
        catalog=catalog,
        storage=StorageConfig(),
        secret_file=secret_file,
        limits=DecodeLimits(),
        allow_missing=False,
        network_size=64,
        destination=str(folder / "out"),
        job=job,
        deid=DeidConfig(burned_in_text="off", columns=("body_part",)),
        transfer_syntax="uncompressed",
        link_table=str(folder / "link"),
        link_recipient=LinkRecipient.from_file(folder / "link.key.pub"),
    )


def ingested(work: Work) -> pa.Table:
    return ingest_module.ingest(pa.table({"id": [0]}), np.array([[0, work.catalog.rows]]), work)


def without_links(table: pa.Table) -> pa.Table:
    return table.drop_columns(["link", "spent"])  # sealed twice, a row gives different bytes; times differ too


def test_careful_work_gives_the_same_rows(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = ingested(work)
    assert {row["reason"] for row in plain.to_pylist()} >= {None, "Empty"}
    assert any(row["header"] for row in plain.to_pylist())
    monkeypatch.setattr(ingest_module, "_begun_before", lambda: True)
    careful = ingested(work)
    assert careful.schema == INGESTED
    assert without_links(careful).equals(without_links(plain))
    assert careful["link"].is_null().equals(plain["link"].is_null())


def test_a_span_that_does_not_fit_into_memory_is_worked_on_file_by_file(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, fetched, times = ingested(work), ingest_module._fetched, iter(range(100))

    def exhausted(*arguments: object) -> bytes:
        if next(times) == 3:
            raise MemoryError
        return fetched(*arguments)  # type: ignore[no-any-return]

    monkeypatch.setattr(ingest_module, "_fetched", exhausted)
    assert without_links(ingested(work)).equals(without_links(plain))
    assert next(times) > work.catalog.rows


def test_a_file_that_exhausts_memory_after_its_decoding_is_set_aside(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    resize, times = ingest_module.resize, iter(range(100))

    def exhausted(*arguments: object) -> object:
        if next(times) == 0:
            raise MemoryError
        return resize(*arguments)

    plain = ingested(work)
    monkeypatch.setattr(ingest_module, "resize", exhausted)
    rows = ingested(work).to_pylist()
    killed = [row for row in rows if row["reason"] == "OutOfMemory"]
    assert [(row["stage"], row["pixels"], row["link"]) for row in killed] == [("decode", None, None)]
    assert sum(row["reason"] is None for row in rows) == sum(row["reason"] is None for row in plain.to_pylist()) - 1
