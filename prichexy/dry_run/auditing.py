"""What `audit` and `audit --compare` would do."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from prichexy.audit.comparison import row_model
from prichexy.audit.critics import critics
from prichexy.audit.evidence import Evidence
from prichexy.audit.job import RECORD, chosen_attackers, place_of
from prichexy.audit.runs import planned
from prichexy.cluster import Capacity
from prichexy.cohort.table import open_table
from prichexy.config import AuditConfig, AuditSettings, CompareConfig, secret_file
from prichexy.deid import read_secret_file
from prichexy.dry_run.plan import Estimate, Plan, Rates, asked_registry, estimated, expected_capacity
from prichexy.lake.storage import Store
from prichexy.networks.classifier import Classifier
from prichexy.networks.verifier import Verifier
from prichexy.obfuscation import Obfuscator, load
from prichexy.registry import ModelVersion, Registry, passing_audit
from prichexy.registry.models import without_password
from prichexy.verdict import VerdictError, opened


@dataclass(frozen=True)
class _Given:
    """All that attackers look at to say whether they apply; making the images of real evidence takes long."""

    verifier: Verifier | None
    classifier: Classifier | None
    obfuscator: Obfuscator


@dataclass(frozen=True)
class _Runs:
    """An audit's runs: where they are kept, how many there are, and how many of them were kept."""

    place: Store
    total: int
    kept: int

    @property
    def left(self) -> int:
        return self.total - self.kept


def plan_audit(config: AuditConfig, rates: Rates) -> Plan:
    """The audit's plan: runs kept and to do, the verdict that stands, resources, estimate.

    Raises:
        UsageError: what the job would refuse; see `prichexy.audit.job.audit`.
        PrichexyError: a store, the registry or the cluster can't be reached.
    """
    secret = read_secret_file(secret_file(config.secret_file))
    registry = asked_registry(config.tracking_uri, config.model)
    with tempfile.TemporaryDirectory(prefix="prichexy-model-") as folder:
        model = registry.fetch(config.model, Path(folder))
        runs = _runs(config, model)
    where, capacity = expected_capacity(config.ray)
    facts = {
        "model": f"{model.name}/{model.version}",
        "attacks": runs.total,
        "attacks_kept": runs.kept,
        "record_there": _record(runs.place, secret),
        "registered_verdict": _registered_verdict(registry, model, secret),
        "decides": config.attackers is None,
    }
    return Plan(
        job="audit",
        does=f"runs {runs.left} of {runs.total} attacks, measures the utility, and keeps the verdict "
        + ("with the model" if model.registered else "in its place only, since the model is in no registry"),
        places=_places(config, registry) | {"results": runs.place.uri},
        facts=facts,
        resources=_resources(config, where, capacity),
        estimate=_estimate(config, runs.left, capacity, rates),
    )


def plan_compare(config: CompareConfig, rates: Rates) -> Plan:
    """The comparison's plan: for each row the runs kept and to do.

    Raises:
        UsageError: what the job would refuse; see `prichexy.audit.comparison.compare`.
        PrichexyError: a store, the registry or the cluster can't be reached.
    """
    read_secret_file(secret_file(config.secret_file))
    registry, rows = asked_registry(config.tracking_uri, *(row.model for row in config.every_row)), dict[str, _Runs]()
    for row in config.every_row:
        own = config if row.training_run is None else config.model_copy(update={"training_run": row.training_run})
        with tempfile.TemporaryDirectory(prefix="prichexy-model-") as folder:
            rows[row.label] = _runs(own, row_model(row, own, registry, Path(folder)))
    where, capacity = expected_capacity(config.ray)
    left = sum(runs.left for runs in rows.values())
    return Plan(
        job="audit compare",
        does=f"runs {left} attacks on {len(rows)} models and writes one table; no verdict is kept with a model",
        places=_places(config, registry),
        facts={"rows": {label: f"{runs.kept} of {runs.total} attacks kept" for label, runs in rows.items()}},
        resources=_resources(config, where, capacity),
        estimate=_estimate(config, left, capacity, rates),
    )


def _runs(config: AuditSettings, model: ModelVersion) -> _Runs:
    chosen, table = chosen_attackers(config), open_table(config.table, config.storage, config.cache)
    verifier, classifier = critics(config, table.facts.fingerprint)
    place = place_of(config, model, table)
    runs = planned(cast(Evidence, _Given(verifier, classifier, load(model.folder))), chosen, config)
    there = {stored.path for stored in place.list()}
    return _Runs(place, len(runs), sum(run.file in there for run in runs))


def _record(place: Store, secret: bytes) -> str:
    """The verdict of an earlier run of this audit."""
    try:
        record = opened(place.read(RECORD), secret)
    except FileNotFoundError:
        return "none"
    except VerdictError as error:
        return f"unusable ({error.kind})"
    return "passed" if record.verdict.passed else "failed"


def _registered_verdict(registry: Registry, model: ModelVersion, secret: bytes) -> str:
    """What promotion would read now."""
    if not model.registered:
        return "none"
    try:
        passing_audit(registry, model, secret)
    except VerdictError as error:
        return "none" if error.kind == "missing" else error.kind
    return "passed"


def _places(config: AuditSettings, registry: Registry) -> dict[str, str]:
    places = {
        "table": config.table,
        "training_run": config.training_run,
        "out": config.out,
        "registry": without_password(registry.uri),
    }
    return {name: place for name, place in places.items() if place is not None}


def _at_once(config: AuditSettings, capacity: Capacity) -> int:
    return max(1, capacity.gpus if config.gpu else capacity.cpus // config.threads)


def _resources(config: AuditSettings, where: str, capacity: Capacity) -> dict[str, Any]:
    return {
        "where": where,
        "cores": capacity.cpus,
        "gpus": capacity.gpus,
        "attacks_at_once": _at_once(config, capacity),
        "cores_an_attack": config.threads,
        "gpus_an_attack": int(config.gpu),
    }


def _estimate(config: AuditSettings, left: int, capacity: Capacity, rates: Rates) -> Estimate:
    if not left:
        return estimated(None, rates, "every attack was kept; how long the utility takes is not known")
    if rates.seconds_per_attack is None:
        return estimated(None, rates, "how long an attack takes is not known: give --seconds-per-attack")
    seconds = left * rates.seconds_per_attack / _at_once(config, capacity)
    return estimated(seconds, rates, f"{left} attacks of {rates.seconds_per_attack:g} s; utility and start not counted")
