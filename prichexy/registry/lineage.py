"""What was published with a model: a tag on its version for each destination.

The destination's manifest names the model, the tag names the destination, so that either is found from the other. The
manifest is proven by its hash; the tag is for people, and nothing is decided by it.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from itertools import groupby

from prichexy.registry.models import ModelVersion, Registry

PUBLISHED_TAG = "prichexy.published."


@dataclass(frozen=True)
class Publication:
    """What was published with a model version in one place.

    Attributes:
        destination: as the job had it.
        snapshots: which were made with it, such as ``1-3, 5``.
        noted: when that was noted, ISO 8601, UTC.
    """

    destination: str
    snapshots: str
    noted: str


def note_publication(registry: Registry, model: ModelVersion, destination: str, snapshots: Iterable[int]) -> None:
    """Note with a model version what was published with it in a place, instead of what was noted for that place.

    Nothing is noted of a model that is in no registry, or without a snapshot.

    Args:
        registry: where the model is.
        model: which version.
        destination: a public place, named in full.
        snapshots: all that were made with it there.

    Raises:
        PrichexyError: the registry can't be reached.
    """
    numbers = sorted(set(snapshots))
    if not model.registered or not numbers:
        return
    noted = datetime.now(UTC).isoformat(timespec="seconds")
    facts = {"destination": destination, "snapshots": _spans(numbers), "noted": noted}
    key = f"{PUBLISHED_TAG}{sha256(destination.encode()).hexdigest()[:16]}"
    with registry.asked() as client:
        client.set_model_version_tag(model.name, model.version, key, json.dumps(facts))


def publications(registry: Registry, model: ModelVersion) -> list[Publication]:
    """What was published with a registered version, by destination; tags that are none of ours are passed over.

    Raises:
        PrichexyError: the registry can't be reached.
    """
    with registry.asked() as client:
        tags = client.get_model_version(model.name, model.version).tags
    found = (_parsed(text) for key, text in tags.items() if key.startswith(PUBLISHED_TAG))
    return sorted((each for each in found if each is not None), key=lambda each: each.destination)


def _spans(numbers: list[int]) -> str:
    """Numbers in ascending order, runs of them as ``first-last``."""
    runs = ([number for _, number in run] for _, run in groupby(enumerate(numbers), key=lambda each: each[1] - each[0]))
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def _parsed(text: str) -> Publication | None:
    try:
        facts = json.loads(text)
        return Publication(*(str(facts[name]) for name in ("destination", "snapshots", "noted")))
    except (ValueError, KeyError, TypeError):
        return None
