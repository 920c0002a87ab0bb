"""The classifiers of findings that an audit trains: one on originals, which the model did not learn from, and one on
what the model publishes, which shows what can be learned from that.
"""

import json
import logging
from hashlib import sha256

import numpy as np
import ray
import torch

from prichexy.audit.utility import LabelledSplit
from prichexy.config import ClassifierConfig
from prichexy.config.audit import AuditSettings
from prichexy.errors import UsageError
from prichexy.lake.storage import Store
from prichexy.networks.checkpoints import load_into, load_safetensors_bytes, safetensors_bytes
from prichexy.networks.classifier import Classifier
from prichexy.networks.initial_weights import start_from
from prichexy.provenance import code_version
from prichexy.training.classifier_step import classifier_step, evaluate_classifier
from prichexy.training.compute import OPTIMISERS, Compute
from prichexy.training.in_process import train_in_process
from prichexy.training.seeds import seeded

log = logging.getLogger("prichexy.audit")


def unseen_classifier(train: LabelledSplit, validation: LabelledSplit, config: AuditSettings) -> Classifier:
    """A classifier that the audit alone trains, on originals, in a task on the Ray that this process is connected to.

    It is kept below the audits' place, since all models of a comparison have the same originals. Its seed is none that
    a training is likely to have: with that of the model's own classifier it would be that classifier again.

    Args:
        train: originals.
        validation: likewise, of other patients.
        config: of the audit.

    Raises:
        UsageError: a split has no images, or the initial weights don't fit.
        StorageFault: the store failed.
    """
    classifier = Classifier(config.classifier.backbone)
    kept, file = Store(config.out, config.storage), f"classifiers/{_key(train, validation, config)}.safetensors"
    try:
        content = kept.read(file)
    except FileNotFoundError:
        log.info("utility: a classifier that the model did not learn from is trained on originals")
        task = _trained.options(num_cpus=config.threads, num_gpus=1 if config.gpu else 0)
        content = ray.get(task.remote(train, validation, config, _seed(config.seed)))
        kept.write(file, content)
    load_into(classifier, load_safetensors_bytes(content))
    return classifier.eval()


def _seed(seed: int) -> int:
    return int.from_bytes(sha256(f"a classifier that no model learned from, {seed}".encode()).digest()[:4], "big")


def _key(train: LabelledSplit, validation: LabelledSplit, config: AuditSettings) -> str:
    """Of all that decides its weights."""
    facts = {"settings": config.classifier.model_dump(mode="json"), "seed": config.seed, "code": code_version()}
    digest = sha256(json.dumps(facts, sort_keys=True).encode())
    for split in (train, validation):
        digest.update(str(split.images_NHW.shape).encode())
        digest.update(np.ascontiguousarray(split.images_NHW).data)
        digest.update(np.ascontiguousarray(split.findings_NF).data)
    return digest.hexdigest()[:16]


@ray.remote  # type: ignore[untyped-decorator]
def _trained(train: LabelledSplit, validation: LabelledSplit, config: AuditSettings, seed: int) -> bytes:
    torch.set_num_threads(config.threads)
    device = "cuda" if config.gpu else "cpu"
    return safetensors_bytes(train_classifier(train, validation, config.classifier, seed, device).state_dict())


def train_classifier(
    train: LabelledSplit,
    validation: LabelledSplit,
    settings: ClassifierConfig,
    seed: int,
    device: torch.device | str = "cpu",
    compute: Compute | None = None,
) -> Classifier:
    """A classifier trained on the images given, in this process, as it was at its lowest validation loss.

    The same seed gives the same classifier on the same machine; the caller's random state stays as it is.

    Args:
        train: anonymized images, where the question is what can be learned from them.
        validation: likewise, of other patients.
        settings: as `prichexy train classifier` has them.
        seed: of the weights and of the order of images.
        device: where it is trained.
        compute: precision and layout.

    Raises:
        UsageError: a split has no images, or the weights don't fit.
        NonFiniteLossError: a loss became NaN or infinite.
    """
    if not len(train.images_NHW) or not len(validation.images_NHW):
        raise UsageError("a classifier can't be trained without training and validation images: prepare a larger table")
    compute, device = compute or Compute(), torch.device(device)
    with seeded(seed, device):
        classifier = Classifier(settings.backbone)
        if settings.weights is not None:
            start_from(classifier, settings.weights)
        compute.prepare(classifier, device)
        optimiser = OPTIMISERS[settings.optimiser](classifier, settings.learning_rate)
        train_in_process(
            classifier,
            optimiser,
            train.samples(),
            validation.samples(),
            lambda batch, step: classifier_step(batch, classifier, optimiser, compute, step),
            lambda batches: evaluate_classifier(classifier, batches, compute)["classifier"],
            settings,
            seed,
        )
    return classifier
