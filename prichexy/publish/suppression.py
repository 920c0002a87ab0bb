"""Small-cell suppression: counts that are withheld, so that no table tells of fewer than k patients.

One small cell withheld alone would be had by subtracting the others from the total, so others are withheld with it
(complementary suppression). Which ones must not tell either: a rule such as "the next smallest", or "the next in
order", is known to whoever reads this, and from which cells were taken it follows how small they are. So neighbours in
a fixed order form groups of two or three; a group with a small cell is withheld whole, zeros included, and within it
any cell could be the small one. Groups are added until at least 2k - 1 patients are in what is withheld. A test goes
through all small tables, and finds for each withheld cell at least k values that fit all that is shown, the rule
included.

Terms as in Hundepool et al., Statistical Disclosure Control (Wiley, 2012), chapter 4.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

SMALL_CELL = 5
"""Fewest patients that a count may tell of, unless set otherwise."""


@dataclass(frozen=True)
class Cell:
    """A line of a table.

    Attributes:
        label: in words.
        images: how many.
        patients: how many have at least one of these images.
        withheld: whether the two figures must not be shown.
    """

    label: str
    images: int
    patients: int
    withheld: bool = False

    @property
    def shown(self) -> tuple[int, int] | None:
        """(images, patients); None where they are withheld. What documents read."""
        return None if self.withheld else (self.images, self.patients)


@dataclass(frozen=True)
class Table:
    """A table of counts after suppression.

    Attributes:
        name: identifies it, such as ``findings``.
        title: for people.
        cells: in a fixed order; empty where the whole table is withheld.
    """

    name: str
    title: str
    cells: tuple[Cell, ...]

    @property
    def withheld(self) -> bool:
        """Whether nothing of it may be shown."""
        return not self.cells

    @property
    def lines(self) -> list[tuple[str, int, int]]:
        """Label, images and patients of what may be shown, zeros left out."""
        return [(cell.label, *cell.shown) for cell in self.cells if cell.shown and cell.shown != (0, 0)]

    @property
    def withheld_labels(self) -> list[str]:
        """Labels of the cells that may not be shown; some of them may be zero."""
        return [cell.label for cell in self.cells if cell.withheld]


def suppressed(name: str, title: str, cells: Sequence[Cell], k: int) -> Table:
    """A table in which no count tells of fewer than k patients, nor can be had by subtraction from the total.

    Args:
        name: identifies it.
        title: for people.
        cells: every cell of the table, in an order that does not depend on the counts; an image is in at least one.
        k: fewest patients.

    Returns:
        The cells, some of them withheld; no cells at all where too few patients are left to hide the small ones among.
    """
    groups = _groups(len(cells))
    patients = [sum(cells[place].patients for place in group) for group in groups]
    small = [any(0 < cells[place].patients < k for place in group) for group in groups]
    chosen = {number for number in range(len(groups)) if small[number]}
    if chosen and len(cells) < 2:
        return Table(name, title, ())
    while chosen and sum(patients[number] for number in chosen) < 2 * k - 1:
        after = max(chosen)
        further = next((n for n in (*range(after + 1, len(groups)), *range(after)) if n not in chosen), None)
        if further is None:
            return Table(name, title, ())
        chosen.add(further)
    withheld = {place for number in chosen for place in groups[number]}
    return Table(name, title, tuple(replace(cell, withheld=place in withheld) for place, cell in enumerate(cells)))


def total(count: int, patients: int, k: int) -> int | None:
    """A count by itself; None where it tells of 1 to k - 1 patients."""
    return None if 0 < patients < k else count


def share(part: int, whole: int, k: int) -> int | None:
    """A part of a known whole; None where it, or what is left of the whole, is a small count."""
    return None if 0 < part < k or 0 < whole - part < k else part


def _groups(cells: int) -> list[list[int]]:
    """Cells by twos, one of each half, since tables begin with what is common; an odd one joins the last."""
    half = max(cells // 2, 1)
    groups = [[place, place + half] if place + half < cells else [place] for place in range(half)]
    if cells % 2 and cells > 1:
        groups[-1].append(cells - 1)
    return groups
