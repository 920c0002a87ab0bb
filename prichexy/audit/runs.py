"""The runs of an audit: each attacker with each seed, on Ray, and every outcome kept, so that a kill costs one run.

Shape suffixes: P pair.
"""

import io
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import torch
from numpy.typing import NDArray

from prichexy.audit.attackers import Attacker, Retrieval, retrieval, turned
from prichexy.audit.evidence import Evidence
from prichexy.audit.statistics import auc
from prichexy.cluster import Capacity
from prichexy.config.audit import AuditSettings
from prichexy.lake.storage import Store
from prichexy.progress import Progress

log = logging.getLogger("prichexy.audit")


@dataclass(frozen=True)
class Run:
    """One attacker with one seed.

    Attributes:
        attacker: its name.
        seed: of everything that is left to chance.
        training_pairs: how many it learns from; None is the number of the recipe.
    """

    attacker: str
    seed: int
    training_pairs: int | None = None

    @property
    def file(self) -> str:
        """Where its outcome is kept, below the audit's place."""
        pairs = "" if self.training_pairs is None else f"-{self.training_pairs}-pairs"
        return f"runs/{self.attacker}{pairs}-seed-{self.seed}.npz"


@dataclass(frozen=True, eq=False)
class Outcome:
    """What came of a run on the test split.

    Attributes:
        scores_P: of the test pairs.
        auc: of those scores.
        found: retrieval figures; None where the comparer is asked for pairs only.
        details: what else the attacker reports.
    """

    scores_P: NDArray[np.float64]  # noqa: N815 - arrays carry their shape
    auc: float
    found: Retrieval | None
    details: dict[str, float]

    def to_bytes(self) -> bytes:
        """As `from_bytes` reads it; no pickle."""
        facts = {
            "auc": self.auc,
            "found": None if self.found is None else self.found._asdict(),
            "details": self.details,
        }
        buffer = io.BytesIO()
        np.savez_compressed(buffer, scores=self.scores_P, facts=np.frombuffer(json.dumps(facts).encode(), np.uint8))
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> "Outcome":
        """What `to_bytes` gave."""
        with np.load(io.BytesIO(content), allow_pickle=False) as stored:
            facts = json.loads(stored["facts"].tobytes())
            scores_P = stored["scores"]
        found = None if facts["found"] is None else Retrieval(**facts["found"])
        return cls(scores_P, facts["auc"], found, facts["details"])


def attack(evidence: Evidence, attacker: Attacker, run: Run) -> Outcome:
    """Fit an attacker, and judge it on the test pairs and by retrieval among the test patients' originals.

    One without training has its direction from what was once true of radiographs; validation pairs tell whether it
    still is.
    """
    comparer = attacker.fit(evidence, run.seed, run.training_pairs)
    if not attacker.seeded:
        comparer = turned(comparer, evidence.validation)
    test = evidence.test
    scores_P = np.asarray(comparer.pair_scores(test.first_images, test.second_images), dtype=np.float64)
    found = retrieval(comparer, test, seed=run.seed) if run.training_pairs is None else None
    return Outcome(scores_P, auc(scores_P, test.pairs.same), found, dict(comparer.details))


def planned(evidence: Evidence, attackers: Sequence[Attacker], settings: AuditSettings) -> list[Run]:
    """All runs: attackers that learn with every seed and at every strength, the others once."""
    seeds = range(settings.seed, settings.seed + settings.seeds)
    runs = []
    for attacker in attackers:
        if attacker.applies(evidence):
            runs += [Run(attacker.name, seed) for seed in (seeds if attacker.seeded else seeds[:1])]
    learning = [attacker for attacker in attackers if attacker.seeded and attacker.applies(evidence)]
    runs += [Run(one.name, seed, pairs) for one in learning for pairs in settings.strength for seed in seeds]
    return runs


def carry_out(
    runs: Sequence[Run],
    evidence: Evidence,
    attackers: Sequence[Attacker],
    place: Store,
    settings: AuditSettings,
    capacity: Capacity,
) -> dict[Run, Outcome]:
    """The outcome of every run; those that were kept are not run again.

    Raises:
        UsageError: an attack is not possible with this evidence.
        StorageFault: the store failed; outcomes kept so far stay.
    """
    done = dict(_kept(runs, place))
    left = [run for run in runs if run not in done]
    log.info("attack: %d runs, %d kept from before", len(runs), len(done))
    by_name = {attacker.name: attacker for attacker in attackers}
    there = ray.put(evidence)
    task = _attack.options(num_cpus=settings.threads, num_gpus=1 if settings.gpu else 0)
    with Progress("attack", len(runs), len(done), unit="runs") as progress:
        at_once = max(1, capacity.gpus if settings.gpu else capacity.cpus // settings.threads)
        waiting: dict[Any, Run] = {}
        while left or waiting:
            while left and len(waiting) <= at_once:
                run = left.pop(0)
                waiting[task.remote(there, by_name[run.attacker], run, settings.threads)] = run
            (ended,), _ = ray.wait(list(waiting))
            run, content = waiting.pop(ended), ray.get(ended)
            place.write(run.file, content)
            done[run] = Outcome.from_bytes(content)
            log.info("attack: %s, seed %d%s: AUC %.4f", run.attacker, run.seed, _pairs(run), done[run].auc)
            progress.advance(1)
    return {run: done[run] for run in runs}  # as planned, whichever ended first: figures must not depend on that


def _pairs(run: Run) -> str:
    return "" if run.training_pairs is None else f", {run.training_pairs:,} pairs"


def _kept(runs: Sequence[Run], place: Store) -> Iterator[tuple[Run, Outcome]]:
    there = {stored.path for stored in place.list()}
    for run in runs:
        if run.file in there:
            yield run, Outcome.from_bytes(place.read(run.file))


@ray.remote  # type: ignore[untyped-decorator]
def _attack(evidence: Evidence, attacker: Attacker, run: Run, threads: int) -> bytes:
    torch.set_num_threads(threads)
    return attack(evidence, attacker, run).to_bytes()
