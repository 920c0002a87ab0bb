"""The stage that trains multi-scale-field, made ready in a worker: what is fitted, its critics, their restarts."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn
from torch.optim import Adam

from prichexy.config import MultiScaleConfig
from prichexy.networks.classifier import Classifier
from prichexy.networks.coarse_appearance import CoarseAppearance
from prichexy.networks.initial_weights import start_from
from prichexy.networks.verifier import Verifier, VerifierBackbone
from prichexy.training.appearance_fit import fit_appearance
from prichexy.training.batches import LabelledPairs, PatientPairs
from prichexy.training.compute import adamw, bare
from prichexy.training.epochs import Stage
from prichexy.training.multi_scale_step import (
    MultiScaleSettings,
    Networks,
    Optimisers,
    evaluate_multi_scale,
    multi_scale_step,
    restart,
    restarted,
)
from prichexy.training.samples import Samples
from prichexy.training.seeds import seeded

if TYPE_CHECKING:
    from prichexy.training.stages import Inputs

CRITICS: dict[str, tuple[VerifierBackbone, float]] = {
    "tiny-narrow": ("tiny", 0.5),
    "tiny": ("tiny", 1.0),
    "tiny-wide": ("tiny", 2.0),
    "resnet18": ("resnet18", 1.0),
    "resnet50": ("resnet50", 1.0),
}
"""Backbone and width of what the setting `multi_scale.critics` names."""

_OF_CRITICS = 5
"""Last word of seeds, which tells first weights from other random numbers made of the same seed."""


def multi_scale_stage(
    inputs: "Inputs",
    classifier: Classifier,
    training: Samples[PatientPairs],
    held_out: Callable[[str], Samples[LabelledPairs]],
    tested: bool,
    figure: Callable[[nn.Module], Callable[[], bytes] | None],
) -> Stage[Any]:
    """The stage, its generator fitted to the training images.

    The fit is made at every start, the same each time; a checkpoint then puts in its place what was learned.

    Args:
        inputs: of the run.
        classifier: trained on originals of the training patients; the model keeps a copy of it.
        training: same-patient pairs.
        held_out: labelled pairs of a split.
        tested: whether there are any of the test split.
        figure: makes, for a generator, what pictures its images.

    Raises:
        UsageError: the appearance can't be fitted, or a file of weights can't be used.
    """
    config, settings = inputs.config, inputs.config.multi_scale
    appearance = fit_appearance(inputs.table.split("train"), classifier.to(inputs.world.device), inputs.obfuscation)
    generator = inputs.ready(appearance)
    critics = [inputs.ready(_critic(config.seed, name, 0, number)) for number, name in enumerate(settings.critics)]
    judges = tuple(judge.to(inputs.world.device) for judge in judging_classifiers(settings))
    networks = Networks(generator, tuple(critics), judges)
    alone = Networks(bare(generator), tuple(map(bare, critics)), judges)
    optimisers = Optimisers(
        _adam(appearance, settings),
        tuple(adamw(critic, settings.critic_learning_rate) for critic in critics),
    )
    step_settings = MultiScaleSettings(
        inputs.obfuscation,
        settings.privacy_weight,
        settings.critic_augmentation,
        config.seed,
        inputs.compute,
        inputs.world,
    )
    check = check_classifier(settings)
    if check is not None:
        check.to(inputs.world.device)

    def begin(epoch: int) -> None:
        number = restarted(epoch, settings.restart_every, len(critics))
        if number is not None:
            fresh = _critic(config.seed, settings.critics[number], epoch, number)
            restart(critics[number], optimisers.critics[number], fresh)

    return Stage(
        "multi_scale",
        _named(networks),
        _named(optimisers),
        training,
        held_out("validation"),
        held_out("test") if tested else None,
        lambda batch, step: multi_scale_step(batch, networks, optimisers, step_settings, step),
        lambda batches, gather: evaluate_multi_scale(alone, batches, step_settings, check, gather),
        watched="total",
        kept=("total",),
        course=inputs.course(settings),
        figure=figure(generator),
        begin=begin,
        tests_last=settings.keep == "latest",
    )


def _adam(appearance: CoarseAppearance, settings: MultiScaleConfig) -> Adam:
    """Adam with a rate of its own for images: its steps have the rate's size, and a pixel's scale is another's.

    At the axes' rate some hundred steps would draw noise over the expected image.
    """
    groups = [
        {"params": [appearance.axes, appearance.shares], "lr": settings.learning_rate},
        {"params": [appearance.basis], "lr": settings.basis_learning_rate},
    ]
    return Adam(groups, fused=True)


def _named(both: Networks | Optimisers) -> dict[str, Any]:
    return {"generator": both.generator} | {f"critic_{n}": each for n, each in enumerate(both.critics, start=1)}


def _critic(seed: int, name: str, epoch: int, number: int) -> Verifier:
    """A verifier with random weights, other ones each time that it starts, and the same in every worker."""
    backbone, width = CRITICS[name]
    with seeded(int(np.random.SeedSequence([seed, epoch, number, _OF_CRITICS]).generate_state(1)[0])):
        return Verifier(backbone, width)


def check_classifier(settings: MultiScaleConfig) -> Classifier | None:
    """The classifier that training does not use, from the file that the settings name; None where they name none.

    Raises:
        UsageError: if the file is no classifier of that backbone.
    """
    return None if settings.check_weights is None else _frozen_classifier(settings, settings.check_weights)


def judging_classifiers(settings: MultiScaleConfig) -> list[Classifier]:
    """The classifiers that judge beside the model's own, from the files that the settings name.

    Raises:
        UsageError: if a file is no classifier of that backbone.
    """
    return [_frozen_classifier(settings, file) for file in settings.judge_weights]


def _frozen_classifier(settings: MultiScaleConfig, file: Path) -> Classifier:
    classifier = Classifier(settings.check_backbone)
    start_from(classifier, file)
    return classifier.eval().requires_grad_(False)
