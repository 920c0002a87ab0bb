"""The link table's files: whole, in clear nothing, and replaced by a shard that is made again."""

import base64
import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prichexy.deid import CustodianKey, LinkRecipient, LinkRow, create_custodian_key
from prichexy.errors import StorageFault, UsageError
from prichexy.lake.link import read_links, write_links
from prichexy.lake.storage import Store


def rows(start: int, stop: int) -> list[LinkRow]:
    return [
        LinkRow(
            f"ward/Roe^Jane_{number:05d}.dcm",
            f"{number:032x}",
            "HOSPITAL-OF-ISSUE",
            f"MRN-{number:07d}",
            f"{number + 1:032x}",
            {f"1.2.999.{number:05d}.{place}": f"2.25.777{number:05d}{place}" for place in range(4)},
        )
        for number in range(start, stop)
    ]


@pytest.fixture
def key(tmp_path: Path) -> CustodianKey:
    create_custodian_key(tmp_path / "key")
    return CustodianKey.from_file(tmp_path / "key")


@pytest.fixture
def recipient(key: CustodianKey, tmp_path: Path) -> LinkRecipient:
    return LinkRecipient.from_file(tmp_path / "key.pub")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "links"))


def forms(value: str) -> list[bytes]:
    """A value as it may stand in a file: plain, UTF-16, hexadecimal, and base64 at each of its three alignments."""
    plain = value.encode()
    found = [plain, value.encode("utf-16-le"), value.encode("utf-16-be"), plain.hex().encode()]
    found.append(plain.hex().upper().encode())
    for shift in range(3):
        whole = base64.b64encode(bytes(shift) + plain)
        found.append(whole[[0, 2, 3][shift] : -4])  # without the signs that depend on what stands around it
    return found


def test_the_forms_are_found_where_they_are() -> None:
    text = 'x{"uri": "ward/Roe^Jane_00001.dcm"}'
    places = [
        text.encode(),
        text.encode("utf-16"),
        text.encode("utf-16-be"),
        text.encode().hex().encode(),
        *(base64.b64encode(bytes(shift) + text.encode()) for shift in range(3)),
    ]
    for place in places:
        assert any(form in place for form in forms("ward/Roe^Jane_00001.dcm"))


def test_all_rows_come_back_shard_by_shard(store: Store, key: CustodianKey, recipient: LinkRecipient) -> None:
    for shard in (1, 0, 1_000_000, 999_999):
        write_links(store, 1, shard, [recipient.seal(row) for row in rows(shard, shard + 3)])
    names = [
        "link-0001-000000.parquet",
        "link-0001-000001.parquet",
        "link-0001-1000000.parquet",
        "link-0001-999999.parquet",
    ]
    assert sorted(path.name for path in Path(store.root).iterdir()) == names
    opened = [key.open(sealed) for sealed in read_links(store)]
    spans = [{row.image_id for row in opened[first : first + 3]} for first in range(0, 12, 3)]
    assert spans == [{row.image_id for row in rows(shard, shard + 3)} for shard in (0, 1, 999_999, 1_000_000)]
    assert {row.uri: row for row in opened}["ward/Roe^Jane_00002.dcm"] == rows(2, 3)[0]


def test_a_shard_made_again_replaces_its_rows(store: Store, key: CustodianKey, recipient: LinkRecipient) -> None:
    for _ in range(2):
        write_links(store, 1, 7, [recipient.seal(row) for row in rows(0, 5)])
    assert sorted(key.open(sealed).uri for sealed in read_links(store)) == [row.uri for row in rows(0, 5)]


def test_a_shard_without_rows_is_a_table_without_rows(store: Store) -> None:
    write_links(store, 1, 0, [])
    assert list(read_links(store)) == []


def test_nothing_stands_in_clear(store: Store, recipient: LinkRecipient) -> None:
    written = rows(0, 40)
    write_links(store, 1, 0, [recipient.seal(row) for row in written])
    data = store.read("link-0001-000000.parquet")
    values = {
        value for row in written for value in (row.uri, row.image_id, row.issuer, row.patient_old, row.patient_new)
    }
    values |= {value for row in written for pair in row.uids.items() for value in pair}
    assert len(values) > 400
    assert [value for value in values if any(form in data for form in forms(str(value)))] == []
    schema = pq.read_schema(io.BytesIO(data))
    assert schema.names == ["sealed"]
    assert schema.metadata is None
    assert pq.ParquetFile(io.BytesIO(data)).metadata.metadata is None


def test_the_order_of_the_rows_tells_nothing(store: Store, key: CustodianKey, recipient: LinkRecipient) -> None:
    orders = []
    for _ in range(2):
        write_links(store, 1, 0, [recipient.seal(row) for row in rows(0, 40)])
        sealed = list(read_links(store))
        assert sealed == sorted(sealed)
        orders.append([key.open(each).uri for each in sealed])
    assert orders[0] != orders[1]  # by chance equal once in 40! times
    assert orders[0] != sorted(orders[0])


def test_a_place_without_a_link_table_is_told(store: Store, tmp_path: Path) -> None:
    with pytest.raises(StorageFault, match="nothing found at"):
        list(read_links(store))
    Path(store.root, "below").mkdir(parents=True)
    Path(store.root, "below", "link-0001-000000.parquet").write_bytes(b"")
    Path(store.root, "link-1.parquet").write_bytes(b"")
    with pytest.raises(UsageError, match="holds no link table: name the place that the job had as link_table"):
        list(read_links(store))


def test_a_damaged_file_is_told_without_what_is_in_it(store: Store, recipient: LinkRecipient) -> None:
    write_links(store, 1, 3, [recipient.seal(row) for row in rows(0, 2)])
    whole = store.read("link-0001-000003.parquet")
    buffer = io.BytesIO()
    pq.write_table(pa.table({"uri": ["Roe^Jane"]}), buffer)
    for content in (b"", whole[:-20], whole[:200], buffer.getvalue()):
        store.write("link-0001-000003.parquet", content)
        with pytest.raises(
            StorageFault, match=r"^link-0001-000003\.parquet in .* is damaged, or no file of a link table$"
        ):
            list(read_links(store))
