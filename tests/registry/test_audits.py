"""Audits in the registry: kept, found again, and refused when they are not what was stored."""

from pathlib import Path
from typing import Any

import pytest

from prichexy.errors import PrichexyError, UsageError
from prichexy.registry import ModelVersion, Registry, passing_audit, read_audit, store_audit
from prichexy.verdict import VerdictError, audit_id
from tests.registry.registered import SECRET, plant, registered, stored_file
from tests.verdict.records import record


def refusal(registry: Registry, model: ModelVersion, secret: bytes = SECRET) -> VerdictError:
    with pytest.raises(VerdictError) as caught:
        passing_audit(registry, model, secret)
    assert "\n" not in str(caught.value)
    return caught.value


def test_an_audit_is_kept_with_its_version_and_says_so(registry: Registry) -> None:
    model = registered(registry, "kept")
    assert (model.audited, model.audit_id) == (False, None)
    made = record(model.under_audit())
    assert store_audit(registry, made, SECRET) == audit_id(made)
    found = registry.find("models:/kept/1")
    assert (found.audited, found.audit_id) == (True, audit_id(made))
    assert passing_audit(registry, found, SECRET) == made
    assert [(listed.audited, listed.audit_id) for listed in registry.list() if listed.name == "kept"] == [
        (True, audit_id(made))
    ]


def test_the_page_for_people_is_kept_beside_the_record(registry: Registry, tmp_path: Path) -> None:
    model = registered(registry, "paged", kind="identity")
    (tmp_path / "report.html").write_text("<html>the report</html>")
    identifier = store_audit(registry, record(model.under_audit()), SECRET, tmp_path / "report.html")
    file = stored_file(registry, model, identifier)
    assert file.with_suffix(".html").read_text() == "<html>the report</html>"
    assert passing_audit(registry, registry.find("models:/paged/1"), SECRET).model == model.under_audit()


def test_the_latest_audit_counts_and_earlier_ones_stay_readable(registry: Registry) -> None:
    model = registered(registry, "again")
    first, second = record(model.under_audit()), record(model.under_audit(), auc=0.8)
    store_audit(registry, first, SECRET)
    store_audit(registry, second, SECRET)
    found = registry.find("models:/again/1")
    assert (found.audited, found.audit_id) == (False, audit_id(second))
    assert read_audit(registry, found, SECRET) == second
    assert passing_audit(registry, found, SECRET, audit_id(first)) == first
    assert refusal(registry, found).kind == "failed"


def test_a_version_without_an_audit_is_refused(registry: Registry) -> None:
    model = registered(registry, "unaudited")
    error = refusal(registry, model)
    assert (error.kind, str(error)) == (
        "missing",
        "models:/unaudited/1 has no audit: run `prichexy audit models:/unaudited/1`",
    )
    local = ModelVersion("local", "abcdef", model.settings, model.fingerprint)
    assert "is in no registry: register it" in str(refusal(registry, local))


def test_an_audit_altered_in_the_store_is_refused(registry: Registry) -> None:
    model = registered(registry, "tampered")
    identifier = store_audit(registry, record(model.under_audit(), auc=0.7), SECRET)
    file = stored_file(registry, model, identifier)
    file.write_text(file.read_text().replace('"passed": false', '"passed": true'))
    error = refusal(registry, registry.find("models:/tampered/1"))
    assert error.kind == "altered"
    assert "altered after it was sealed" in str(error)


def test_an_audit_exchanged_for_an_earlier_one_is_refused(registry: Registry) -> None:
    model = registered(registry, "exchanged")
    passed = stored_file(registry, model, store_audit(registry, record(model.under_audit()), SECRET))
    failed = stored_file(registry, model, store_audit(registry, record(model.under_audit(), auc=0.7), SECRET))
    failed.write_bytes(passed.read_bytes())
    error = refusal(registry, registry.find("models:/exchanged/1"))
    assert error.kind == "altered"
    assert "is not the one that was stored" in str(error)


def test_an_audit_that_is_gone_or_whose_tag_is_no_id_is_refused(registry: Registry) -> None:
    model = registered(registry, "gone")
    stored_file(registry, model, store_audit(registry, record(model.under_audit()), SECRET)).unlink()
    assert "is gone from the registry" in str(refusal(registry, registry.find("models:/gone/1")))
    with registry.asked() as client:
        client.set_model_version_tag("gone", "1", "prichexy.audit.id", "../../secret")
    assert refusal(registry, registry.find("models:/gone/1")).kind == "altered"


def test_an_audit_of_another_key_is_refused(registry: Registry) -> None:
    model = registered(registry, "otherkey")
    store_audit(registry, record(model.under_audit()), b"o" * 32)
    assert refusal(registry, registry.find("models:/otherkey/1")).kind == "key"


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"version": "7"}, "version"),
        ({"operator": "reference"}, "operator"),
        ({"precision": "bfloat16"}, "precision"),
        ({"mu": 0.001}, "settings"),
        ({"fingerprint": "0" * 64}, "weights"),
    ],
)
def test_an_audit_of_something_else_is_neither_stored_nor_believed(
    registry: Registry, change: dict[str, Any], kind: str
) -> None:
    model = registered(registry, f"else-{kind}")
    subject = model.under_audit()
    top = {name: value for name, value in change.items() if name in type(subject).model_fields}
    settings = {**subject.settings, **{name: value for name, value in change.items() if name not in top}}
    other = record(subject.model_copy(update={**top, "settings": settings}))
    with pytest.raises(UsageError, match=r"setting model: (what was audited is not|there is no)"):
        store_audit(registry, other, SECRET)
    assert registry.find(subject.uri).audit_id is None
    assert refusal(registry, plant(registry, model, other)).kind == kind


def test_an_audit_of_a_model_in_no_registry_is_not_stored(registry: Registry) -> None:
    subject = registered(registry, "named").under_audit().model_copy(update={"name": None, "version": None})
    with pytest.raises(UsageError, match="only the audit of a registered model can be stored"):
        store_audit(registry, record(subject), SECRET)


def test_exchanged_weights_are_refused_when_fetched(registry: Registry, tmp_path: Path) -> None:
    model = registered(registry, "weights")
    with registry.asked() as client:
        stored = Path(client.get_model_version_download_uri("weights", "1"))
    settings = stored / "obfuscation.json"
    settings.write_text(settings.read_text().replace('"mu": 0.01', '"mu": 0.001'))
    with pytest.raises(VerdictError, match="not those that were registered") as caught:
        registry.fetch_version(model, tmp_path)
    assert caught.value.kind == "weights"


def test_an_unreachable_registry_stores_nothing(registry: Registry) -> None:
    model = registered(registry, "unreachable")
    with pytest.raises(PrichexyError, match="can't be used"):
        store_audit(Registry("http://127.0.0.1:9"), record(model.under_audit()), SECRET)
    assert registry.find("models:/unreachable/1").audit_id is None
