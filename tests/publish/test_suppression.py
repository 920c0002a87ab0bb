"""No count of a few patients is shown, nor can be had from what is shown, even by who knows the rule."""

from collections import defaultdict
from itertools import product

import pytest

from prichexy.publish.suppression import Cell, Table, share, suppressed, total


def table(counts: list[int] | tuple[int, ...], k: int = 5) -> Table:
    return suppressed("t", "T", [Cell(str(place), 2 * count, count) for place, count in enumerate(counts)], k)


def shown(counts: list[int] | tuple[int, ...], k: int = 5) -> list[int | None]:
    return [cell.shown[1] if cell.shown else None for cell in table(counts, k).cells]


def test_counts_of_enough_patients_are_shown() -> None:
    assert shown([5, 100, 0, 7]) == [5, 100, 0, 7]


def test_a_small_cell_is_withheld_and_never_alone() -> None:
    assert shown([50, 60, 4, 70]) == [None, 60, None, 70]
    assert shown([50, 60, 70, 1]) == [50, None, 70, None]


def test_more_is_withheld_until_enough_patients_are_in_it() -> None:
    # 3 + 4 patients are fewer than 2 * 5 - 1: the next group goes with them.
    assert shown([3, 60, 4, 70]) == [None, None, None, None]
    assert shown([3, 60, 50, 4, 70, 80]) == [None, None, 50, None, None, 80]


def test_a_table_without_room_is_withheld_whole() -> None:
    assert table([1, 2]).withheld
    assert table([4]).withheld
    assert table([2, 0, 1, 0]).withheld
    assert not table([0, 0]).withheld


def test_both_figures_of_a_cell_go_together() -> None:
    cell = table([50, 60, 4, 70]).cells[2]
    assert cell.images == 8
    assert cell.shown is None


def test_lines_leave_out_zeros_and_what_is_withheld() -> None:
    made = table([50, 0, 4, 70])
    assert made.lines == [("3", 140, 70)]
    assert made.withheld_labels == ["0", "2"]


@pytest.mark.parametrize(("k", "cells", "patients"), [(3, 2, 14), (3, 3, 12), (3, 4, 10), (2, 5, 8), (4, 3, 13)])
def test_a_reader_who_knows_the_rule_and_the_total_can_tell_no_withheld_count(
    k: int, cells: int, patients: int
) -> None:
    # Every table of that many cells and patients, sorted by what a reader sees of it.
    alike: dict[tuple[int, tuple[int | None, ...]], list[tuple[int, ...]]] = defaultdict(list)
    for counts in product(range(patients + 1), repeat=cells):
        if sum(counts) <= patients and not table(counts, k).withheld:
            alike[sum(counts), tuple(shown(counts, k))].append(counts)
    tested = 0
    for (_, seen), possible in alike.items():
        for place, value in enumerate(seen):
            if value is None:
                assert len({counts[place] for counts in possible}) >= k, (seen, possible)
                tested += 1
            else:
                assert value == 0 or value >= k
    assert tested > 10


def test_a_total_of_few_patients_is_withheld() -> None:
    assert total(30, 4, 5) is None
    assert total(30, 5, 5) == 30
    assert total(0, 0, 5) == 0


def test_a_part_is_withheld_where_it_or_the_rest_is_small() -> None:
    assert [share(part, 20, 5) for part in (0, 4, 5, 15, 16, 20)] == [0, None, 5, 15, None, 20]


def test_one_withholds_nothing() -> None:
    assert shown([1, 2, 0, 3], k=1) == [1, 2, 0, 3]
