"""Every setting, typed and validated: from a YAML file, overridden as ``key=value``; an unknown key is an error.

Configuration is read once, at the edge; functions below take values.
"""

import os
import posixpath
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from prichexy.errors import UsageError

DEFAULT_MODEL = "models:/prichexy-net@champion"
SECRET_VARIABLE = "PRICHEXY_SECRET_FILE"


class Settings(BaseModel):
    """Base of all settings: unknown keys are errors and values don't change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class StorageConfig(Settings):
    """How object storage is reached; credentials come from the usual AWS variables, profile or instance role."""

    # Read here, at the edge: workers on other nodes don't have the submitter's environment.
    endpoint_url: str | None = Field(
        default_factory=lambda: os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"),
        description="S3 endpoint; AWS_ENDPOINT_URL when unset",
    )
    region: str | None = Field(
        default_factory=lambda: os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"),
        description="S3 region; AWS_DEFAULT_REGION when unset",
    )
    profile: str | None = Field(None, description="profile in the AWS credentials file")
    anonymous: bool = Field(False, description="read a public bucket without credentials")
    attempts: int = Field(5, ge=1, le=20, description="tries of one read or write before the job stops")
    connections: int = Field(16, ge=1, le=256, description="concurrent reads of one worker")


class RayConfig(Settings):
    """Where the job runs."""

    address: str | None = Field(
        None, description="Ray cluster; RAY_ADDRESS when unset, and a local Ray when there is neither"
    )
    num_cpus: int | None = Field(None, ge=1, description="cores of a local Ray; all of the machine's when unset")
    actors: int | None = Field(None, ge=1, description="generator actors; one a GPU, or one a core, when unset")


class LimitsConfig(Settings):
    """What is refused before it is decoded."""

    min_side: int = Field(64, ge=16, description="shortest side of an image, in pixels")
    max_pixels: int = Field(100_000_000, ge=65_536, description="pixels of one image (decompression bombs)")
    max_bytes: int = Field(1 << 30, ge=1024, description="bytes of one file")


class StoragePlace(Settings):
    """Commands that only read a destination."""

    storage: StorageConfig = Field(default_factory=StorageConfig)


class CatalogConfig(Settings):
    """`prichexy catalog`: lists a lake."""

    source: str = Field(description="folder or s3:// prefix of radiographs")
    out: str = Field(description="folder or prefix for the catalog; private: it names source files")
    labels: str | None = Field(None, description="CSV with NIH's columns (Image Index, Finding Labels, Patient ID)")
    exclude: tuple[str, ...] = Field((), description="glob patterns of paths to leave out, such as '*.csv'")
    storage: StorageConfig = Field(default_factory=StorageConfig)


class AnonymizeConfig(Settings):
    """`prichexy anonymize`: the main job."""

    source: str = Field(description="a lake (folder or s3:// prefix), or a catalog made by `prichexy catalog`")
    destination: str = Field(description="folder or s3:// prefix for the published shards")
    model: str = Field(DEFAULT_MODEL, description="models:/NAME/VERSION, models:/NAME@ALIAS, or a model folder")
    secret_file: Path | None = Field(None, description=f"file with the project secret; {SECRET_VARIABLE} when unset")
    resolution: Literal["native", "256"] = Field("native", description="publish at native size, or at 256 x 256")
    allow_unaudited: bool = Field(False, description="publish with a model that has no passing audit; is stamped")
    work_dir: str | None = Field(
        None, description="private place for the job's catalog; DESTINATION.private for a local destination"
    )
    labels: str | None = Field(None, description="as in `prichexy catalog`, when SOURCE is a lake")
    exclude: tuple[str, ...] = Field((), description="as in `prichexy catalog`, when SOURCE is a lake")
    allow_missing: bool = Field(
        False, description="quarantine files that vanish after listing, instead of stopping (an unmounted lake?)"
    )
    rows_per_shard: int | None = Field(
        None, ge=1, le=65_536, description="images a shard: 128 at native size, 1,024 at 256, when unset"
    )
    chunk: int = Field(16, ge=1, le=1024, description="images that travel together between stages")
    tracking_uri: str | None = Field(None, description="MLflow; MLFLOW_TRACKING_URI or sqlite:///mlflow.db when unset")
    limits: LimitsConfig = LimitsConfig()
    storage: StorageConfig = Field(default_factory=StorageConfig)
    ray: RayConfig = RayConfig()

    @model_validator(mode="after")
    def _places_differ(self) -> Self:
        inner, outer = _resolved(self.source), _resolved(self.destination)
        if inner.startswith(outer) or outer.startswith(inner):
            raise ValueError("source and destination must not lie within each other")
        if self.work_dir is not None and _resolved(self.work_dir).startswith(outer):
            raise ValueError("work_dir names source files and must not lie within destination")
        return self

    @property
    def shard_rows(self) -> int:
        """Rows of a full shard."""
        return self.rows_per_shard or (128 if self.resolution == "native" else 1024)


class LabelColumns(Settings):
    """What the columns of a labels file are called; the defaults are NIH's."""

    image: str = Field("Image Index", description="file name of the image, without folders")
    findings: str = Field("Finding Labels", description="'|'-joined names of the 14 findings, or No Finding")
    patient: str = Field("Patient ID", description="whose image it is")
    follow_up: str = Field("Follow-up #", description="its number among the patient's images; may be absent")


class SplitConfig(Settings):
    """How patients are split: by a hash of seed and patient, or by official lists."""

    seed: int = Field(42, description="with the patient, decides the patient's split")
    train: float = Field(0.7, ge=0, le=1, description="share of the patients for training")
    validation: float = Field(0.1, ge=0, le=1, description="share of the patients for validation")
    test: float = Field(0.2, ge=0, le=1, description="share of the patients for the test; with lists, theirs")
    train_val_list: str | None = Field(None, description="official list of training and validation images, one a line")
    test_list: str | None = Field(None, description="official list of test images, one a line")

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        if abs(self.train + self.validation + self.test - 1) > 1e-6:
            raise ValueError("train, validation and test must add up to 1")
        if not self.train:
            raise ValueError("train must be above 0")
        if (self.train_val_list is None) != (self.test_list is None):
            raise ValueError("train_val_list and test_list are given together, or neither")
        return self


class PrepareConfig(Settings):
    """`prichexy prepare`: decodes a labelled lake into the training table."""

    catalog: str = Field(description="a catalog made by `prichexy catalog`")
    out: str = Field(description="folder or s3:// prefix for the table; private: it holds real radiographs")
    labels: str | None = Field(None, description="CSV of labels; the catalog's own when unset")
    columns: LabelColumns = LabelColumns()
    splits: SplitConfig = SplitConfig()
    size: int = Field(256, ge=64, le=1024, multiple_of=16, description="edge of the table's images, in pixels")
    allow_absent: bool = Field(False, description="go on when labels name images that the lake does not hold")
    secret_file: Path | None = Field(
        None, description="replace names and patients by pseudonyms under this secret; kept as they are when unset"
    )
    rows_per_part: int = Field(256, ge=1, le=16_384, description="images of one file of the table")
    limits: LimitsConfig = LimitsConfig()
    storage: StorageConfig = Field(default_factory=StorageConfig)
    ray: RayConfig = RayConfig()

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.rows_per_part * self.size**2 >= 1 << 31:  # a Parquet page's length is a signed 32-bit number
            raise ValueError(f"rows_per_part must be below {(1 << 31) // self.size**2} at size {self.size}")
        inner, outer = self.catalog.rstrip("/") + "/", self.out.rstrip("/") + "/"
        if inner.startswith(outer) or outer.startswith(inner):
            raise ValueError("catalog and out must not lie within each other")
        return self


class StageConfig(Settings):
    """How one network, or the generator with its critics, is trained; the lowest validation loss decides."""

    epochs: int = Field(ge=1, le=100_000, description="most epochs")
    batch: int = Field(64, ge=2, description="images or pairs of one step, all workers together")
    learning_rate: float = Field(1e-4, gt=0, description="at the start")
    patience: int | None = Field(None, ge=1, description="epochs without a lower validation loss before it stops early")
    decay_patience: int | None = Field(
        None, ge=0, description="epochs without a lower validation loss before the learning rate is divided by 10"
    )


class ClassifierConfig(StageConfig):
    """The classifier of the 14 findings; CheXNet's recipe."""

    epochs: int = Field(100, ge=1, le=100_000, description="most epochs")
    batch: int = Field(16, ge=2, description="images of one step, all workers together")
    learning_rate: float = Field(0.01, gt=0, description="at the start")
    patience: int | None = Field(10, ge=1, description="epochs without a lower validation loss before it stops early")
    decay_patience: int | None = Field(1, ge=0, description="as in every stage")
    optimiser: Literal["sgd", "adam"] = Field("sgd", description="sgd has momentum 0.9 and weight decay 1e-4")
    backbone: Literal["densenet121", "resnet18", "tiny"] = Field(
        "densenet121", description="tiny: from 64 px, for CPUs"
    )
    weights: Path | None = Field(None, description="file it starts from: own weights, or ImageNet's of its backbone")


class VerifierConfig(StageConfig):
    """The patient verifier; the paper's recipe for its attacker."""

    epochs: int = Field(100, ge=1, le=100_000, description="most epochs")
    batch: int = Field(32, ge=2, description="pairs of one step, all workers together")
    patience: int | None = Field(5, ge=1, description="epochs without a lower validation loss before it stops early")
    optimiser: Literal["sgd", "adam"] = Field("adam", description="sgd has momentum 0.9 and weight decay 1e-4")
    backbone: Literal["resnet50", "resnet18", "tiny"] = Field("resnet50", description="tiny: for CPUs")
    weights: Path | None = Field(None, description="file it starts from: own weights, or ImageNet's of its backbone")


class PretrainingConfig(StageConfig):
    """The generator's pretraining: its images shall be the originals."""

    epochs: int = Field(200, ge=1, le=100_000, description="most epochs")
    patience: int | None = Field(5, ge=1, description="epochs without a lower validation loss before it stops early")


class AdversarialConfig(StageConfig):
    """The generator against verifier and classifier."""

    epochs: int = Field(250, ge=1, le=100_000, description="most epochs")
    verifier_learning_rate: float = Field(1e-4, gt=0, description="of the verifier, Adam")
    classifier_learning_rate: float = Field(1e-4, gt=0, description="of the classifier, SGD")
    auxiliary_weight: float = Field(1.0, ge=0, description="of the classifier's loss in the generator's")
    verification_weight: float = Field(1.0, ge=0, description="of the verifier's loss in the generator's")
    keep: Literal["total", "auxiliary", "verification", "latest"] = Field(
        "total", description="which generator is registered: of the lowest such validation loss, or the last"
    )


class GeneratorConfig(Settings):
    """What is trained to obfuscate; as in the obfuscation's settings, image size and precision left out."""

    kind: Literal["flow-field", "privacy-net"] = Field("flow-field", description="PriCheXy-Net, or Privacy-Net")
    mu: float | None = Field(None, gt=0, le=0.1, description="flow-field: largest displacement, in half image widths")
    operator: Literal["corrected", "reference"] | None = Field(None, description="flow-field: how a field deforms")
    features: int | None = Field(None, ge=1, le=256, description="filters of the first block; as published when unset")
    weights: Path | None = Field(None, description="a generator's checkpoint; it stands for the pretraining")


class PairsConfig(Settings):
    """Pairs of images of one patient, and of two: generated, or the authors' lists."""

    train: int = Field(10_000, ge=4, description="training pairs; fewer when the table has no more")
    validation: int = Field(2_000, ge=4, description="validation pairs; fewer when the table has no more")
    test: int = Field(5_000, ge=4, description="test pairs; fewer when the table has no more")
    per_patient: int = Field(6, ge=1, description="most same-patient pairs of one patient")
    train_list: str | None = Field(None, description="the authors' list: image, image, 0 or 1, tab-separated")
    validation_list: str | None = Field(None, description="the same for validation")
    test_list: str | None = Field(None, description="the same for the test")


class ComputeConfig(Settings):
    """How training computes, and on what."""

    workers: int = Field(1, ge=1, le=4096, description="processes that share each batch; one a GPU")
    gpu: bool = Field(False, description="each worker has a GPU")
    threads: int = Field(1, ge=1, le=256, description="CPU threads of each worker, and cores that it reserves")
    precision: Literal["float32", "bfloat16"] = Field("float32", description="of networks; weights stay float32")
    channels_last: bool = Field(True, description="memory layout of the networks")
    compile: bool = Field(False, description="torch.compile; needs a C++ compiler on CPUs")
    clip_norm: float | None = Field(None, gt=0, description="largest gradient norm of one update")
    sync_batchnorm: bool = Field(False, description="batch norm over all workers' images; GPUs only")
    max_failures: int = Field(3, ge=0, description="workers lost before the job stops; it goes on from its checkpoint")

    @model_validator(mode="after")
    def _gpus_synchronize(self) -> Self:
        if self.sync_batchnorm and not self.gpu:
            raise ValueError("sync_batchnorm needs gpu: torch synchronizes batch norm on GPUs only")
        return self


class TrainConfig(Settings):
    """`prichexy train`: from a training table to a registered model. The defaults are the paper's."""

    stage: Literal["classifier", "verifier", "generator", "all"] = Field(
        "all", description="generator: its pretraining, then adversarially; all: classifier and verifier before"
    )
    table: str = Field(description="a training table made by `prichexy prepare`")
    storage_path: str = Field(description="folder or s3:// prefix for runs, which all workers reach; private")
    run: str = Field("train", pattern=r"^[A-Za-z0-9][\w.-]*$", description="its name; a run of that name goes on")
    cache: Path | None = Field(None, description="private folder of each worker, for a table in object storage")
    seed: int = Field(42, ge=0, lt=2**32, description="of weights, pairs and the order of images")
    pairs: PairsConfig = PairsConfig()
    classifier: ClassifierConfig = ClassifierConfig()
    verifier: VerifierConfig = VerifierConfig()
    generator: GeneratorConfig = GeneratorConfig()
    pretraining: PretrainingConfig = PretrainingConfig()
    adversarial: AdversarialConfig = AdversarialConfig()
    compute: ComputeConfig = ComputeConfig()
    figures: bool = Field(
        False, description="put validation images into MLflow; only for phantoms, or radiographs that may be shown"
    )
    figure_every: int = Field(5, ge=1, description="epochs from one figure to the next")
    register_as: str | None = Field("prichexy-net", description="registered name of the generator; null: none")
    tracking_uri: str | None = Field(None, description="MLflow; MLFLOW_TRACKING_URI or sqlite:///mlflow.db when unset")
    storage: StorageConfig = Field(default_factory=StorageConfig)
    ray: RayConfig = RayConfig()

    @model_validator(mode="after")
    def _shares_are_equal(self) -> Self:
        for name in ("classifier", "verifier", "pretraining", "adversarial"):
            if getattr(self, name).batch % self.compute.workers:
                raise ValueError(f"{name}.batch must be a multiple of compute.workers, so that workers share equally")
        return self


def _resolved(place: str) -> str:
    """A place in one spelling, ending in a slash, so that one place within another is seen."""
    scheme, separator, path = place.partition("://")
    if separator and scheme != "file":
        return f"{scheme}://{posixpath.normpath(path)}/"
    return os.path.realpath(path or place).rstrip("/") + "/"


ConfigT = TypeVar("ConfigT", bound=Settings)


def load(kind: type[ConfigT], file: Path | None = None, overrides: Sequence[str] = (), **given: Any) -> ConfigT:
    """A validated configuration.

    Args:
        kind: which configuration.
        file: YAML file with its settings, or None.
        overrides: ``key=value`` strings, dotted for nested settings (``storage.region=eu-central-1``); values are YAML.
        **given: values from the command line, which win over file and overrides; None means not given.

    Raises:
        UsageError: one sentence that names the setting and what is wrong with it.
    """
    values = parse_overrides(overrides, _read_yaml(file) if file else {})
    values.update({key: value for key, value in given.items() if value is not None})
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise UsageError(_sentence(kind, error)) from None


def parse_overrides(overrides: Sequence[str], values: dict[str, Any] | None = None) -> dict[str, Any]:
    """``key=value`` strings as nested settings, over those given."""
    values = {} if values is None else values
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator or not key:
            raise UsageError(f"'{override}' is not a setting: write key=value, such as storage.region=eu-central-1")
        try:
            _set(values, key.split("."), yaml.safe_load(text))
        except yaml.YAMLError:
            raise UsageError(f"the value of setting {key} can't be read as YAML") from None
    return values


def secret_file(configured: Path | None) -> Path | None:
    """The secret's file: as configured, or as the environment names it."""
    named = os.environ.get(SECRET_VARIABLE)
    return configured or (Path(named) if named else None)


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(file.read_text())
    except OSError as error:
        raise UsageError(f"the configuration {file} can't be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise UsageError(f"the configuration {file} is not valid YAML") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UsageError(f"the configuration {file} must hold settings as 'key: value'")
    return values


def _set(values: dict[str, Any], path: list[str], value: Any) -> None:
    for key in path[:-1]:
        nested = values.setdefault(key, {})
        if not isinstance(nested, dict):
            raise UsageError(f"setting {'.'.join(path)}: {key} is not a group of settings")
        values = nested
    values[path[-1]] = value


def _sentence(kind: type[Settings], error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        known = ", ".join(sorted(kind.model_fields))
        return f"unknown setting {where}{more}; the settings are: {known}"
    if first["type"] == "missing":
        return f"setting {where} is missing{more}: {kind.model_fields[where].description}"
    reason = first["msg"].removeprefix("Value error, ")
    return f"setting {where}: {reason}{more}" if where else f"{reason}{more}"
