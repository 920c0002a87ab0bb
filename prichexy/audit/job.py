"""The audit of one model: every attacker, the utility, a verdict, kept with the model and as a page for people.

Each run of an attacker is kept as it ends; killed and started again, the same command goes on from there. What it
keeps lies below ``OUT/KEY``, where KEY follows from the model's weights, the table, the settings and the code: figures
of two codes or two tables never mix.
"""

import json
import logging
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import numpy as np
import ray
import torch
from sklearn.metrics import roc_curve

from prichexy.audit.attackers import Attacker, VerifierRecipe, attackers_with, fused
from prichexy.audit.attackers.fusion import DESCRIPTION, NAME
from prichexy.audit.classifiers import train_classifier, unseen_classifier
from prichexy.audit.critics import critics
from prichexy.audit.evidence import Evidence
from prichexy.audit.material import Judges, Material, gather
from prichexy.audit.report import GalleryImage, write_report
from prichexy.audit.runs import Outcome, Run, carry_out, planned
from prichexy.audit.statistics import auc, bootstrap_auc
from prichexy.audit.utility import measure_utility
from prichexy.cluster import connected
from prichexy.cohort.splits import SPLITS
from prichexy.cohort.table import TrainingTable, open_table
from prichexy.config import secret_file
from prichexy.config.audit import AuditConfig, AuditSettings
from prichexy.deid import read_secret_file
from prichexy.errors import UsageError
from prichexy.imaging import to_unit
from prichexy.lake.storage import Store
from prichexy.networks.classifier import Classifier
from prichexy.obfuscation import to_bytes
from prichexy.obfuscation.flow_field import FlowField
from prichexy.obfuscation.multi_scale_field import MultiScaleField
from prichexy.provenance import code_version
from prichexy.registry import ModelVersion, Registry, store_audit
from prichexy.training.checkpoints import below
from prichexy.verdict import (
    AttackerResult,
    AuditRecord,
    DataUnderAudit,
    SplitCounts,
    StrengthPoint,
    Utility,
    audit_id,
    judge,
    sealed,
)

log = logging.getLogger("prichexy.audit")

ROC_POINTS = 200
RECORD, REPORT, UTILITY, LIKENESS = "audit.json", "report.html", "utility.json", "likeness.json"
COMPARED = "compared"
"""Folder of a comparison's record and report, so that those of an audit with the same runs stay."""


@dataclass(frozen=True)
class Audited:
    """What an audit found.

    Attributes:
        record: all of it.
        audit_id: names the record.
        place: where record, report and runs are.
        report: the page for people.
        stored: whether the registry has it, which is so for registered models.
        seconds: of this command.
    """

    record: AuditRecord
    audit_id: str
    place: str
    report: str
    stored: bool
    seconds: float = field(compare=False)


def audit(config: AuditConfig) -> Audited:
    """Audit a model and keep the verdict.

    Raises:
        UsageError: model, table, secret or settings can't be used; no attacker was run.
        StorageFault: a store failed; runs that were kept stay, and the same command goes on.
    """
    registry = Registry(config.tracking_uri)
    with tempfile.TemporaryDirectory(prefix="prichexy-model-") as folder:
        model = registry.fetch(config.model, Path(folder))
        return audit_model(config, model, to_bytes(model.folder), registry)


def audit_model(
    config: AuditSettings,
    model: ModelVersion,
    content: bytes,
    registry: Registry | None,
    classifiers: bool = True,
    judges: Judges = "test",
) -> Audited:
    """As `audit`, of a model that is at hand.

    Args:
        config: how it is audited.
        model: what it is.
        content: its settings and weights, as `to_bytes` gave them.
        registry: where the verdict is stored if the model is registered; None for a comparison: nowhere.
        classifiers: whether classifiers measure what is left to learn; if not, the verdict is no.
        judges: the split whose patients judge; a verdict that counts is the test patients'.
    """
    began = time.monotonic()
    secret = read_secret_file(secret_file(config.secret_file))
    everyone = attackers_with(_recipe(config))
    chosen = chosen_attackers(config)
    table = open_table(config.table, config.storage, config.cache)
    verifier, classifier = critics(config, table.facts.fingerprint)
    place = place_of(config, model, table)
    place.check_writable()
    with connected(config.ray) as capacity:
        material = gather(config, table, content, verifier, classifier, judges)
        runs = planned(material.evidence, chosen, config)
        outcomes = carry_out(runs, material.evidence, chosen, place, config, capacity)
        utility = _utility(material, config, place, classifiers)
    results = _results(material.evidence, chosen, outcomes, config)
    expected = [name for name, one in everyone.items() if one.applies(material.evidence)]
    record = AuditRecord(
        created=datetime.now(UTC),
        model=model.under_audit(),
        resolution=_resolution(table, material.evidence),
        engine=f"torch {torch.__version__}",
        device="cuda" if config.gpu else "cpu",
        data=_data(table, material.evidence),
        code=code_version(),
        seeds=config.seeds,
        bootstrap=config.resamples,
        seed=config.seed,
        attackers=tuple(results),
        strength=tuple(_strength(outcomes)),
        utility=utility,
        thresholds=config.thresholds,
        verdict=judge(results, utility, config.thresholds, expected),
    )
    return _keep(record, secret, place if registry else below(place, COMPARED), material, config, registry, began)


def chosen_attackers(config: AuditSettings) -> list[Attacker]:
    """The attackers that the settings name; all where they name none.

    Raises:
        UsageError: there is none of a name.
    """
    everyone = attackers_with(_recipe(config))
    unknown = sorted(set(config.attackers or ()) - everyone.keys())
    if unknown:
        raise UsageError(f"setting attackers: there is no {unknown[0]}; see `prichexy audit --list`")
    return [one for name, one in everyone.items() if config.attackers is None or name in config.attackers]


def place_of(config: AuditSettings, model: ModelVersion, table: TrainingTable) -> Store:
    """Where an audit's runs, record and report are kept."""
    return below(Store(config.out, config.storage), _key(config, model, table))


def _keep(
    record: AuditRecord,
    secret: bytes,
    place: Store,
    material: Material,
    config: AuditSettings,
    registry: Registry | None,
    began: float,
) -> Audited:
    """Record and report written to the audit's place, and the record stored with a registered model."""
    place.write(RECORD, sealed(record, secret))
    with tempfile.TemporaryDirectory(prefix="prichexy-report-") as folder:
        page = write_report(record, _gallery(material, config.gallery), Path(folder) / REPORT)
        place.write(REPORT, page.read_bytes())
        stored = registry is not None and record.model.name is not None
        if stored:
            assert registry is not None
            store_audit(registry, record, secret, page)
    report = f"{place.uri.rstrip('/')}/{REPORT}"
    return Audited(record, audit_id(record), place.uri, report, stored, round(time.monotonic() - began, 1))


def _recipe(config: AuditSettings) -> VerifierRecipe:
    return VerifierRecipe(
        settings=config.verifier,
        training_pairs=config.pairs.train,
        per_patient=config.pairs.per_patient,
        threads=config.threads,
        device="cuda" if config.gpu else "cpu",
    )


def _key(config: AuditSettings, model: ModelVersion, table: TrainingTable) -> str:
    """Names everything that decides the outcomes; where it runs, and what becomes of them, does not."""
    elsewhere = {"table", "out", "secret_file", "training_run", "thresholds", "gallery", "tracking_uri", "cache"}
    elsewhere |= {"storage", "ray", "threads", "attackers", "model", "rows", "strength", "seeds", "utility"}
    facts = {
        **config.model_dump(mode="json", exclude=elsewhere),
        "model": model.fingerprint,
        "table": table.facts.fingerprint,
        "run": str(config.training_run),
        "code": code_version(),
    }
    if facts.get("judges") == "test":  # as in every audit: a comparison takes its runs over
        del facts["judges"]
    return f"{model.name}-{model.version}-{sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]}"


def _results(
    evidence: Evidence, attackers: Sequence[Attacker], outcomes: dict[Run, Outcome], config: AuditSettings
) -> list[AttackerResult]:
    """Each attacker's figures over its seeds, and those of the fusion of all."""
    results, scores_of = [], {}
    for attacker in attackers:
        own = [outcomes[run] for run in outcomes if run.attacker == attacker.name and run.training_pairs is None]
        if own:
            scores_of[attacker.name] = [outcome.scores_P for outcome in own]
            results.append(_result(attacker.name, attacker.description, own, evidence, config))
    if len(scores_of) > 1:
        together = []
        for number in range(max(map(len, scores_of.values()))):
            scores_P = fused([scores[number % len(scores)] for scores in scores_of.values()])
            together.append(Outcome(scores_P, auc(scores_P, evidence.test.pairs.same), None, {}))
        results.append(_result(NAME, DESCRIPTION, together, evidence, config))
    return results


def _result(
    name: str, description: str, outcomes: list[Outcome], evidence: Evidence, config: AuditSettings
) -> AttackerResult:
    test, aucs = evidence.test, [outcome.auc for outcome in outcomes]
    interval = bootstrap_auc(
        np.stack([outcome.scores_P for outcome in outcomes]),
        test.pairs.same,
        test.first_patients,
        test.second_patients,
        config.seed,
        config.resamples,
    )
    found = [outcome.found for outcome in outcomes if outcome.found is not None]
    details = {key: float(np.mean([one.details[key] for one in outcomes])) for key in outcomes[0].details}
    learned = details.pop("training_pairs", None)
    false_rate, true_rate, _ = roc_curve(test.pairs.same, outcomes[0].scores_P)
    places = np.unique(np.linspace(0, len(false_rate) - 1, min(ROC_POINTS, len(false_rate))).round().astype(int))
    return AttackerResult(
        name=name,
        description=description,
        seeds=len(outcomes),
        auc_mean=float(np.mean(aucs)),
        auc_sd=_deviation(aucs),
        auc_max=max(aucs),
        auc_low=interval.low,
        auc_high=interval.high,
        rank_1=float(np.mean([one.rank_1 for one in found])) if found else None,
        rank_5=float(np.mean([one.rank_5 for one in found])) if found else None,
        map_at_r=float(np.mean([one.map_at_r for one in found])) if found else None,
        training_pairs=None if learned is None else int(learned),
        details=details,
        roc=tuple((float(false_rate[at]), float(true_rate[at])) for at in places),
    )


def _strength(outcomes: dict[Run, Outcome]) -> list[StrengthPoint]:
    """AUC against what an attacker learned from; where the table has fewer pairs than asked for, those it has."""
    aucs: dict[tuple[str, int], list[float]] = {}
    for run, outcome in outcomes.items():
        if run.training_pairs is not None:
            pairs = int(outcome.details.get("training_pairs", run.training_pairs))
            aucs.setdefault((run.attacker, pairs), []).append(outcome.auc)
    return [
        StrengthPoint(
            attacker=attacker,
            training_pairs=pairs,
            auc_mean=float(np.mean(found)),
            auc_sd=_deviation(found),
        )
        for (attacker, pairs), found in sorted(aucs.items())
    ]


def _deviation(aucs: Sequence[float]) -> float:
    """Standard deviation over seeds; 0 for a single one."""
    return float(np.std(aucs, ddof=1)) if len(aucs) > 1 else 0.0


def _utility(material: Material, config: AuditSettings, place: Store, classifiers: bool) -> Utility:
    file = UTILITY if classifiers else LIKENESS
    try:
        return Utility.model_validate_json(place.read(file))
    except FileNotFoundError:
        pass
    unseen = None
    if classifiers:
        unseen = unseen_classifier(material.labelled("train", False), material.labelled("validation", False), config)
    log.info("utility: %s", "a classifier learns from the anonymized images" if classifiers else "likeness only")
    task = _measured.options(num_cpus=config.threads, num_gpus=1 if config.gpu else 0)
    utility: Utility = ray.get(task.remote(material, config, unseen))
    place.write(file, utility.model_dump_json(indent=2).encode())
    return utility


@ray.remote  # type: ignore[untyped-decorator]
def _measured(material: Material, config: AuditSettings, unseen: Classifier | None) -> Utility:
    """With `unseen`, classifiers are asked: it, that of the model's training if there is one, and one that learns."""
    torch.set_num_threads(config.threads)
    test, retrained = material.evidence.test, None
    if unseen is not None:
        train, validation = (material.labelled(split, anonymized=True) for split in ("train", "validation"))
        device = "cuda" if config.gpu else "cpu"
        retrained = train_classifier(train, validation, config.classifier, config.seed, device)
    own = material.classifier if unseen is not None else None
    return measure_utility(
        own or unseen,
        test.originals_NHW,
        test.anonymized_NHW,
        material.findings["test"],
        test.patients_N,
        config.seed,
        material.evidence.obfuscator,
        retrained,
        unseen if own is not None else None,
        config.resamples,
        test.seeds_N,
    )


def _resolution(table: TrainingTable, evidence: Evidence) -> str:
    assert evidence.obfuscator is not None
    side = evidence.obfuscator.settings.image_size
    return str(side) if table.facts.size == side else "native"


def _data(table: TrainingTable, evidence: Evidence) -> DataUnderAudit:
    splits = {name: getattr(evidence, name) for name in SPLITS}
    return DataUnderAudit(
        fingerprint=table.facts.fingerprint,
        patients=SplitCounts(**{name: len(np.unique(split.patients_N)) for name, split in splits.items()}),
        images=SplitCounts(**{name: len(split) for name, split in splits.items()}),
        pairs=SplitCounts(**{name: len(split.pairs) for name, split in splits.items()}),
        image_size=evidence.test.originals_NHW.shape[-1],
    )


def _gallery(material: Material, count: int) -> list[GalleryImage]:
    """The first test images, as they were asked for; numbers are all that names them."""
    test, obfuscator = material.evidence.test, material.evidence.obfuscator
    images = []
    for number in range(min(count, len(test))):
        field_2HW = None
        if isinstance(obfuscator, FlowField | MultiScaleField) and test.seeds_N is not None:
            before_11HW = torch.from_numpy(to_unit(test.originals_NHW[number], 8))[None, None]
            key_1 = torch.from_numpy(np.array(test.seeds_N[number : number + 1]))
            side = before_11HW.shape[-1]
            # From half image widths to pixels.
            field_2HW = obfuscator.displacement(before_11HW, key_1)[0].cpu().numpy() * np.float32((side - 1) / 2)
        images.append(
            GalleryImage(test.originals_NHW[number], test.anonymized_NHW[number], field_2HW, f"test image {number + 1}")
        )
    return images
