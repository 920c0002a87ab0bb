"""Settings of `train`; the defaults are the paper's."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from prichexy.config.shared import RayConfig, Settings, StorageConfig


class StageConfig(Settings):
    """How one network, or the generator with its critics, is trained; the lowest validation loss decides."""

    epochs: int = Field(ge=1, le=100_000, description="most epochs")
    batch: int = Field(64, ge=2, description="images or pairs of one step, all workers together")
    learning_rate: float = Field(1e-4, gt=0, description="at the start")
    patience: int | None = Field(None, ge=1, description="epochs without a lower validation loss before it stops early")
    decay_patience: int | None = Field(
        None, ge=0, description="epochs without a lower validation loss before the learning rate is divided by 10"
    )
    cosine_decay: bool = Field(
        False, description="instead, the learning rate falls along half a cosine over all epochs, down to 0"
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
    optimiser: Literal["sgd", "adam", "adamw"] = Field(
        "adam", description="sgd has momentum 0.9 and weight decay 1e-4, adamw a weight decay of 0.05"
    )
    backbone: Literal["resnet50", "resnet18", "tiny"] = Field("resnet50", description="tiny: from 64 px, for CPUs")
    weights: Path | None = Field(None, description="file it starts from: own weights, or ImageNet's of its backbone")
    compare: Literal["pairs", "batch"] = Field(
        "pairs",
        description="what a step learns from: its pairs; or same-patient pairs, drawn anew for each epoch, with all "
        "comparisons between their images",
    )
    augmentation: float = Field(
        0.0, ge=0, le=3, description="strength of random changes of training images (position, exposure); 1 is usual"
    )


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


class MultiScaleConfig(StageConfig):
    """multi-scale-field against several verifiers and a correlation of thumbnails."""

    epochs: int = Field(100, ge=1, le=100_000, description="most epochs")
    batch: int = Field(64, ge=4, description="same-patient pairs of one step, all workers together")
    learning_rate: float = Field(1e-3, gt=0, description="of axes and shares of detail, Adam")
    basis_learning_rate: float = Field(
        1e-4, gt=0, description="of the images along the axes, Adam: about so much of the grey range a step and pixel"
    )
    privacy_weight: float = Field(
        1.0, ge=0, description="of the attackers' success in the loss, against what is lost of the findings"
    )
    critics: tuple[Literal["tiny-narrow", "tiny", "tiny-wide", "resnet18", "resnet50"], ...] = Field(
        ("tiny-narrow", "tiny", "tiny-wide"), min_length=1, max_length=9, description="backbones of the verifiers"
    )
    critic_learning_rate: float = Field(1e-3, gt=0, description="of each verifier, AdamW")
    critic_augmentation: float = Field(
        1.0, ge=0, le=3, description="strength of random changes of what verifiers learn from; the generator's are none"
    )
    restart_every: int | None = Field(
        10, ge=1, description="epochs after which one verifier starts anew, each in its turn; null: never"
    )
    keep: Literal["latest", "total"] = Field(
        "latest",
        description="which generator is registered: the last, or that of the lowest validation loss, which verifiers "
        "that have not learned yet make too low",
    )
    check_weights: Path | None = Field(
        None, description="a classifier's file that training does not use: what it still finds is reported"
    )
    judge_weights: tuple[Path, ...] = Field(
        (), description="files of further classifiers, trained with other seeds, whose findings shall be left as well"
    )
    check_backbone: Literal["densenet121", "resnet18", "tiny"] = Field("densenet121", description="of these files")


class GeneratorConfig(Settings):
    """What is trained to obfuscate; as in the obfuscation's settings, image size and precision left out."""

    kind: Literal["flow-field", "privacy-net", "multi-scale-field"] = Field(
        "flow-field", description="PriCheXy-Net, Privacy-Net, or standardized coarse appearance under smooth fields"
    )
    mu: float | None = Field(None, gt=0, le=0.1, description="flow-field: largest displacement, in half image widths")
    operator: Literal["corrected", "reference"] | None = Field(None, description="flow-field: how a field deforms")
    features: int | None = Field(None, ge=1, le=256, description="filters of the first block; as published when unset")
    weights: Path | None = Field(None, description="a generator's checkpoint; it stands for the pretraining")
    coarse_px: float | None = Field(
        None, gt=0, le=64, description="multi-scale-field: sigma of the coarse appearance, in pixels of 256"
    )
    detail: float | None = Field(
        None, ge=0, le=1, description="multi-scale-field: share of detail that stays, before shares are learned"
    )
    kept: int | None = Field(
        None, ge=0, le=14, description="multi-scale-field: numbers in which findings decide on the coarse appearance"
    )
    code_noise: float | None = Field(None, ge=0, le=10, description="multi-scale-field: noise on them")
    fields_px: tuple[float, float, float] | None = Field(
        None, description="multi-scale-field: bounds of the three fields, in pixels of 256"
    )
    exposure: float | None = Field(None, ge=0, le=0.5, description="multi-scale-field: largest change of exposure")
    contrast: float | None = Field(None, ge=0, le=0.5, description="multi-scale-field: largest change of contrast")

    @model_validator(mode="after")
    def _fitted_not_loaded(self) -> Self:
        if self.kind == "multi-scale-field" and self.weights is not None:
            raise ValueError("weights: multi-scale-field starts from what is fitted to the table; leave them out")
        return self


class PairCounts(Settings):
    """Pairs of images of one patient, and of two, half of each."""

    train: int = Field(10_000, ge=4, description="training pairs; fewer when the table has no more")
    validation: int = Field(2_000, ge=4, description="validation pairs; fewer when the table has no more")
    test: int = Field(5_000, ge=4, description="test pairs; fewer when the table has no more")
    per_patient: int = Field(6, ge=1, description="most same-patient pairs of one patient")


class PairsConfig(PairCounts):
    """Pairs that are generated, or the authors' lists."""

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
        "all",
        description="generator: its pretraining, then adversarially (multi-scale-field: a fit, then against several "
        "verifiers); all: classifier and verifier before",
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
    multi_scale: MultiScaleConfig = MultiScaleConfig()
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
        own = ("multi_scale",) if self.generator.kind == "multi-scale-field" else ("pretraining", "adversarial")
        for name in ("classifier", "verifier", *own):
            if getattr(self, name).batch % self.compute.workers:
                raise ValueError(f"{name}.batch must be a multiple of compute.workers, so that workers share equally")
        return self
