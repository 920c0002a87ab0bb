"""Models, versioned.

A model version is a folder as `prichexy.obfuscation` saves it (settings and safetensors), logged as the artifact of
an MLflow run and registered under a name. Its obfuscation settings are tags too, so that a person finds them in
MLflow's pages.
"""

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.exceptions import MlflowException

from prichexy.errors import PrichexyError, UsageError
from prichexy.obfuscation import ObfuscationSettings, fingerprint_of, parse_settings, read
from prichexy.verdict import ModelUnderAudit, VerdictError

DEFAULT_TRACKING_URI = "sqlite:///mlflow.db"
EXPERIMENT = "prichexy"
ARTIFACT = "model"
SETTING_TAG, FINGERPRINT_TAG = "prichexy.setting.", "prichexy.fingerprint"
AUDIT_TAG, PASSED_TAG = "prichexy.audit.id", "prichexy.audit.passed"

_MODEL_URI = re.compile(r"models:/(?P<name>[^/@]+)(?:/(?P<version>\d+)|@(?P<alias>[^/@]+))")


@dataclass(frozen=True)
class ModelVersion:
    """A model that can be fetched.

    Attributes:
        name: registered name; ``local`` for a folder that is in no registry.
        version: registered version; the fingerprint's first 12 digits for a folder.
        settings: kind, mu, operator, image size, precision and so on.
        fingerprint: SHA-256 over settings and weights.
        audited: whether the registry's tags say that its latest audit passed. For people: promotion and publishing
            believe the sealed record only.
        audit_id: of its latest audit; None without one.
        run_id: MLflow run that holds its files and audits; None for a folder.
        aliases: such as ``champion``.
        created: when, UTC.
        folder: where it was fetched to; empty path until then.
    """

    name: str
    version: str
    settings: ObfuscationSettings
    fingerprint: str
    audited: bool = False
    audit_id: str | None = None
    run_id: str | None = None
    aliases: tuple[str, ...] = ()
    created: datetime | None = None
    folder: Path = field(default=Path(), compare=False)

    @property
    def registered(self) -> bool:
        """Whether it is in a registry."""
        return self.run_id is not None

    def under_audit(self) -> ModelUnderAudit:
        """The model as an audit's record names it."""
        settings = self.settings.recorded()
        return ModelUnderAudit(
            name=self.name if self.registered else None,
            version=self.version if self.registered else None,
            fingerprint=self.fingerprint,
            kind=settings.pop("kind"),
            settings=settings,
        )


class Registry:
    """An MLflow tracking server with its model registry (or a local sqlite file)."""

    def __init__(self, tracking_uri: str | None = None) -> None:
        """`tracking_uri`: as given, else MLFLOW_TRACKING_URI, else ``sqlite:///mlflow.db`` in the working folder."""
        self.uri = _in_this_folder(tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_TRACKING_URI)
        logging.getLogger("mlflow").setLevel(logging.ERROR)
        logging.getLogger("alembic").setLevel(logging.ERROR)

    @property
    def absent_database(self) -> str | None:
        """The sqlite file that this registry would be, where there is none yet: MLflow makes it when it is asked."""
        database = self.uri.removeprefix("sqlite:///")
        return database if database != self.uri and not Path(database).exists() else None

    def register(self, folder: Path, name: str, origin: str, run_id: str | None = None) -> ModelVersion:
        """Log a model folder and make it the next version of `name`.

        Args:
            folder: as `prichexy.obfuscation.save` wrote it.
            name: registered model name.
            origin: one phrase on where the weights come from.
            run_id: MLflow run that made it; a run of its own when None. The same model of the same run is registered
                once, however often it is asked for.

        Raises:
            PrichexyError: the registry can't be reached or refused; no version was made.
        """
        settings, digest = _described(folder)
        tags = {FINGERPRINT_TAG: digest, "prichexy.origin": origin}
        tags |= {f"{SETTING_TAG}{key}": str(value) for key, value in settings.recorded().items()}
        with self.asked() as client:
            if run_id is None:
                run = client.create_run(experiment(client, self.uri), run_name=f"import {name}", tags=tags)
            else:
                run = client.get_run(run_id)
                for found in _pages(client.search_model_versions, filter_string=f"name='{name}'"):
                    if found.run_id == run_id and found.tags.get(FINGERPRINT_TAG) == digest:
                        created = _time(found.creation_timestamp)
                        return ModelVersion(name, str(found.version), settings, digest, run_id=run_id, created=created)
            client.log_artifacts(run.info.run_id, str(folder), ARTIFACT)
            if run_id is None:
                client.set_terminated(run.info.run_id)
            try:
                client.create_registered_model(name)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            made = client.create_model_version(
                name, source=f"{run.info.artifact_uri}/{ARTIFACT}", run_id=run.info.run_id, tags=tags
            )
        return ModelVersion(
            name, str(made.version), settings, digest, run_id=run.info.run_id, created=_time(made.creation_timestamp)
        )

    def fetch(self, uri: str, into: Path) -> ModelVersion:
        """The model that a URI names, its files fetched.

        Args:
            uri: ``models:/NAME/VERSION``, ``models:/NAME@ALIAS``, or a model folder.
            into: an empty folder for the files.

        Raises:
            UsageError: no such model, version or alias, or a URI of another form.
            PrichexyError: the registry can't be reached, or the files are not those that were registered.
        """
        if not uri.startswith("models:"):
            return _from_folder(Path(uri))
        return self.fetch_version(self.find(uri), into)

    def find(self, uri: str) -> ModelVersion:
        """The registered version that a URI names, as its tags describe it; no file is fetched.

        Args:
            uri: ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS``.

        Raises:
            UsageError: no such model, version or alias, or a URI of another form.
            PrichexyError: the registry can't be reached.
        """
        match = _MODEL_URI.fullmatch(uri)
        if not match:
            raise UsageError(
                f"setting model: '{uri}' is not models:/NAME/VERSION, models:/NAME@ALIAS or a model folder"
            )
        absent = UsageError(
            f"setting model: there is no {uri} in the registry {without_password(self.uri)} "
            "(see `prichexy models list`)"
        )
        with self.asked() as client:
            try:
                if match["alias"]:
                    found = client.get_model_version_by_alias(match["name"], match["alias"])
                else:
                    found = client.get_model_version(match["name"], match["version"])
            except MlflowException as error:
                if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                    raise absent from None
                raise
        if FINGERPRINT_TAG not in found.tags:
            raise UsageError(f"setting model: {uri} was not registered by prichexy (see `prichexy models list`)")
        return _version_of(found, tuple(found.aliases))

    def fetch_version(self, found: ModelVersion, into: Path) -> ModelVersion:
        """A registered version with its files, which are proven to be those that were registered.

        Args:
            found: as `find` gave it.
            into: an empty folder for the files.

        Raises:
            VerdictError: of kind ``weights``: the files were exchanged.
            UsageError: the files are no model.
            PrichexyError: the registry can't be reached.
        """
        with self.asked() as client:
            source = client.get_model_version_download_uri(found.name, found.version)
            folder = Path(download_artifacts(artifact_uri=source, dst_path=str(into), tracking_uri=self.uri))
        settings, digest = _described(folder)
        if found.fingerprint != digest:
            raise VerdictError(
                "weights",
                f"the files of models:/{found.name}/{found.version} are not those that were registered: "
                "their fingerprint differs",
            )
        return replace(found, settings=settings, folder=folder)

    def list(self) -> Iterator[ModelVersion]:
        """Every version of every model, newest version first within a name.

        Raises:
            PrichexyError: the registry can't be reached.
        """
        with self.asked() as client:
            for model in sorted(_pages(client.search_registered_models), key=lambda model: str(model.name)):
                # Aliases are complete on the registered model only.
                aliases: dict[str, list[str]] = {}
                for alias, version in client.get_registered_model(model.name).aliases.items():
                    aliases.setdefault(str(version), []).append(alias)
                versions = _pages(client.search_model_versions, filter_string=f"name='{model.name}'")
                for found in sorted(versions, key=lambda version: -int(version.version)):
                    if FINGERPRINT_TAG in found.tags:  # others in this registry are not ours
                        yield _version_of(found, tuple(sorted(aliases.get(str(found.version), []))))

    @contextmanager
    def asked(self) -> Iterator[MlflowClient]:
        """MLflow's client, whose errors become a `PrichexyError` of one sentence."""
        try:
            yield MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
        except PrichexyError:
            raise
        except Exception as error:
            code = getattr(error, "error_code", None) or type(error).__name__
            raise PrichexyError(
                f"the model registry {without_password(self.uri)} can't be used ({code}): "
                "check tracking_uri and the server"
            ) from None


def _version_of(found: Any, aliases: tuple[str, ...]) -> ModelVersion:
    """What MLflow's entity of a version says."""
    settings = {
        key.removeprefix(SETTING_TAG): value for key, value in found.tags.items() if key.startswith(SETTING_TAG)
    }
    return ModelVersion(
        found.name,
        str(found.version),
        parse_settings(settings),
        found.tags[FINGERPRINT_TAG],
        audited=found.tags.get(PASSED_TAG) == "true",
        audit_id=found.tags.get(AUDIT_TAG),
        run_id=found.run_id,
        aliases=aliases,
        created=_time(found.creation_timestamp),
    )


def _from_folder(folder: Path) -> ModelVersion:
    if not folder.is_dir():
        raise UsageError(f"setting model: {folder} is neither a model folder nor a models:/ URI")
    settings, digest = _described(folder)
    return ModelVersion("local", digest[:12], settings, digest, folder=folder)


def _in_this_folder(uri: str) -> str:
    """A sqlite file by its whole path.

    MLflow keeps one store for each URI: a relative one would lead to the file of the folder that the process was in
    when it first asked.
    """
    database = uri.removeprefix("sqlite:///")
    return uri if database == uri else f"sqlite:///{Path(database).absolute()}"


def _described(folder: Path) -> tuple[ObfuscationSettings, str]:
    settings, state = read(folder)
    return settings, fingerprint_of(settings, state)


def experiment(client: MlflowClient, uri: str, name: str = EXPERIMENT) -> str:
    """Id of one of our experiments, made where it is missing."""
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    # MLflow puts artifacts of a sqlite registry into the folder of the moment; ours stay beside the database.
    location = None
    if uri.startswith("sqlite:///"):
        location = str(Path(uri.removeprefix("sqlite:///")).absolute().parent / "mlartifacts")
    return str(client.create_experiment(name, artifact_location=location))


def _pages(search: Any, **kwargs: Any) -> Iterator[Any]:
    token = None
    while True:
        page = search(page_token=token, **kwargs)
        yield from page
        token = page.token
        if not token:
            return


def _time(milliseconds: int | None) -> datetime | None:
    return datetime.fromtimestamp(milliseconds / 1000, UTC) if milliseconds else None


def without_password(uri: str) -> str:
    """A registry's address as it may be shown."""
    return re.sub(r"//[^/@]*@", "//", uri)
