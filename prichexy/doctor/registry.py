"""MLflow and the model that the job wants."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from prichexy.config import AnonymizeConfig
from prichexy.doctor.finding import Finding, failed, ok, warning
from prichexy.errors import PrichexyError, UsageError
from prichexy.registry import Registry


def check_registry(config: AnonymizeConfig) -> Iterator[Finding]:
    """Whether MLflow answers, and has the model; nothing is made there."""
    registry = Registry(config.tracking_uri)
    if not config.model.startswith("models:"):
        yield ok("mlflow", "not needed: the model is a folder")
        yield _check_folder(registry, config.model)
        return
    if registry.absent_database:
        found = f"there is no registry {registry.absent_database} here"
        yield failed("mlflow", found, "set tracking_uri (or MLFLOW_TRACKING_URI) to the registry that holds the model")
        return
    mend = "`prichexy models list` shows what there is; `prichexy promote` gives a version the alias champion"
    try:
        version = registry.find(config.model)
    except UsageError as error:
        yield ok("mlflow", "answers")
        yield failed("model", str(error), mend)
        return
    except PrichexyError as error:
        mend = "start the server, or check tracking_uri, the network from here, and the server's --allowed-hosts"
        yield failed("mlflow", str(error), mend)
        return
    yield ok("mlflow", "answers")
    name = f"{version.name} version {version.version}"
    if not version.audited and not config.allow_unaudited:
        mend = "`prichexy audit` it, or set allow_unaudited, which every shard then says"
        yield failed("model", f"{name} has no passing audit", mend)
    elif not version.audited:
        yield warning("model", f"{name} has no passing audit; shards will say so", "`prichexy audit` it")
    else:
        yield ok("model", f"{name}, whose latest audit passed")


def _check_folder(registry: Registry, folder: str) -> Finding:
    try:
        with tempfile.TemporaryDirectory(prefix="prichexy-doctor-") as into:
            version = registry.fetch(os.fspath(folder), Path(into))
    except PrichexyError as error:
        return failed("model", str(error), "name a folder that `prichexy models import` or a training made")
    return ok("model", f"a {version.settings.kind} model in a folder")
