"""What a run's folder says of its stages: settings, MLflow runs, results; kept so that a later command can go on.

run.json                 the pipeline's MLflow run and the registered model
classifier/stage.json    the stage's settings, its MLflow run, and its result once it has ended
"""

import json
from typing import Any

from prichexy.config import TrainConfig
from prichexy.errors import UsageError
from prichexy.lake.storage import Store
from prichexy.training.stages import StageName

RUN, STAGE = "run.json", "stage.json"

_DECIDING_COMPUTE = {"precision", "clip_norm", "sync_batchnorm"}

# Whatever decides what a stage learns, beside seed, data and precision.
_DECIDING: dict[StageName, tuple[str, ...]] = {
    "classifier": ("classifier",),
    "verifier": ("verifier", "pairs"),
    "pretraining": ("generator", "pretraining"),
    "adversarial": ("generator", "adversarial", "pairs"),
    "multi_scale": ("generator", "multi_scale", "pairs"),
}


def read_record(store: Store, name: str) -> dict[str, Any]:
    """A record; empty when there is none."""
    try:
        record: dict[str, Any] = json.loads(store.read(name))
    except FileNotFoundError:
        return {}
    return record


def write_record(store: Store, name: str, record: dict[str, Any]) -> None:
    """Store a record over the one before."""
    store.write(name, (json.dumps(record, indent=2) + "\n").encode())


def deciding_settings(config: TrainConfig, stage: StageName, fingerprint: str) -> dict[str, Any]:
    """The settings that decide what a stage learns, flat, as JSON values, and the data's fingerprint."""
    dumped = config.model_dump(mode="json")
    chosen = {name: dumped[name] for name in (*_DECIDING[stage], "seed")}
    chosen["compute"] = {name: value for name, value in dumped["compute"].items() if name in _DECIDING_COMPUTE}
    starts = {"adversarial": ("verifier", "classifier"), "multi_scale": ("classifier",)}
    for critic in starts.get(stage, ()):
        chosen[critic] = {name: dumped[critic][name] for name in ("backbone", "weights")}
    return {**_flat(chosen), "table": fingerprint}


def check_unchanged(record: dict[str, Any], settings: dict[str, Any], run: str, stage: StageName) -> None:
    """Refuse to go on with a stage that was begun otherwise.

    Raises:
        UsageError: naming the settings that differ.
    """
    before = record.get("settings", settings)
    names = sorted(name for name in before.keys() | settings.keys() if before.get(name) != settings.get(name))
    if names:
        raise UsageError(
            f"the {stage} stage of run '{run}' was begun with another {', '.join(names)}: choose another name for "
            "the run, or the settings that it was begun with"
        )


def logged_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings as MLflow shows them: of files only that there is one."""
    places = ("weights", "_list")
    return {name: "given" if value and name.endswith(places) else value for name, value in settings.items()}


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat
