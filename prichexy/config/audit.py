"""Settings of `audit`, of what it decides, and of `promote`."""

from itertools import product
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from prichexy.config.shared import SECRET_VARIABLE, RayConfig, Settings, StorageConfig
from prichexy.config.training import ClassifierConfig, PairCounts, VerifierConfig


class Thresholds(Settings):
    """The limits of a verdict; a figure that equals its limit is within it.

    The paper reports 0.577 for its one attacker; here the strongest of a dozen decides, so 0.60 asks for more.
    """

    strongest_auc: float = Field(
        0.60, ge=0.5, le=1, description="highest AUC of the strongest attacker, its mean over seeds"
    )
    strongest_upper: float = Field(
        0.65, ge=0.5, le=1, description="highest upper end of that attacker's 95 % interval, by patients"
    )
    utility_loss: float = Field(
        0.03, ge=0, le=1, description="most that a classifier's mean AUC over findings may fall"
    )
    folded_share: float = Field(0.0, ge=0, le=1, description="highest share of pixels at which the field folds")


class PromoteConfig(Settings):
    """`prichexy promote`: makes an audited version the champion, or goes back to the one before."""

    model: str = Field(description="models:/NAME/VERSION or models:/NAME@ALIAS; models:/NAME for a rollback")
    reason: str = Field(min_length=1, max_length=500, description="why; it is kept with the event")
    rollback: bool = Field(False, description="the version before becomes the champion again")
    secret_file: Path | None = Field(None, description=f"file with the project secret; {SECRET_VARIABLE} when unset")
    tracking_uri: str | None = Field(None, description="MLflow; MLFLOW_TRACKING_URI or sqlite:///mlflow.db when unset")

    @model_validator(mode="after")
    def _says_why(self) -> Self:
        if not self.reason.strip():
            raise ValueError("reason must say why")
        return self


class AuditSettings(Settings):
    """What `prichexy audit` and `prichexy audit compare` share."""

    table: str = Field(description="a training table made by `prichexy prepare`; its test patients are the judges")
    out: str = Field("audits", description="folder or s3:// prefix for results and reports; private")
    secret_file: Path | None = Field(None, description=f"file with the project secret; {SECRET_VARIABLE} when unset")
    training_run: str | None = Field(
        None, description="STORAGE_PATH/RUN of the model's training on this table: its verifier and classifier"
    )
    verifier_weights: Path | None = Field(None, description="checkpoint of the verifier, where there is no run")
    classifier_weights: Path | None = Field(
        None, description="checkpoint of the classifier, where there is no run; without either, one is trained"
    )
    seeds: int = Field(10, ge=1, le=1000, description="runs of each attacker that learns")
    seed: int = Field(42, ge=0, lt=2**31, description="of the first run, of pairs and resamples; the others follow it")
    resamples: int = Field(1000, ge=100, le=100_000, description="of patients, for a 95 % interval")
    pairs: PairCounts = PairCounts()
    strength: tuple[int, ...] = Field(
        (500, 2000, 8000), description="numbers of training pairs at which the learning attackers are measured as well"
    )
    attackers: tuple[str, ...] | None = Field(
        None, description="names (`prichexy audit --list`); all when unset, and only then can a verdict be yes"
    )
    most_images: int = Field(20_000, ge=8, description="images of a split; of larger ones, whole patients are drawn")
    verifier: VerifierConfig = Field(VerifierConfig(), description="how the attackers' verifiers are trained")
    classifier: ClassifierConfig = Field(ClassifierConfig(), description="how the audit trains its own classifiers")
    gpu: bool = Field(False, description="each attacker has a GPU")
    threads: int = Field(1, ge=1, le=256, description="CPU threads of each attacker, and cores that it reserves")
    gallery: int = Field(
        0, ge=0, le=50, description="test images in the report; only phantoms, or radiographs that may be shown"
    )
    tracking_uri: str | None = Field(None, description="MLflow; MLFLOW_TRACKING_URI or sqlite:///mlflow.db when unset")
    cache: Path | None = Field(None, description="private local folder, for a table in object storage")
    thresholds: Thresholds = Thresholds()
    storage: StorageConfig = Field(default_factory=StorageConfig)
    ray: RayConfig = RayConfig()


class AuditConfig(AuditSettings):
    """`prichexy audit`: attackers, utility and a verdict on one model."""

    model: str = Field(description="models:/NAME/VERSION, models:/NAME@ALIAS, or a model folder")


Setting = str | int | float | tuple[float, ...]
"""A setting of an obfuscation."""


class ComparedModel(Settings):
    """One row of a comparison, or several of a sweep: a model, or an obfuscation that needs no training."""

    label: str = Field(min_length=1, max_length=60, description="its name in table and plot")
    model: str | None = Field(None, description="as in `prichexy audit`")
    obfuscation: dict[str, Setting] | None = Field(
        None,
        description="settings without a model, such as {kind: dp-pix, cell: 4}; multi-scale-field is fitted",
    )
    over: dict[str, tuple[Setting, ...]] = Field(
        {},
        description="a sweep: settings with several values each, such as {cell: [2, 4, 8]}; a row for each combination",
    )
    training_run: str | None = Field(None, description="the model's own, where it differs")

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.model is None) == (self.obfuscation is None):
            raise ValueError("a row names either a model or an obfuscation")
        if self.over and self.obfuscation is None:
            raise ValueError("a model's settings are its own: over is for an obfuscation")
        if twice := sorted(self.over.keys() & (self.obfuscation or {}).keys()):
            raise ValueError(f"{twice[0]} stands both in obfuscation and in over")
        if empty := sorted(name for name, values in self.over.items() if not values):
            raise ValueError(f"over has no value for {empty[0]}")
        return self

    def each(self) -> tuple["ComparedModel", ...]:
        """The rows that this stands for: itself, or one for each combination in `over`, its settings in the label."""
        if not self.over:
            return (self,)
        rows = []
        for values in product(*self.over.values()):
            chosen = dict(zip(self.over, values, strict=True))
            words = ", ".join(f"{name} {_words(value)}" for name, value in chosen.items())
            given = {
                "label": f"{self.label}, {words}",
                "obfuscation": {**(self.obfuscation or {}), **chosen},
                "over": {},
            }
            rows.append(self.model_copy(update=given))
        return tuple(rows)


def _words(value: Setting) -> str:
    return " ".join(f"{one:g}" for one in value) if isinstance(value, tuple) else str(value)


class CompareConfig(AuditSettings):
    """`prichexy audit compare`: several models, audited alike, in one table and one plot."""

    utility: bool = Field(
        True, description="ask classifiers what is left to learn; false: only attackers and likeness, and no row passes"
    )
    judges: Literal["test", "validation"] = Field(
        "test", description="whose patients judge: validation to choose settings by, test to report what was chosen"
    )
    rows: tuple[ComparedModel, ...] = Field(min_length=1, description="what is compared, in the table's order")

    @property
    def every_row(self) -> tuple[ComparedModel, ...]:
        """The rows of the table, sweeps spread out."""
        return tuple(one for row in self.rows for one in row.each())

    @model_validator(mode="after")
    def _labels_differ(self) -> Self:
        every = self.every_row
        if len({row.label for row in every}) != len(every):
            raise ValueError("each row needs a label of its own")
        return self
