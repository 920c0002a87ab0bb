"""Who is champion: set for a version with a passing audit only, and every decision is an MLflow run.

The aliases of a registered model are ``staging``, the newest version, which waits for its audit and promotion;
``champion``, which `prichexy anonymize` takes unless told otherwise; and ``previous``, the champion before, to which a
rollback goes back. A promotion takes ``staging`` off the version that it makes champion.

An event is opened before an alias is touched and says afterwards what came of it; a registry that can't be reached
changes nothing. MLflow has no transaction over several aliases: a process killed between them leaves the event open
(status RUNNING). A promotion killed there is ended by the same command, since ``staging``, by which it may name the
version, goes last; of a rollback the champion is set by then, and ``previous`` names it too.
"""

import getpass
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from mlflow.exceptions import MlflowException

from prichexy.errors import PrichexyError, UsageError
from prichexy.registry.audits import passing_audit
from prichexy.registry.models import ModelVersion, Registry, experiment
from prichexy.verdict import AuditRecord, VerdictError, audit_id

STAGING, CHAMPION, PREVIOUS = "staging", "champion", "previous"
EXPERIMENT = "prichexy-promotions"
EVENT_TAG = "prichexy.event."

Outcome = Literal["promoted", "unchanged", "rolled back", "refused"]

_TURNS = (STAGING, CHAMPION, PREVIOUS)
_NAME = re.compile(r"(?:models:/)?(?P<name>[^/@:]+)")


@dataclass(frozen=True)
class Promotion:
    """What came of a promotion or rollback.

    Attributes:
        model: ``models:/NAME/VERSION``, the champion now.
        outcome: ``promoted``, ``rolled back``, or ``unchanged`` where it was the champion already.
        previous: version that a rollback would go back to; None without one.
        audit_id: the audit that allowed it.
        who: user of the operating system.
        reason: as given.
        event: MLflow run that keeps all this.
    """

    model: str
    outcome: Outcome
    previous: str | None
    audit_id: str
    who: str
    reason: str
    event: str


def stage_version(registry: Registry, model: ModelVersion) -> bool:
    """Let a version that was just registered wait for its audit and promotion, as ``staging``.

    A version that is not newer than those that are staged, champion or previous has had its turn, and nothing changes:
    a training that is repeated after its promotion does not begin it anew.

    Args:
        registry: where the model is.
        model: a registered version.

    Returns:
        Whether it got the alias now.

    Raises:
        PrichexyError: the registry can't be reached.
    """
    turns = [int(version) for alias, version in _aliases(registry, model.name).items() if alias in _TURNS]
    if int(model.version) <= max(turns, default=0):
        return False
    with registry.asked() as client:
        client.set_registered_model_alias(model.name, STAGING, model.version)
    return True


def promote(registry: Registry, uri: str, secret: bytes, reason: str) -> Promotion:
    """Make a version the champion, after proving its files and its verdict.

    Args:
        registry: where the model is.
        uri: ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS``.
        secret: the project's 32 bytes, with which the audit was sealed.
        reason: why, for the event.

    Raises:
        VerdictError: no verdict, or one that doesn't allow it; the refusal is an event too, no alias was touched.
        UsageError: no such model, or no reason.
        PrichexyError: the registry can't be reached.
    """
    model = _registered(registry, uri)
    with _event(registry, "promotion", model, reason) as event:
        record = _proven(registry, model, secret)
        aliases = _aliases(registry, model.name)
        champion, previous = aliases.get(CHAMPION), aliases.get(PREVIOUS)
        if champion == model.version:
            done = event.ended("unchanged", record, previous if previous != champion else None)
        else:
            with registry.asked() as client:
                if champion is not None:
                    client.set_registered_model_alias(model.name, PREVIOUS, champion)
                client.set_registered_model_alias(model.name, CHAMPION, model.version)
            done = event.ended("promoted", record, champion)
    if aliases.get(STAGING) == model.version:
        with registry.asked() as client:
            client.delete_registered_model_alias(model.name, STAGING)
    return done


def roll_back(registry: Registry, name: str, secret: bytes, reason: str) -> Promotion:
    """Make the champion before the champion again, after proving its files and its verdict anew.

    Args:
        registry: where the model is.
        name: ``NAME`` or ``models:/NAME``.
        secret: the project's 32 bytes.
        reason: why, for the event.

    Raises:
        VerdictError: its verdict doesn't allow it any more; the refusal is an event too, no alias was touched.
        UsageError: no such model, no version before, or no reason.
        PrichexyError: the registry can't be reached.
    """
    model, champion = _before(registry, name)
    with _event(registry, "rollback", model, reason) as event:
        record = _proven(registry, model, secret)
        with registry.asked() as client:
            client.set_registered_model_alias(model.name, CHAMPION, model.version)
            if champion is not None:
                client.set_registered_model_alias(model.name, PREVIOUS, champion)
        return event.ended("rolled back", record, champion)


@dataclass(frozen=True)
class Foreseen:
    """What a promotion or rollback would do now.

    Attributes:
        model: ``models:/NAME/VERSION`` that it is about.
        outcome: as `Promotion` and its events say it.
        refusal: why, where it would be refused; else "".
        champion: version that is the champion now; None without one.
        previous: version that was it before; None without one.
        audit_id: the model's latest audit; None without one.
    """

    model: str
    outcome: Outcome
    refusal: str
    champion: str | None
    previous: str | None
    audit_id: str | None


def foresee(registry: Registry, uri: str, secret: bytes, rollback: bool = False) -> Foreseen:
    """What `promote`, or `roll_back`, would do; no event is made and no alias touched.

    Args and errors are theirs, but for a verdict that doesn't allow it, which is told.
    """
    model = _before(registry, uri)[0] if rollback else _registered(registry, uri)
    aliases, refusal = _aliases(registry, model.name), ""
    outcome: Outcome = "rolled back" if rollback else "promoted"
    try:
        _proven(registry, model, secret)
    except VerdictError as error:
        outcome, refusal = "refused", str(error)
    champion = aliases.get(CHAMPION)
    if outcome == "promoted" and champion == model.version:
        outcome = "unchanged"
    version = f"models:/{model.name}/{model.version}"
    return Foreseen(version, outcome, refusal, champion, aliases.get(PREVIOUS), model.audit_id)


class _Event:
    """An MLflow run that keeps one decision."""

    def __init__(self, registry: Registry, model: ModelVersion, run_id: str, who: str, reason: str) -> None:
        self._registry, self._model, self._run_id, self._who, self._reason = registry, model, run_id, who, reason

    def ended(self, outcome: Outcome, record: AuditRecord, previous: str | None) -> Promotion:
        """The decision, noted."""
        identifier = audit_id(record)
        self._note(outcome, {"audit": identifier, "previous": previous or ""})
        uri = f"models:/{self._model.name}/{self._model.version}"
        return Promotion(uri, outcome, previous, identifier, self._who, self._reason, self._run_id)

    def refused(self, error: PrichexyError) -> None:
        """The refusal, noted."""
        self._note("refused", {"refusal": str(error)})

    def _note(self, outcome: Outcome, tags: dict[str, str]) -> None:
        with self._registry.asked() as client:
            for key, value in {**tags, "outcome": outcome}.items():
                client.set_tag(self._run_id, f"{EVENT_TAG}{key}", value)
            client.set_terminated(self._run_id, "FAILED" if outcome == "refused" else "FINISHED")


@contextmanager
def _event(registry: Registry, kind: str, model: ModelVersion, reason: str) -> Iterator[_Event]:
    """An event around a decision; what is raised within it is noted as a refusal."""
    if not reason.strip():
        raise UsageError("setting reason is missing: say why, it is kept with the event")
    who, version = _user(), f"{model.name}/{model.version}"
    facts = {
        "kind": kind,
        "model": model.name,
        "version": model.version,
        "fingerprint": model.fingerprint,
        "who": who,
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "reason": reason,
    }
    tags = {f"{EVENT_TAG}{key}": value for key, value in facts.items()}
    with registry.asked() as client:
        place = experiment(client, registry.uri, EXPERIMENT)
        run = client.create_run(place, run_name=f"{kind} {version}", tags={**tags, "mlflow.user": who})
    event = _Event(registry, model, run.info.run_id, who, reason)
    try:
        yield event
    except PrichexyError as error:
        event.refused(error)
        raise


def _before(registry: Registry, name: str) -> tuple[ModelVersion, str | None]:
    """The champion before of a registered model, and the version that is champion now."""
    match = _NAME.fullmatch(name)
    if not match:
        raise UsageError(f"setting model: '{name}' is not models:/NAME, which is all that a rollback needs")
    aliases = _aliases(registry, match["name"])
    champion, previous = aliases.get(CHAMPION), aliases.get(PREVIOUS)
    if previous is None or previous == champion:
        raise UsageError(f"setting model: models:/{match['name']} has no champion before this one to go back to")
    return registry.find(f"models:/{match['name']}/{previous}"), champion


def _registered(registry: Registry, uri: str) -> ModelVersion:
    if not uri.startswith("models:"):
        raise UsageError(
            f"setting model: only a registered model can be promoted, and {uri} is not models:/NAME/VERSION "
            "or models:/NAME@ALIAS"
        )
    return registry.find(uri)


def _proven(registry: Registry, model: ModelVersion, secret: bytes) -> AuditRecord:
    """The passing audit of a version whose files are those that were registered."""
    with tempfile.TemporaryDirectory(prefix="prichexy-model-") as folder:
        return passing_audit(registry, registry.fetch_version(model, Path(folder)), secret)


def _aliases(registry: Registry, name: str) -> dict[str, str]:
    with registry.asked() as client:
        try:
            found = client.get_registered_model(name).aliases
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise UsageError(f"setting model: there is no model {name} in the registry") from None
            raise
    return {alias: str(version) for alias, version in found.items()}


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user without a name
        return "unknown"
