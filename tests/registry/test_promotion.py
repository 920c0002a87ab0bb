"""Who is champion, who was, and the events that tell of it."""

import getpass
from pathlib import Path
from typing import Any

import pytest

from prichexy.errors import PrichexyError, UsageError
from prichexy.registry import ModelVersion, Registry, promote, roll_back, stage_version, store_audit
from prichexy.verdict import VerdictError, audit_id
from tests.registry.registered import SECRET, plant, registered, stored_file
from tests.verdict.records import record


def audited(registry: Registry, name: str, **more: Any) -> ModelVersion:
    model = registered(registry, name)
    store_audit(registry, record(model.under_audit(), **more), SECRET)
    return registry.find(f"models:/{name}/{model.version}")


def aliases(registry: Registry, name: str) -> dict[str, str]:
    with registry.asked() as client:
        return {alias: str(version) for alias, version in client.get_registered_model(name).aliases.items()}


def events(registry: Registry, name: str) -> list[dict[str, str]]:
    """Tags of the events of a model, oldest first, with the status of their runs."""
    with registry.asked() as client:
        place = client.get_experiment_by_name("prichexy-promotions")
        runs = client.search_runs([place.experiment_id], order_by=["attributes.start_time ASC"]) if place else []
    kept = [
        {key.removeprefix("prichexy.event."): value for key, value in run.data.tags.items()}
        | {"status": run.info.status}
        for run in runs
    ]
    return [event for event in kept if event["model"] == name]


def test_a_passing_version_becomes_champion_and_the_event_says_who_when_and_why(registry: Registry) -> None:
    model = audited(registry, "first")
    done = promote(registry, "models:/first/1", SECRET, "audit of May")
    assert (done.model, done.outcome, done.previous, done.audit_id) == (
        "models:/first/1",
        "promoted",
        None,
        model.audit_id,
    )
    assert aliases(registry, "first") == {"champion": "1"}
    (event,) = events(registry, "first")
    told = {"kind": "promotion", "version": "1", "reason": "audit of May", "outcome": "promoted", "status": "FINISHED"}
    assert told.items() <= event.items()
    assert (event["who"], event["audit"], event["fingerprint"]) == (
        getpass.getuser(),
        model.audit_id,
        model.fingerprint,
    )
    assert event["when"].endswith("+00:00")


def test_the_champion_before_becomes_previous_and_a_rollback_swaps_the_two(registry: Registry) -> None:
    for _ in range(3):
        audited(registry, "line")
    promote(registry, "models:/line/1", SECRET, "one")
    promote(registry, "models:/line/2", SECRET, "two")
    assert promote(registry, "models:/line/3", SECRET, "three").previous == "2"
    assert aliases(registry, "line") == {"champion": "3", "previous": "2"}
    assert promote(registry, "models:/line@champion", SECRET, "again").outcome == "unchanged"
    assert aliases(registry, "line") == {"champion": "3", "previous": "2"}
    back = roll_back(registry, "models:/line", SECRET, "three was worse")
    assert (back.model, back.outcome, back.previous) == ("models:/line/2", "rolled back", "3")
    assert aliases(registry, "line") == {"champion": "2", "previous": "3"}
    assert roll_back(registry, "line", SECRET, "it was not").model == "models:/line/3"
    outcomes = [(event["kind"], event["version"], event["outcome"]) for event in events(registry, "line")]
    assert outcomes == [
        ("promotion", "1", "promoted"),
        ("promotion", "2", "promoted"),
        ("promotion", "3", "promoted"),
        ("promotion", "3", "unchanged"),
        ("rollback", "2", "rolled back"),
        ("rollback", "3", "rolled back"),
    ]


def test_the_newest_version_is_staged_and_its_promotion_takes_the_alias_off(registry: Registry) -> None:
    one, two = audited(registry, "staged"), audited(registry, "staged")
    assert [stage_version(registry, model) for model in (two, two, one)] == [True, False, False]
    assert aliases(registry, "staged") == {"staging": "2"}
    promote(registry, "models:/staged/1", SECRET, "the older, first")
    assert aliases(registry, "staged") == {"staging": "2", "champion": "1"}
    assert promote(registry, "models:/staged@staging", SECRET, "now this one").model == "models:/staged/2"
    assert aliases(registry, "staged") == {"champion": "2", "previous": "1"}
    roll_back(registry, "staged", SECRET, "it was worse")
    assert [stage_version(registry, model) for model in (one, two)] == [False, False]
    assert stage_version(registry, registered(registry, "staged"))
    assert aliases(registry, "staged") == {"champion": "1", "previous": "2", "staging": "3"}


def test_a_version_that_is_refused_stays_staged(registry: Registry) -> None:
    stage_version(registry, registered(registry, "waiting"))
    with pytest.raises(VerdictError, match="models:/waiting/1 has no audit"):
        promote(registry, "models:/waiting@staging", SECRET, "in haste")
    assert aliases(registry, "waiting") == {"staging": "1"}


def test_a_promotion_that_was_cut_off_before_its_end_is_ended_by_the_same_command(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage_version(registry, audited(registry, "cut"))

    def fail(*_: Any, **__: Any) -> None:
        raise ConnectionError

    with monkeypatch.context() as patch:
        patch.setattr("mlflow.MlflowClient.delete_registered_model_alias", fail)
        with pytest.raises(PrichexyError, match="can't be used"):
            promote(registry, "models:/cut@staging", SECRET, "first")
    assert aliases(registry, "cut") == {"champion": "1", "staging": "1"}
    assert promote(registry, "models:/cut@staging", SECRET, "again").outcome == "unchanged"
    assert aliases(registry, "cut") == {"champion": "1"}
    assert [event["outcome"] for event in events(registry, "cut")] == ["promoted", "unchanged"]


def _unaudited(registry: Registry, model: ModelVersion) -> None:
    pass


def _failed(registry: Registry, model: ModelVersion) -> None:
    store_audit(registry, record(model.under_audit(), auc=0.7), SECRET)


def _altered(registry: Registry, model: ModelVersion) -> None:
    file = stored_file(registry, model, store_audit(registry, record(model.under_audit(), auc=0.7), SECRET))
    file.write_text(file.read_text().replace('"passed": false', '"passed": true'))


def _of_another_version(registry: Registry, model: ModelVersion) -> None:
    plant(registry, model, record(model.under_audit().model_copy(update={"version": "1"})))


def _of_another(setting: str, value: Any) -> Any:
    def prepare(registry: Registry, model: ModelVersion) -> None:
        subject = model.under_audit()
        plant(registry, model, record(subject.model_copy(update={"settings": {**subject.settings, setting: value}})))

    return prepare


def _exchanged_weights(registry: Registry, model: ModelVersion) -> None:
    store_audit(registry, record(model.under_audit()), SECRET)
    with registry.asked() as client:
        settings = Path(client.get_model_version_download_uri(model.name, model.version)) / "obfuscation.json"
    settings.write_text(settings.read_text().replace('"mu": 0.01', '"mu": 0.001'))


@pytest.mark.parametrize(
    ("prepare", "sentence"),
    [
        (_unaudited, "has no audit: run `prichexy audit models:/"),
        (_failed, "failed its audit: The strongest attacker, linear-metric, reaches a mean AUC of 0.7000"),
        (_altered, "altered after it was sealed"),
        (_of_another_version, "is that of models:/refused-3/1"),
        (_of_another("operator", "reference"), "was audited with operator reference, but has operator corrected"),
        (_of_another("precision", "bfloat16"), "was audited with precision bfloat16, but has precision float32"),
        (_exchanged_weights, "are not those that were registered"),
    ],
)
def test_a_refusal_has_its_sentence_leaves_the_champion_and_is_an_event(
    registry: Registry, request: pytest.FixtureRequest, prepare: Any, sentence: str
) -> None:
    name = f"refused-{request.node.callspec.indices['prepare']}"
    audited(registry, name)
    promote(registry, f"models:/{name}/1", SECRET, "the first")
    prepare(registry, registered(registry, name))
    with pytest.raises(VerdictError) as caught:
        promote(registry, f"models:/{name}/2", SECRET, "it looks better")
    assert sentence in str(caught.value)
    assert aliases(registry, name) == {"champion": "1"}
    event = events(registry, name)[-1]
    told = {"version": "2", "outcome": "refused", "refusal": str(caught.value), "reason": "it looks better"}
    assert told.items() <= event.items()
    assert event["status"] == "FAILED"


def test_a_rollback_to_a_version_that_failed_since_is_refused(registry: Registry) -> None:
    first = audited(registry, "since")
    audited(registry, "since")
    promote(registry, "models:/since/1", SECRET, "one")
    promote(registry, "models:/since/2", SECRET, "two")
    later = record(first.under_audit(), auc=0.9)
    store_audit(registry, later, SECRET)
    assert audit_id(later) != first.audit_id
    with pytest.raises(VerdictError, match="models:/since/1 failed its audit"):
        roll_back(registry, "since", SECRET, "back")
    assert aliases(registry, "since") == {"champion": "2", "previous": "1"}
    assert events(registry, "since")[-1]["outcome"] == "refused"


def test_mistakes_are_told_and_no_event(registry: Registry, tmp_path: Path) -> None:
    audited(registry, "mistaken")
    for call, sentence in (
        (lambda: promote(registry, "models:/mistaken/9", SECRET, "x"), "there is no models:/mistaken/9"),
        (lambda: promote(registry, str(tmp_path), SECRET, "x"), "only a registered model can be promoted"),
        (lambda: promote(registry, "models:/mistaken/1", SECRET, " "), "say why"),
        (lambda: roll_back(registry, "mistaken", SECRET, "x"), "has no champion before this one"),
        (lambda: roll_back(registry, "nobody", SECRET, "x"), "there is no model nobody"),
        (lambda: roll_back(registry, "models:/mistaken/1", SECRET, "x"), "is not models:/NAME"),
    ):
        with pytest.raises(UsageError, match=sentence):
            call()
    assert events(registry, "mistaken") == []
    assert aliases(registry, "mistaken") == {}


def test_a_registry_that_cannot_be_reached_changes_nothing(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PrichexyError, match="can't be used"):
        promote(Registry("http://127.0.0.1:9"), "models:/m/1", SECRET, "x")
    audited(registry, "down")

    def fail(*_: Any, **__: Any) -> None:
        raise ConnectionError

    monkeypatch.setattr("mlflow.MlflowClient.create_run", fail)  # no event, no promotion
    with pytest.raises(PrichexyError, match="can't be used"):
        promote(registry, "models:/down/1", SECRET, "x")
    assert aliases(registry, "down") == {}
