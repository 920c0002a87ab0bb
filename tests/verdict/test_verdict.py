"""The verdict, its seal, and the gate's question."""

import hmac
import json
from hashlib import sha256
from typing import Any

import pytest
from pydantic import ValidationError

from prichexy.config import Thresholds
from prichexy.errors import UsageError
from prichexy.verdict import AuditRecord, MeanUtility, VerdictError, audit_id, judge, opened, require_passing, sealed
from prichexy.verdict.seal import _mac
from tests.verdict.records import MODEL, attacker, record, utility

SECRET = bytes(range(32))


def test_the_strongest_attacker_decides() -> None:
    weak, strong = attacker("weak", 0.52), attacker("strong", 0.71)
    verdict = judge([weak, strong], utility(), Thresholds())
    assert (verdict.passed, verdict.strongest) == (False, "strong")
    assert verdict.reasons == (
        "The strongest attacker, strong, reaches a mean AUC of 0.7100, above the limit of 0.6000.",
        "The 95 % interval of strong reaches up to an AUC of 0.7300, above the limit of 0.6500.",
        "Within the limits: on anonymized images the classifier's mean AUC loses 0.0100, at most the limit of "
        "0.0300; the field folds at 0.000% of the pixels, at most the limit of 0.000%.",
    )


@pytest.mark.parametrize(
    ("attackers", "left", "sentence"),
    [
        ([attacker("a", 0.59, auc_high=0.66)], utility(), "The 95 % interval of a reaches up to an AUC of 0.6600"),
        ([attacker("a", 0.55)], utility(-0.031), "the classifier's mean AUC loses 0.0310, above the limit"),
        ([attacker("a", 0.55)], utility(folded_share=0.0004), "The field folds at 0.040% of the pixels, more than"),
        ([attacker("a", 0.55)], utility(None), "Utility was not measured: no classifier was asked"),
    ],
)
def test_each_limit_alone_makes_it_no(attackers: Any, left: Any, sentence: str) -> None:
    verdict = judge(attackers, left, Thresholds())
    assert not verdict.passed
    assert len(verdict.reasons) == 2
    assert sentence in verdict.reasons[0]
    assert verdict.reasons[1].startswith("Within the limits: ")


def test_a_model_that_only_its_own_classifier_can_read_does_not_pass() -> None:
    other = MeanUtility(mean_original=0.7, mean_anonymized=0.65, mean_difference=-0.05, low=-0.06, high=-0.04)
    verdict = judge([attacker("a", 0.55)], utility(0.002, unseen=other), Thresholds())
    assert not verdict.passed
    assert verdict.reasons[0] == (
        "The mean AUC of a classifier that the model did not learn from loses 0.0500, above the limit of 0.0300."
    )
    assert judge([attacker("a", 0.55)], utility(0.002, unseen=other), Thresholds(utility_loss=0.05)).passed


def test_figures_at_their_limits_pass_and_a_model_without_a_field_has_none_to_fold() -> None:
    verdict = judge([attacker("a", 0.6, auc_high=0.65)], utility(-0.03, folded_share=None), Thresholds())
    assert verdict.passed
    assert len(verdict.reasons) == 1
    assert "folds" not in verdict.reasons[0]


def test_an_audit_that_leaves_out_an_attacker_does_not_pass() -> None:
    verdict = judge([attacker("a", 0.5)], utility(), Thresholds(), expected=("a", "fusion", "b"))
    assert not verdict.passed
    assert verdict.reasons[0] == "The audit left out b, fusion: only an audit with every attacker can pass."
    with pytest.raises(UsageError, match="without attackers"):
        judge([], utility(), Thresholds())


def test_a_sealed_record_comes_back_the_same() -> None:
    made = record(MODEL)
    assert opened(sealed(made, SECRET), SECRET) == made
    assert sealed(made, SECRET) == sealed(made, SECRET)


def test_the_seal_is_an_hmac_over_canonical_json_and_the_id_its_hash() -> None:
    made = record(MODEL)
    envelope = json.loads(sealed(made, SECRET))
    canonical = json.dumps(envelope["record"], sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    assert audit_id(made) == sha256(canonical).hexdigest()[:16]
    assert envelope["seal"]["mac"] == _mac(canonical, SECRET)
    # Under a subkey, not under the secret itself, nor under any key that makes pseudonyms.
    assert envelope["seal"]["mac"] != hmac.new(SECRET, canonical, sha256).hexdigest()
    assert SECRET.hex() not in json.dumps(envelope)
    assert audit_id(record(MODEL, seed=43)) != audit_id(made)


def altered(change: Any) -> bytes:
    envelope = json.loads(sealed(record(MODEL, auc=0.7), SECRET))
    change(envelope)
    return json.dumps(envelope).encode()


@pytest.mark.parametrize(
    "change",
    [
        lambda e: e["record"]["verdict"].update(passed=True),
        lambda e: e["record"]["attackers"][1].update(auc_mean=0.55),
        lambda e: e["record"]["thresholds"].update(strongest_auc=0.9),
        lambda e: e["record"]["model"].update(version="4"),
        lambda e: e["record"].update(more=1),
        lambda e: e["record"].update(schema_version=2),
        lambda e: e["seal"].update(mac="0" * 64),
        lambda e: e["seal"].update(mac=None),
        lambda e: e["seal"].update(algorithm="none"),
        lambda e: e["seal"].pop("mac"),
        lambda e: e.pop("seal"),
        lambda e: e["record"].update(code=float("nan")),
        lambda e: e["record"].update(code="\ud800"),
    ],
)
def test_an_altered_record_is_refused(change: Any) -> None:
    with pytest.raises(VerdictError, match="altered after it was sealed: run `prichexy audit` again") as caught:
        opened(altered(change), SECRET)
    assert caught.value.kind == "altered"


@pytest.mark.parametrize("data", [b"", b"null", b"[]", b"{}", b"\xff", b'{"record": 1, "seal": 2}', b"[" * 100_000])
def test_what_is_no_record_is_refused(data: bytes) -> None:
    with pytest.raises(VerdictError) as caught:
        opened(data, SECRET)
    assert caught.value.kind == "altered"


def test_a_record_of_another_key_is_refused() -> None:
    with pytest.raises(VerdictError, match="sealed with another project secret than yours") as caught:
        opened(sealed(record(MODEL), b"o" * 32), SECRET)
    assert caught.value.kind == "key"


def test_a_record_of_another_schema_is_refused() -> None:
    with pytest.raises(VerdictError, match="recorded by another version of prichexy") as caught:
        opened(sealed(record(MODEL, schema_version=2), SECRET), SECRET)
    assert caught.value.kind == "schema"


def test_a_record_says_what_it_must() -> None:
    facts = record(MODEL).model_dump()
    for change in (
        {"verdict": {**facts["verdict"], "strongest": "nobody"}},
        {"attackers": [*facts["attackers"], facts["attackers"][0]]},
        {"utility": {**facts["utility"], "psnr_db": float("inf")}},
        {"created": "2026-05-04T12:30:00"},
        {"surplus": 1},
    ):
        with pytest.raises(ValidationError):
            AuditRecord.model_validate({**facts, **change})


@pytest.mark.parametrize(
    ("change", "kind", "sentence"),
    [
        ({"version": "4"}, "version", "the verdict on record for models:/net/4 is that of models:/net/3"),
        ({"name": "other"}, "version", "the verdict on record for models:/other/3 is that of models:/net/3"),
        ({"kind": "privacy-net"}, "kind", "models:/net/3 is a privacy-net, but was audited as a flow-field"),
        ({"operator": "reference"}, "operator", "with operator corrected, but has operator reference"),
        ({"precision": "bfloat16"}, "precision", "audited with precision float32, but has precision bfloat16"),
        ({"mu": 0.005}, "settings", "audited with other settings (differing: mu)"),
        ({"fingerprint": "cd" * 32}, "weights", "the weights of models:/net/3 are not those that were audited"),
    ],
)
def test_a_verdict_of_something_else_is_refused(change: dict[str, Any], kind: str, sentence: str) -> None:
    top = {name: value for name, value in change.items() if name in type(MODEL).model_fields}
    settings = {**MODEL.settings, **{name: value for name, value in change.items() if name not in top}}
    with pytest.raises(VerdictError) as caught:
        require_passing(record(MODEL), MODEL.model_copy(update={**top, "settings": settings}))
    assert caught.value.kind == kind
    assert sentence in str(caught.value)
    assert "run `prichexy audit models:/" in str(caught.value)


def test_a_verdict_that_is_no_is_told_with_its_reason() -> None:
    assert require_passing(record(MODEL), MODEL) is None
    with pytest.raises(VerdictError, match=r"net/3 failed its audit: The strongest attacker, linear-metric,") as caught:
        require_passing(record(MODEL, auc=0.7), MODEL)
    assert caught.value.kind == "failed"
