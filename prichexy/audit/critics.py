"""The networks that a model was trained against, for its audit: from its training run, or from checkpoint files."""

from prichexy.config.audit import AuditSettings
from prichexy.errors import UsageError
from prichexy.lake.storage import Store
from prichexy.networks.checkpoints import identify, load_into, load_published
from prichexy.networks.classifier import Classifier
from prichexy.networks.verifier import Verifier
from prichexy.training.checkpoints import Checkpoints, below
from prichexy.training.records import STAGE, read_record


def critics(settings: AuditSettings, fingerprint: str) -> tuple[Verifier | None, Classifier | None]:
    """Verifier and classifier, trained on originals; None where none is named.

    Args:
        settings: name a training run, or checkpoint files.
        fingerprint: of the audit's table. A run on another table may have seen the test patients.

    Raises:
        UsageError: there is no such run, it was on another table, or a file is of another network.
    """
    verifier, classifier = _of_run(settings, fingerprint) if settings.training_run else (None, None)
    if settings.verifier_weights is not None:
        state = load_published(settings.verifier_weights)
        _check(identify(state).kind, "verifier", "verifier_weights")
        verifier = Verifier("resnet50")
        load_into(verifier, state)
    if settings.classifier_weights is not None:
        state = load_published(settings.classifier_weights)
        _check(identify(state).kind, "classifier", "classifier_weights")
        classifier = Classifier("densenet121")
        load_into(classifier, state)
    return verifier, classifier


def _of_run(settings: AuditSettings, fingerprint: str) -> tuple[Verifier | None, Classifier | None]:
    run = Store(str(settings.training_run), settings.storage)
    found: dict[str, Verifier | Classifier] = {}
    for stage in ("verifier", "classifier"):
        record = read_record(below(run, stage), STAGE)
        weights = Checkpoints(below(run, stage)).read_lowest(stage, stage)
        if "settings" not in record or weights is None:
            raise UsageError(f"setting training_run: there is no trained {stage} in {settings.training_run}")
        if record["settings"]["table"] != fingerprint:
            raise UsageError(
                "setting training_run: that run was trained on another table, so it may have seen this table's test "
                "patients: audit with the table that it was trained on"
            )
        backbone = record["settings"][f"{stage}.backbone"]
        network = Verifier(backbone) if stage == "verifier" else Classifier(backbone)
        load_into(network, weights)
        found[stage] = network.eval()
    verifier, classifier = found["verifier"], found["classifier"]
    assert isinstance(verifier, Verifier)
    assert isinstance(classifier, Classifier)
    return verifier, classifier


def _check(kind: str, wanted: str, setting: str) -> None:
    if kind != wanted:
        raise UsageError(f"setting {setting}: the file holds a {kind}, not a {wanted}")
