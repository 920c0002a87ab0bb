"""Records of audits that never ran, for tests of what is done with a record."""

from datetime import UTC, datetime
from typing import Any

from prichexy.config import Thresholds
from prichexy.verdict import (
    AttackerResult,
    AuditRecord,
    DataUnderAudit,
    FindingUtility,
    ModelUnderAudit,
    SplitCounts,
    Utility,
    judge,
)


def attacker(name: str, auc: float, **more: Any) -> AttackerResult:
    figures = {"auc_sd": 0.0, "auc_max": auc, "auc_low": auc - 0.02, "auc_high": auc + 0.02, **more}
    return AttackerResult(name=name, description="A test's attacker.", seeds=1, auc_mean=auc, **figures)


def utility(difference: float | None = -0.01, **more: Any) -> Utility:
    known = difference is not None
    return Utility(
        findings=[
            FindingUtility(
                finding="Effusion",
                positives=9,
                auc_original=0.8,
                auc_anonymized=0.8 + difference,
                difference=difference,
                low=difference - 0.01,
                high=difference + 0.01,
            )
        ]
        if difference is not None
        else [],
        mean_original=0.8 if known else None,
        mean_difference=difference,
        **{"ssim": 0.97, "psnr_db": 33.0, "folded_share": 0.0, **more},
    )


def record(model: ModelUnderAudit, auc: float = 0.55, **more: Any) -> AuditRecord:
    """A record whose verdict is the one that its figures give: passed at the default AUC, failed from 0.61."""
    attackers = [attacker("correlation-16", 0.52), attacker("linear-metric", auc)]
    counts = SplitCounts(train=70, validation=10, test=20)
    left = utility()
    return AuditRecord(
        created=datetime(2026, 5, 4, 12, 30, tzinfo=UTC),
        model=model,
        data=DataUnderAudit(fingerprint="f" * 64, patients=counts, images=counts, pairs=counts, image_size=64),
        attackers=attackers,
        utility=left,
        thresholds=Thresholds(),
        verdict=judge(attackers, left, Thresholds()),
        **{
            "resolution": "256",
            "engine": "torch",
            "device": "cpu",
            "code": "0.1.0",
            "seeds": 1,
            "bootstrap": 1000,
            "seed": 42,
            **more,
        },
    )


MODEL = ModelUnderAudit(
    name="net",
    version="3",
    fingerprint="ab" * 32,
    kind="flow-field",
    settings={"mu": 0.01, "operator": "corrected", "precision": "float32", "features": 32, "image_size": 256},
)
