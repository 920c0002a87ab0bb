"""A multi-scale-field model fitted to the training split of a table, with the classifier of a training run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prichexy.audit.critics import critics
from prichexy.cohort.table import open_table
from prichexy.config.audit import AuditSettings
from prichexy.errors import UsageError
from prichexy.obfuscation import ObfuscationSettings, parse_settings, save
from prichexy.training.appearance_fit import fit_appearance


def fit_to_table(config: AuditSettings, given: Mapping[str, Any], folder: Path) -> ObfuscationSettings:
    """Fit and save a model.

    Args:
        config: names the table, and the training run or file that holds the classifier of findings.
        given: settings of the obfuscation beside its kind; backbone and image size are the classifier's and the
            table's unless given.
        folder: for the model.

    Raises:
        UsageError: there is no classifier, a setting is wrong, or the table's images are smaller than the model's.
        StorageFault: the store failed.
    """
    table = open_table(config.table, config.storage, config.cache)
    _, classifier = critics(config, table.facts.fingerprint)
    if classifier is None:
        raise UsageError(
            "a multi-scale-field model is fitted with a classifier of findings: give training_run or classifier_weights"
        )
    size = table.facts.size
    settings = parse_settings(
        {"backbone": classifier.backbone, "image_size": size, **given, "kind": "multi-scale-field"}
    )
    if settings.image_size > size:
        raise UsageError(f"setting image_size: the table's images are {size} pixels wide: prepare a larger table")
    save(folder, settings, fit_appearance(table.split("train"), classifier, settings).state_dict())
    return settings
