"""What a worker holds at a time."""

import pytest

from prichexy.anonymize import ingest as ingest_module  # type: ignore[attr-defined]
from prichexy.config import AnonymizeConfig


@pytest.mark.parametrize(
    ("sizes", "loads"),
    [
        ([1, 1, 1], [[1, 1, 1]]),
        ([60, 60, 60], [[60], [60], [60]]),
        ([40, 60, 1, 99], [[40, 60], [1, 99]]),
        ([500, 1], [[500], [1]]),
        ([], []),
    ],
)
def test_files_are_fetched_in_loads_of_bounded_size(
    monkeypatch: pytest.MonkeyPatch, sizes: list[int], loads: list[list[int]]
) -> None:
    monkeypatch.setattr(ingest_module, "HELD_BYTES", 100)
    listed = [{"size": size} for size in sizes]
    assert [[row["size"] for row in load] for load in ingest_module.loads(listed)] == loads


def test_small_images_of_a_large_lake_travel_in_larger_chunks() -> None:
    places = {"source": "a", "destination": "b"}
    native, small = AnonymizeConfig(**places), AnonymizeConfig(**places, resolution="256")
    assert [native.chunk_of(rows) for rows in (100, 10_000)] == [16, 16]
    assert [small.chunk_of(rows) for rows in (100, 1_023, 1_024, 10_000)] == [16, 16, 64, 64]
    assert AnonymizeConfig(**places, resolution="256", chunk=3).chunk_of(10_000) == 3
