"""Records of audits that never ran and pictures of nobody, for tests of the report."""

import math
from datetime import UTC, datetime
from typing import Any

import numpy as np

from prichexy.audit.report import GalleryImage
from prichexy.config import Thresholds
from prichexy.findings import FINDINGS
from prichexy.verdict import (
    AttackerResult,
    AuditRecord,
    DataUnderAudit,
    FindingUtility,
    MeanUtility,
    ModelUnderAudit,
    SplitCounts,
    StrengthPoint,
    Utility,
    judge,
)

AUCS = {
    "correlation-16": 0.552,
    "correlation-64": 0.561,
    "correlation-16-less-mean": 0.583,
    "correlation-64-less-mean": 0.588,
    "pca-whitened": 0.571,
    "high-pass": 0.537,
    "linear-metric": 0.577,
    "verifier-as-trained": 0.508,
    "verifier-retrained": 0.562,
    "verifier-adaptive": 0.574,
    "inversion": 0.581,
    "fusion": 0.592,
}
LEARNING = ("linear-metric", "verifier-retrained", "verifier-adaptive")


def attacker(name: str, auc: float) -> AttackerResult:
    """An attacker whose ROC curve is that of two normal distributions with the given AUC."""
    seeds = 10 if name in LEARNING else 1
    power = (1 - auc) / auc  # the curve x ** power has the area 1 / (1 + power) = auc
    rates = [step / 60 for step in range(61)]
    return AttackerResult(
        name=name,
        description=f"Compares two images the way {name} does; made up for a test of the report.",
        seeds=seeds,
        auc_mean=auc,
        auc_sd=0.006 if seeds > 1 else 0.0,
        auc_max=auc + (0.011 if seeds > 1 else 0.0),
        auc_low=auc - 0.024,
        auc_high=auc + 0.024,
        rank_1=None if name == "fusion" else 0.031,
        rank_5=None if name == "fusion" else 0.094,
        map_at_r=None if name == "fusion" else 0.027,
        training_pairs=8000 if name in LEARNING else None,
        details={"inversion_psnr_db": 38.25, "with_key_auc": 0.9} if name == "inversion" else {},
        roc=tuple((rate, rate**power) for rate in rates),
    )


def utility(loss: float, field: bool = True) -> Utility:
    """Each finding loses about `loss`."""
    findings = []
    for number, name in enumerate(FINDINGS):
        before, change = 0.69 + 0.014 * (number % 9), -loss + 0.01 * math.sin(number)
        findings.append(
            FindingUtility(
                finding=name,
                positives=9 + 7 * number,
                auc_original=before,
                auc_anonymized=before + change,
                difference=change,
                low=change - 0.02,
                high=change + 0.02,
            )
        )
    original = sum(finding.auc_original for finding in findings) / len(findings)
    anonymized = sum(finding.auc_anonymized for finding in findings) / len(findings)
    return Utility(
        findings=tuple(findings),
        mean_original=original,
        mean_anonymized=anonymized,
        mean_difference=anonymized - original,
        low=anonymized - original - 0.006,
        high=anonymized - original + 0.006,
        unseen=MeanUtility(
            mean_original=0.71,
            mean_anonymized=0.71 + (anonymized - original) / 2,
            mean_difference=(anonymized - original) / 2,
            low=(anonymized - original) / 2 - 0.006,
            high=(anonymized - original) / 2 + 0.006,
        ),
        retrained_on_anonymized=0.731,
        ssim=0.947,
        psnr_db=31.4,
        displacement_max_px=1.28 if field else None,
        displacement_mean_px=0.61 if field else None,
        folded_share=0.0 if field else None,
    )


def record(more_auc: float = 0.0, loss: float = 0.012, name: str | None = "prichexy-net", **more: Any) -> AuditRecord:
    """A record in full; the verdict follows from its figures.

    Args:
        more_auc: added to each attacker's AUC; from 0.01 the verdict is no.
        loss: of utility; from 0.03 the verdict is no.
        name: the model's.
        more: fields in place of the factory's.
    """
    attackers = tuple(attacker(each, auc + more_auc) for each, auc in AUCS.items())
    left = utility(loss)
    facts: dict[str, Any] = {
        "created": datetime(2026, 5, 4, 12, 30, tzinfo=UTC),
        "model": ModelUnderAudit(
            name=name,
            version="3" if name else None,
            fingerprint="ab" * 32,
            kind="flow-field",
            settings={"mu": 0.01, "operator": "corrected", "precision": "float32", "image_size": 256},
        ),
        "resolution": "native",
        "engine": "torch",
        "device": "cpu",
        "data": DataUnderAudit(
            fingerprint="cd" * 32,
            patients=SplitCounts(train=540, validation=80, test=148),
            images=SplitCounts(train=1210, validation=190, test=327),
            pairs=SplitCounts(train=8000, validation=400, test=1024),
            image_size=256,
        ),
        "code": "0.1.0 (92e6ba0)",
        "seeds": 10,
        "bootstrap": 1000,
        "seed": 42,
        "attackers": attackers,
        "strength": tuple(
            StrengthPoint(attacker=each, training_pairs=pairs, auc_mean=AUCS[each] + more_auc - short, auc_sd=0.008)
            for each in LEARNING
            for pairs, short in ((500, 0.04), (2000, 0.018), (8000, 0.0))
        ),
        "utility": left,
        "thresholds": Thresholds(),
    } | more
    verdict = judge(facts["attackers"], facts["utility"], facts["thresholds"])
    return AuditRecord(**{"verdict": verdict, **facts})


def picture(caption: str = "phantom 1", side: int = 96, field: bool = True) -> GalleryImage:
    """Rings, and the same rings moved to the right by one pixel, or two at the bottom."""
    rows, columns = np.mgrid[:side, :side].astype(np.float32)
    rings_HW = np.hypot(rows - side / 2, columns - side / 3)
    moved_HW = np.where(rows > side / 2, 2, 1).astype(np.float32)
    original_HW, anonymized_HW = (
        (127 + 120 * np.sin(radius / 5)).astype(np.uint8)
        for radius in (rings_HW, np.hypot(rows - side / 2, columns - moved_HW - side / 3))
    )
    field_2HW = np.stack([-moved_HW, np.zeros_like(moved_HW)]) if field else None
    return GalleryImage(original_HW, anonymized_HW, field_2HW, caption)
