"""What `promote` and `publish` would do: one process each, without Ray."""

from prichexy.config import PromoteConfig, PublishConfig, secret_file
from prichexy.deid import read_secret_file
from prichexy.dry_run.plan import Estimate, Plan, asked_registry
from prichexy.lake.storage import Store
from prichexy.publish.source import read_publication
from prichexy.publish.writing import documents
from prichexy.registry import foresee
from prichexy.registry.models import without_password

LOCAL = "local"
"""Name of a model that is in no registry."""

ALONE = {"where": "one process, no Ray", "cores": 1, "gpus": 0}


def plan_promote(config: PromoteConfig) -> Plan:
    """What the promotion or rollback would come to; no event is made.

    Raises:
        UsageError: what the job would refuse for its settings; see `prichexy.registry.promote`.
        PrichexyError: the registry can't be reached.
    """
    secret = read_secret_file(secret_file(config.secret_file))
    registry = asked_registry(config.tracking_uri, "models:")
    seen = foresee(registry, config.model, secret, config.rollback)
    does = {
        "promoted": f"makes {seen.model} the champion",
        "rolled back": f"makes {seen.model} the champion again",
        "unchanged": f"nothing: {seen.model} is the champion",
        "refused": f"refuses {seen.model}, and notes that",
    }[seen.outcome]
    return Plan(
        job="promote",
        does=does,
        places={"registry": without_password(registry.uri)},
        facts={
            "model": seen.model,
            "outcome": seen.outcome,
            "audit": seen.audit_id,
            "champion": seen.champion,
            "previous": seen.previous,
            "reason": config.reason,
        },
        resources=ALONE,
        estimate=Estimate(None, None, "seconds: the model's files are fetched once, and hashed"),
        refusal=seen.refusal,
    )


def plan_publish(config: PublishConfig) -> Plan:
    """What would be written beside the shards; all of it is made, from a few columns of each shard, and none written.

    Raises:
        UsageError: a setting can't be met.
        PrichexyError: there is no finished publication, or a store can't be reached.
    """
    store = Store(config.destination, config.storage)
    publication = read_publication(store)
    proving = secret_file(config.secret_file) is not None
    models = [f"models:/{making.model}" for making in publication.makings if proving and making.name != LOCAL]
    registry = asked_registry(config.tracking_uri, *models)
    places = {"destination": config.destination, "registry": without_password(registry.uri)}
    made = documents(config)
    facts = {
        "snapshot": publication.snapshot,
        "images": publication.images,
        "bytes": publication.size,
        "audits": {found.making.model: found.state for found in made.facts.evidence},
    }
    if config.check:
        reads = "every published byte" if config.verify else "the documents"
        does, basis = f"reads {reads} and says what is missing; writes nothing", "as long as reading that takes"
    else:
        files = {path: _against(store, path, data) for path, data in made.files.items()}
        facts["files"] = files
        does = f"writes {sum(state != 'the same' for state in files.values())} of {len(files)} files beside the shards"
        basis = "as long as this dry run took: it made the same files"
    return Plan("publish", does, places, facts, ALONE, Estimate(None, None, basis))


def _against(store: Store, path: str, data: bytes) -> str:
    """A file against the one that is there."""
    try:
        return "the same" if store.read(path) == data else "another is there"
    except FileNotFoundError:
        return "new"
