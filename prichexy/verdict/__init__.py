"""What an audit found and decided, as one record: sealed with the project's secret, checked before it is relied on.

It knows nothing of Ray, MLflow or storage: the audit writes a record, the registry keeps its sealed bytes, promotion
and publishing open and check them.
"""

from prichexy.config.audit import Thresholds
from prichexy.verdict.check import VerdictError, require_passing
from prichexy.verdict.judgement import judge
from prichexy.verdict.record import (
    SCHEMA_VERSION,
    AttackerResult,
    AuditRecord,
    DataUnderAudit,
    FindingUtility,
    MeanUtility,
    ModelUnderAudit,
    SplitCounts,
    StrengthPoint,
    Utility,
    Verdict,
)
from prichexy.verdict.seal import audit_id, opened, sealed

__all__ = [
    "SCHEMA_VERSION",
    "AttackerResult",
    "AuditRecord",
    "DataUnderAudit",
    "FindingUtility",
    "MeanUtility",
    "ModelUnderAudit",
    "SplitCounts",
    "StrengthPoint",
    "Thresholds",
    "Utility",
    "Verdict",
    "VerdictError",
    "audit_id",
    "judge",
    "opened",
    "require_passing",
    "sealed",
]
