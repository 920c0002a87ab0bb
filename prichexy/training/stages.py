"""The stages, each made ready in a worker from the run's settings: networks, optimisers, samples, step.

classifier    14 findings on real images
verifier      same patient or not, on real pairs
pretraining   the generator, whose images shall be the originals
adversarial   the generator against both, which go on learning from its images
multi_scale   instead of these two: a multi-scale-field generator, fitted, then against several verifiers
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from prichexy.cohort.labels import read_file
from prichexy.cohort.pairs import Pairs, draw_pairs, parse_pairs
from prichexy.cohort.table import SplitRows, TrainingTable
from prichexy.config import StageConfig, TrainConfig
from prichexy.errors import UsageError
from prichexy.lake.storage import Store
from prichexy.networks.checkpoints import identify, load_into, load_published
from prichexy.networks.classifier import Classifier
from prichexy.networks.initial_weights import start_from
from prichexy.networks.verifier import Verifier
from prichexy.obfuscation import ObfuscationSettings, parse_settings
from prichexy.obfuscation.model_files import new_network
from prichexy.training.adversarial_step import (
    AdversarialSettings,
    Networks,
    Optimisers,
    adversarial_step,
    evaluate_adversarial,
)
from prichexy.training.augmentation import Augmentation
from prichexy.training.batches import ImagePairs, LabelledImages, LabelledPairs
from prichexy.training.checkpoints import Checkpoints, below
from prichexy.training.classifier_step import classifier_step, evaluate_classifier
from prichexy.training.compute import OPTIMISERS, Compute, adam, bare, sgd
from prichexy.training.epochs import Course, Stage
from prichexy.training.figures import obfuscation_figure
from prichexy.training.multi_scale_stage import multi_scale_stage
from prichexy.training.pretraining_step import evaluate_pretraining, pretraining_step
from prichexy.training.samples import (
    Samples,
    image_pairs,
    labelled_images,
    labelled_pairs,
    patient_pairs,
    verifier_samples,
)
from prichexy.training.verifier_step import evaluate_verifier, verifier_update
from prichexy.training.world import World

log = logging.getLogger("prichexy.training.stages")

StageName = Literal["classifier", "verifier", "pretraining", "adversarial", "multi_scale"]

GENERATOR_STAGES: tuple[StageName, ...] = ("adversarial", "multi_scale")
"""Those that a model comes out of."""

FIGURE_IMAGES = 4


def stages_of(config: TrainConfig) -> tuple[StageName, ...]:
    """The stages that a configuration trains, in order."""
    generator: tuple[StageName, ...] = ("pretraining", "adversarial")
    if config.generator.weights is not None:
        generator = ("adversarial",)
    if config.generator.kind == "multi-scale-field":
        generator = ("multi_scale",)
    if config.stage == "generator":
        return generator
    return ("classifier", "verifier", *generator) if config.stage == "all" else (config.stage,)


def obfuscation_of(config: TrainConfig, size: int) -> ObfuscationSettings:
    """Settings of the obfuscator that is trained.

    Args:
        config: the generator's settings, precision, and the classifier's backbone, which multi-scale-field contains.
        size: edge of the training table's images.

    Raises:
        UsageError: one sentence on the setting that does not fit.
    """
    given = config.generator.model_dump(exclude={"weights"}, exclude_none=True)
    if config.generator.kind == "multi-scale-field":
        return parse_settings({**given, "image_size": size, "backbone": config.classifier.backbone})
    return parse_settings({**given, "image_size": size, "precision": config.compute.precision})


@dataclass(frozen=True)
class Inputs:
    """What all stages of a run are made from, in one worker.

    Attributes:
        config: the run's settings.
        table: its data.
        run: the run's place, where earlier stages left their networks.
        world: this worker among the others.
    """

    config: TrainConfig
    table: TrainingTable
    run: Store
    world: World

    @property
    def compute(self) -> Compute:
        """Precision, layout, clipping."""
        settings = self.config.compute
        bf16 = settings.precision == "bfloat16"
        return Compute(bf16, settings.channels_last, settings.clip_norm, settings.compile)

    @property
    def obfuscation(self) -> ObfuscationSettings:
        """Of the generator."""
        return obfuscation_of(self.config, self.table.facts.size)

    @property
    def tested(self) -> bool:
        """Whether the table holds test patients."""
        return self.table.facts.counts.get("test", 0) >= self.world.size

    def course(self, settings: StageConfig) -> Course:
        """How long a stage is trained."""
        return Course(
            settings.epochs,
            settings.batch,
            settings.patience,
            settings.decay_patience,
            self.config.figure_every,
            settings.cosine_decay,
        )

    def ready(self, network: nn.Module) -> nn.Module:
        """The network on its device, and shared with the other workers."""
        self.compute.prepare(network, self.world.device)
        if self.config.compute.sync_batchnorm:
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        return self.world.shared(network)

    def trained(self, stage: StageName, network: str) -> dict[str, Any] | None:
        """Weights that an earlier stage of this run left at its lowest loss."""
        return Checkpoints(below(self.run, stage)).read_lowest(KEPT[stage][-1], network)


KEPT: dict[StageName, tuple[str, ...]] = {
    "classifier": ("classifier",),
    "verifier": ("verifier",),
    "pretraining": ("pretraining",),
    "adversarial": ("auxiliary", "verification", "total"),
    "multi_scale": ("total",),
}
"""The validation losses at whose lowest values a stage's networks are kept; the last one is watched."""


def make_stage(name: StageName, inputs: Inputs) -> Stage[Any]:
    """A stage, ready to be trained.

    Raises:
        UsageError: weights, pairs or splits that don't fit.
        StorageFault: the store failed.
    """
    makers: dict[StageName, Callable[[Inputs], Stage[Any]]] = {
        "classifier": _classifier,
        "verifier": _verifier,
        "pretraining": _pretraining,
        "adversarial": _adversarial,
        "multi_scale": _multi_scale,
    }
    return makers[name](inputs)


def split_pairs(config: TrainConfig, rows: SplitRows, split: str, epoch: int = 0) -> Pairs:
    """The pairs of a split, from the authors' list or drawn; the same for every worker.

    Args:
        config: how many, of which patients, from which list.
        rows: of the split.
        split: its name.
        epoch: where they are drawn, another one gives others.

    Raises:
        UsageError: the list can't be used, or no pairs can be drawn.
    """
    settings = config.pairs
    listed, wanted, number = {
        "train": (settings.train_list, settings.train, 0),
        "validation": (settings.validation_list, settings.validation, 1),
        "test": (settings.test_list, settings.test, 2),
    }[split]
    if listed is not None:
        setting = f"pairs.{split}_list"
        return parse_pairs(read_file(listed, config.storage, setting), rows.names, rows.patients, setting)
    seed = int(np.random.SeedSequence([config.seed, number, epoch]).generate_state(1)[0])
    return draw_pairs(rows.patients, wanted, seed, settings.per_patient)


def _classifier(inputs: Inputs) -> Stage[LabelledImages]:
    settings, compute = inputs.config.classifier, inputs.compute
    classifier = inputs.ready(initial_classifier(inputs.config))
    optimiser = OPTIMISERS[settings.optimiser](classifier, settings.learning_rate)
    return Stage(
        "classifier",
        {"classifier": classifier},
        {"classifier": optimiser},
        labelled_images(inputs.table.split("train")),
        labelled_images(inputs.table.split("validation")),
        labelled_images(inputs.table.split("test")) if inputs.tested else None,
        lambda batch, step: classifier_step(batch, classifier, optimiser, compute, step),
        lambda batches, gather: evaluate_classifier(bare(classifier), batches, compute, gather),
        watched="classifier",
        kept=KEPT["classifier"],
        course=inputs.course(settings),
    )


def _verifier(inputs: Inputs) -> Stage[Any]:
    config, settings, compute, world = inputs.config, inputs.config.verifier, inputs.compute, inputs.world
    verifier = inputs.ready(initial_verifier(config))
    optimiser = OPTIMISERS[settings.optimiser](verifier, settings.learning_rate)
    rows = inputs.table.split("train")
    augmentation = Augmentation(settings.augmentation, config.seed)

    def held_out(split: str) -> Samples[ImagePairs]:
        rows = inputs.table.split(split)
        return image_pairs(rows, split_pairs(config, rows, split))

    return Stage(
        "verifier",
        {"verifier": verifier},
        {"verifier": optimiser},
        verifier_samples(settings.compare, rows, _drawn(config, rows), augmentation),
        held_out("validation"),
        held_out("test") if inputs.tested and _has_pairs(inputs) else None,
        verifier_update(settings.compare, verifier, optimiser, compute, world),
        lambda batches, gather: evaluate_verifier(bare(verifier), batches, compute, gather),
        watched="verifier",
        kept=KEPT["verifier"],
        course=inputs.course(settings),
    )


def _drawn(config: TrainConfig, rows: SplitRows) -> Callable[[int], Pairs]:
    """The training pairs of an epoch."""
    first = split_pairs(config, rows, "train")
    return lambda epoch: first if epoch == 0 or config.pairs.train_list else split_pairs(config, rows, "train", epoch)


def _pretraining(inputs: Inputs) -> Stage[LabelledImages]:
    settings, compute, obfuscation = inputs.config.pretraining, inputs.compute, inputs.obfuscation
    generator = inputs.ready(initial_generator(inputs.config, obfuscation))
    optimiser = adam(generator, settings.learning_rate)
    validation = labelled_images(inputs.table.split("validation"))
    return Stage(
        "pretraining",
        {"generator": generator},
        {"generator": optimiser},
        labelled_images(inputs.table.split("train")),
        validation,
        None,
        lambda batch, step: pretraining_step(batch.images, generator, optimiser, obfuscation, compute, step),
        lambda batches, gather: evaluate_pretraining(bare(generator), batches, obfuscation, compute, gather),
        watched="pretraining",
        kept=KEPT["pretraining"],
        course=inputs.course(settings),
        figure=_figure(inputs, generator),
    )


def _adversarial(inputs: Inputs) -> Stage[LabelledPairs]:
    config, settings = inputs.config, inputs.config.adversarial
    step_settings = AdversarialSettings(
        inputs.obfuscation, settings.auxiliary_weight, settings.verification_weight, inputs.compute
    )
    generator = initial_generator(config, inputs.obfuscation)
    verifier, classifier = initial_verifier(config), initial_classifier(config)
    for stage, name, network in (
        ("pretraining", "generator", generator),
        ("verifier", "verifier", verifier),
        ("classifier", "classifier", classifier),
    ):
        weights = inputs.trained(stage, name)  # type: ignore[arg-type]
        if weights is not None and not (name == "generator" and config.generator.weights is not None):
            load_into(network, weights)
        elif getattr(config, name).weights is None:
            log.warning("the %s of the adversarial stage starts from random weights", name)
    networks = Networks(inputs.ready(generator), inputs.ready(verifier), inputs.ready(classifier))
    optimisers = Optimisers(
        adam(networks.generator, settings.learning_rate),
        adam(networks.verifier, settings.verifier_learning_rate),
        sgd(networks.classifier, settings.classifier_learning_rate),
    )
    alone = Networks(*map(bare, networks))

    return Stage(
        "adversarial",
        networks._asdict(),
        optimisers._asdict(),
        _labelled_pairs(inputs, "train"),
        _labelled_pairs(inputs, "validation"),
        _labelled_pairs(inputs, "test") if inputs.tested and _has_pairs(inputs) else None,
        lambda batch, step: adversarial_step(batch, networks, optimisers, step_settings, step),
        lambda batches, gather: evaluate_adversarial(alone, batches, step_settings, gather),
        watched="total",
        kept=KEPT["adversarial"],
        course=inputs.course(settings),
        figure=_figure(inputs, networks.generator),
    )


def _labelled_pairs(inputs: Inputs, split: str) -> Samples[LabelledPairs]:
    rows = inputs.table.split(split)
    return labelled_pairs(rows, split_pairs(inputs.config, rows, split))


def _multi_scale(inputs: Inputs) -> Stage[Any]:
    config, rows = inputs.config, inputs.table.split("train")
    classifier, weights = initial_classifier(config), inputs.trained("classifier", "classifier")
    if weights is not None:
        load_into(classifier, weights)
    return multi_scale_stage(
        inputs,
        classifier,
        patient_pairs(rows, _drawn(config, rows), None),
        lambda split: _labelled_pairs(inputs, split),
        inputs.tested and _has_pairs(inputs),
        lambda generator: _figure(inputs, generator),
    )


def initial_classifier(config: TrainConfig) -> Classifier:
    """The classifier before any training: random, or from the file that the settings name."""
    classifier = Classifier(config.classifier.backbone)
    if config.classifier.weights is not None:
        start_from(classifier, config.classifier.weights)
    return classifier


def initial_verifier(config: TrainConfig) -> Verifier:
    """The verifier before any training: random, or from the file that the settings name."""
    verifier = Verifier(config.verifier.backbone)
    if config.verifier.weights is not None:
        start_from(verifier, config.verifier.weights)
    return verifier


def initial_generator(config: TrainConfig, obfuscation: ObfuscationSettings) -> nn.Module:
    """The generator before any training: random, or from the file that the settings name."""
    generator = new_network(obfuscation)
    assert generator is not None, "the configuration has kinds with a network only"
    if config.generator.weights is not None:
        _load_generator(generator, config.generator.weights, obfuscation)
    return generator


def _load_generator(generator: nn.Module, file: Path, obfuscation: ObfuscationSettings) -> None:
    state = load_published(file)
    kind = identify(state).kind
    if kind != obfuscation.kind:
        raise UsageError(f"setting generator.weights: the file is of kind {kind}, the settings of {obfuscation.kind}")
    load_into(generator, state)


def _has_pairs(inputs: Inputs) -> bool:
    """Whether test pairs of both kinds can be had; a small table's test split may have none."""
    if inputs.config.pairs.test_list is not None:
        return True
    _, images = np.unique(inputs.table.split("test").patients, return_counts=True)
    return int((images > 1).sum()) > 1


def _figure(inputs: Inputs, generator: nn.Module) -> Callable[[], bytes] | None:
    """A function that pictures some validation images, where the settings say that they may be shown."""
    if not inputs.config.figures:
        return None
    rows = inputs.table.split("validation")
    chosen = np.linspace(0, len(rows) - 1, min(FIGURE_IMAGES, len(rows))).astype(np.int64)
    images_N1HW = torch.from_numpy(rows.images(chosen)).unsqueeze(1)
    return lambda: obfuscation_figure(bare(generator), images_N1HW, inputs.obfuscation, inputs.compute)
