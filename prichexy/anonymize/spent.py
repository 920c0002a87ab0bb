"""What the stages took: noted in each worker, carried along with the rows, added up by the driver.

A chunk's table has a column `spent`, whose first row says what each stage took for that chunk; the other rows say
nothing. Each stage adds its own and passes the column on, and `publish` gives the sums to the driver beside the figures
of its shard. So the driver learns exactly what went into committed shards, and Ray gets no further call for it. Work
that is lost with a node is not in it; Prometheus (`prichexy.anonymize.metrics`) counts that too.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import wraps
from typing import ParamSpec

import pyarrow as pa

P = ParamSpec("P")

FIGURES = pa.struct(
    [
        pa.field("stage", pa.string()),
        pa.field("images", pa.int64()),
        pa.field("seconds", pa.float64()),
        pa.field("core_seconds", pa.float64()),
        pa.field("waited", pa.float64()),
    ]
)
SPENT = pa.field("spent", pa.list_(FIGURES))


@dataclass(frozen=True)
class Spent:
    """What a stage took.

    Attributes:
        stage: ``fetch``, ``decode`` (de-identification included), ``obfuscate``, ``encode`` or ``publish``.
        images: that went through it.
        seconds: on the clock, of all workers, and in fetch of all connections, together.
        core_seconds: that processor cores worked.
        waited: seconds in which a worker had nothing to decode because the store had not answered yet; fetch only.
    """

    stage: str
    images: int = 0
    seconds: float = 0.0
    core_seconds: float = 0.0
    waited: float = 0.0

    def __add__(self, other: "Spent") -> "Spent":
        """Both together, of one stage."""
        return Spent(
            self.stage,
            self.images + other.images,
            self.seconds + other.seconds,
            self.core_seconds + other.core_seconds,
            self.waited + other.waited,
        )


def added_up(parts: Iterable[Spent]) -> list[Spent]:
    """One for each stage that occurs."""
    sums: dict[str, Spent] = {}
    for part in parts:
        sums[part.stage] = sums[part.stage] + part if part.stage in sums else part
    return list(sums.values())


class Ledger:
    """What the stages took in this process since it was last asked; several threads may note at once."""

    def __init__(self) -> None:
        """Nothing yet."""
        self._lock = threading.Lock()
        self._parts: list[Spent] = []
        self._core_seconds = 0.0

    def note(self, spent: Spent) -> None:
        """Something more was spent."""
        with self._lock:
            self._parts.append(spent)
            self._core_seconds += spent.core_seconds

    def take(self) -> list[Spent]:
        """What was noted since this was called last, one for each stage."""
        with self._lock:
            parts, self._parts = self._parts, []
        return added_up(parts)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Inside, the worker does nothing but wait for the store; what cores do meanwhile is no waiting."""
        began, cores = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            busy = time.process_time() - cores
            self.note(Spent("fetch", waited=max(0.0, time.perf_counter() - began - busy)))

    @contextmanager
    def remainder(self, stage: str) -> Iterator[None]:
        """What this process' cores do inside and no other stage notes, the stage does.

        Fetching needs it: connections are served by threads of a library, whose work no caller can time.
        """
        began, noted = time.process_time(), self._core_seconds
        try:
            yield
        finally:
            others = self._core_seconds - noted
            self.note(Spent(stage, core_seconds=max(0.0, time.process_time() - began - others)))


ledger = Ledger()
"""Of this process: Ray gives a worker one task at a time, so all that is in it belongs to the chunk in hand."""


def spent_on(table: pa.Table) -> list[Spent]:
    """What the stages took for these rows so far, one for each stage; nothing where the table does not say."""
    if SPENT.name not in table.column_names:
        return []
    return added_up(Spent(**part) for parts in table[SPENT.name].to_pylist() for part in parts or ())


def carrying(stage: Callable[P, pa.Table]) -> Callable[P, pa.Table]:
    """A stage whose table says in `spent` what was spent on its rows: before it, as the table that it is given says,
    and in it, as the ledger does.
    """

    @wraps(stage)
    def run(*args: P.args, **kwargs: P.kwargs) -> pa.Table:
        result = stage(*args, **kwargs)
        if not result.num_rows:
            return result
        before = [part for given in args if isinstance(given, pa.Table) for part in spent_on(given)]
        first = [asdict(part) for part in added_up([*before, *ledger.take()])]
        column = pa.array([first, *([None] * (result.num_rows - 1))], SPENT.type)
        at = result.schema.get_field_index(SPENT.name)
        return result.append_column(SPENT, column) if at < 0 else result.set_column(at, SPENT, column)

    return run
