"""The record of one audit: what was audited, on which data, what each attacker and the classifier reached, the verdict.

Its JSON is what MLflow keeps and what the report shows. No figure is infinite or NaN; None says that a figure has no
meaning or could not be had.
"""

from typing import Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from prichexy.config.audit import Thresholds

SCHEMA_VERSION = 1

Scalar = str | int | float | bool | None


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ModelUnderAudit(_Part):
    """Which model, to the last bit.

    Attributes:
        name: registered name; None for a model that is in no registry.
        version: registered version; None likewise.
        fingerprint: SHA-256 over weights and settings.
        kind: ``flow-field``, ``privacy-net``, ``dp-pix`` or ``identity``.
        settings: the other obfuscation settings: mu, operator, image size, precision and so on.
    """

    name: str | None
    version: str | None
    fingerprint: str = Field(pattern=r"^[0-9a-f]{64}$")
    kind: str
    settings: dict[str, Scalar | tuple[float, ...]]

    @property
    def uri(self) -> str:
        """``models:/NAME/VERSION``; for a model that is in no registry, how its fingerprint begins."""
        return f"models:/{self.name}/{self.version}" if self.name else f"the model {self.fingerprint[:12]}"


class SplitCounts(_Part):
    """A number for each split."""

    train: int = Field(ge=0)
    validation: int = Field(ge=0)
    test: int = Field(ge=0)


class DataUnderAudit(_Part):
    """On which data the figures were had.

    Attributes:
        fingerprint: of the training table.
        patients: of each split; attackers learn on train, are tested on test.
        images: of each split.
        pairs: of each split.
        image_size: edge of the images, in pixels.
    """

    fingerprint: str
    patients: SplitCounts
    images: SplitCounts
    pairs: SplitCounts
    image_size: int = Field(gt=0)


class AttackerResult(_Part):
    """What one attacker reached on the test pairs.

    Attributes:
        name: such as ``correlation-16``.
        description: one sentence in plain words.
        seeds: how many were run; 1 for an attacker without training.
        auc_mean: AUC, mean over seeds; 0.5 is guessing.
        auc_sd: standard deviation over seeds; 0 for a single one.
        auc_max: of the luckiest seed.
        auc_low: lower end of the 95 % interval, resampled by patient.
        auc_high: upper end.
        rank_1: share of probes whose nearest gallery image is the patient's; None where it has no meaning.
        rank_5: share of probes with the patient among the nearest five.
        map_at_r: mean average precision at R.
        training_pairs: that it learned from; None without training.
        details: further figures, such as ``inversion_psnr_db``.
        roc: (false positive rate, true positive rate), rising.
    """

    name: str
    description: str
    seeds: int = Field(ge=1)
    auc_mean: float = Field(ge=0, le=1)
    auc_sd: float = Field(ge=0)
    auc_max: float = Field(ge=0, le=1)
    auc_low: float = Field(ge=0, le=1)
    auc_high: float = Field(ge=0, le=1)
    rank_1: float | None = Field(default=None, ge=0, le=1)
    rank_5: float | None = Field(default=None, ge=0, le=1)
    map_at_r: float | None = Field(default=None, ge=0, le=1)
    training_pairs: int | None = Field(default=None, ge=0)
    details: dict[str, float] = {}
    roc: tuple[tuple[float, float], ...] = Field(default=(), max_length=200)


class StrengthPoint(_Part):
    """An attacker's AUC after learning from some number of pairs."""

    attacker: str
    training_pairs: int = Field(ge=0)
    auc_mean: float = Field(ge=0, le=1)
    auc_sd: float = Field(ge=0)


class FindingUtility(_Part):
    """How well the fixed classifier tells one finding, before and after.

    Attributes:
        finding: its name.
        positives: test images that show it.
        auc_original: on the originals.
        auc_anonymized: on the anonymized images.
        difference: anonymized less original; below 0 is a loss.
        low: lower end of the difference's 95 % interval, resampled by patient.
        high: upper end.
    """

    finding: str
    positives: int = Field(ge=1)
    auc_original: float = Field(ge=0, le=1)
    auc_anonymized: float = Field(ge=0, le=1)
    difference: float = Field(ge=-1, le=1)
    low: float = Field(ge=-1, le=1)
    high: float = Field(ge=-1, le=1)


class MeanUtility(_Part):
    """How well a classifier tells all findings, before and after.

    Attributes:
        mean_original: mean of its AUCs on originals.
        mean_anonymized: likewise on anonymized images.
        mean_difference: anonymized less original; below 0 is a loss.
        low: lower end of its 95 % interval, resampled by patient.
        high: upper end.
    """

    mean_original: float = Field(ge=0, le=1)
    mean_anonymized: float = Field(ge=0, le=1)
    mean_difference: float = Field(ge=-1, le=1)
    low: float = Field(ge=-1, le=1)
    high: float = Field(ge=-1, le=1)


class Utility(_Part):
    """What a researcher can still learn, and how far the images were changed.

    Attributes:
        findings: those that some test images show and others don't.
        mean_original: mean of their AUCs on originals; None where there is no such finding.
        mean_anonymized: likewise on anonymized images.
        mean_difference: anonymized less original; below 0 is a loss.
        low: lower end of its 95 % interval, resampled by patient.
        high: upper end.
        unseen: the same of a classifier that the audit trained and that nothing was learned from: a model that was
            trained against a classifier may draw what only that one reads. None where the findings above are such a
            classifier's, or none was asked.
        retrained_on_anonymized: mean AUC on originals of a classifier that learned from anonymized images; None where
            it was not trained.
        ssim: mean structural similarity to the originals, 1 for equal images.
        psnr_db: mean peak signal-to-noise ratio of the images that changed, in dB; None where none did.
        displacement_max_px: the largest displacement, in pixels of the audited images; None without a field.
        displacement_mean_px: the mean displacement.
        folded_share: share of pixels at which the field folds, over all images.
    """

    findings: tuple[FindingUtility, ...]
    mean_original: float | None = Field(default=None, ge=0, le=1)
    mean_anonymized: float | None = Field(default=None, ge=0, le=1)
    mean_difference: float | None = Field(default=None, ge=-1, le=1)
    low: float | None = Field(default=None, ge=-1, le=1)
    high: float | None = Field(default=None, ge=-1, le=1)
    unseen: MeanUtility | None = None
    retrained_on_anonymized: float | None = Field(default=None, ge=0, le=1)
    ssim: float = Field(ge=-1, le=1)
    psnr_db: float | None = None
    displacement_max_px: float | None = Field(default=None, ge=0)
    displacement_mean_px: float | None = Field(default=None, ge=0)
    folded_share: float | None = Field(default=None, ge=0, le=1)

    @property
    def loss(self) -> float | None:
        """By how much a classifier's mean AUC falls, of two that were asked the larger; None without any."""
        if self.mean_difference is None:
            return None
        unseen = self.mean_difference if self.unseen is None else self.unseen.mean_difference
        return 0.0 - min(self.mean_difference, unseen)

    @property
    def counted(self) -> float | None:
        """The classifier's mean AUC on originals less the loss that decides; None without a classifier."""
        return None if self.mean_original is None or self.loss is None else self.mean_original - self.loss


class Verdict(_Part):
    """The decision.

    Attributes:
        passed: whether every figure is within its limit.
        reasons: one plain sentence for each limit that was exceeded, and one on what is within its limit.
        strongest: name of the attacker with the highest mean AUC.
    """

    passed: bool
    reasons: tuple[str, ...] = Field(min_length=1)
    strongest: str


class AuditRecord(_Part):
    """One audit.

    Attributes:
        schema_version: of this form.
        created: when, UTC.
        model: what was audited.
        resolution: at which the anonymized images were made: ``native``, or the side in pixels.
        engine: what computed, such as ``torch``.
        device: on which, such as ``cpu``.
        data: on which images.
        code: package version, and git commit where it is known.
        seeds: runs of each attacker that learns.
        bootstrap: resamples of an interval.
        seed: from which all random numbers follow.
        attackers: in the order in which they are shown.
        strength: AUC against the number of training pairs.
        utility: what is left for research.
        thresholds: the limits.
        verdict: the decision.
    """

    schema_version: int = SCHEMA_VERSION
    created: AwareDatetime
    model: ModelUnderAudit
    resolution: str
    engine: str
    device: str
    data: DataUnderAudit
    code: str
    seeds: int = Field(ge=1)
    bootstrap: int = Field(ge=0)
    seed: int
    attackers: tuple[AttackerResult, ...] = Field(min_length=1)
    strength: tuple[StrengthPoint, ...] = ()
    utility: Utility
    thresholds: Thresholds
    verdict: Verdict

    @model_validator(mode="after")
    def _holds_together(self) -> Self:
        names = [attacker.name for attacker in self.attackers]
        if len(set(names)) != len(names):
            raise ValueError("an attacker is there twice")
        if self.verdict.strongest not in names:
            raise ValueError("the strongest attacker is none of the attackers")
        return self
