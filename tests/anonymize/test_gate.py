"""Nothing is published with a model that no verdict allows, and what is published says which audit did."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from prichexy.anonymize import anonymize
from prichexy.cohort.phantom import PhantomCohort, write_png
from prichexy.config import AnonymizeConfig
from prichexy.errors import UsageError
from prichexy.lake.storage import Store
from prichexy.lake.verify import verify
from prichexy.registry import ModelVersion, Registry, promote, store_audit
from prichexy.verdict import VerdictError
from tests.registry.registered import plant, registered, stored_file
from tests.verdict.records import record


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    return Registry(f"sqlite:///{tmp_path_factory.mktemp('registry')}/mlflow.db")


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantoms") / "lake"
    write_png(PhantomCohort(3, 7, size=96), folder)
    return folder


def configured(registry: Registry, lake: Path, out: Path, secret_file: Path, **more: Any) -> AnonymizeConfig:
    given = {"exclude": ("*.csv",), "rows_per_shard": 3, "chunk": 3, "tracking_uri": registry.uri}
    given |= {"deid": {"burned_in_text": "off"}, **more}
    return AnonymizeConfig(source=str(lake), destination=str(out), secret_file=secret_file, **given)


def _unaudited(registry: Registry, model: ModelVersion, secret: bytes) -> None:
    pass


def _failed(registry: Registry, model: ModelVersion, secret: bytes) -> None:
    store_audit(registry, record(model.under_audit(), auc=0.7), secret)


def _altered(registry: Registry, model: ModelVersion, secret: bytes) -> None:
    file = stored_file(registry, model, store_audit(registry, record(model.under_audit(), auc=0.7), secret))
    file.write_text(file.read_text().replace('"passed": false', '"passed": true'))


def _of_another_version(registry: Registry, model: ModelVersion, secret: bytes) -> None:
    plant(registry, model, record(model.under_audit().model_copy(update={"version": "8"})), secret)


def _of_another_key(registry: Registry, model: ModelVersion, secret: bytes) -> None:
    store_audit(registry, record(model.under_audit()), b"o" * 32)


def _of_another(setting: str, value: Any) -> Any:
    def prepare(registry: Registry, model: ModelVersion, secret: bytes) -> None:
        subject = model.under_audit()
        other = subject.model_copy(update={"settings": {**subject.settings, setting: value}})
        plant(registry, model, record(other), secret)

    return prepare


@pytest.mark.parametrize(
    ("prepare", "kind", "sentence"),
    [
        (_unaudited, "missing", "has no audit: run `prichexy audit models:/"),
        (_failed, "failed", "failed its audit: The strongest attacker, linear-metric, reaches a mean AUC of 0.7000"),
        (_altered, "altered", "was altered after it was sealed: run `prichexy audit` again"),
        (_of_another_version, "version", "/8: run `prichexy audit models:/"),
        (_of_another_key, "key", "was sealed with another project secret than yours"),
        (_of_another("operator", "reference"), "operator", "was audited with operator reference, but has operator"),
        (_of_another("precision", "bfloat16"), "precision", "was audited with precision bfloat16, but has precision"),
    ],
)
def test_a_model_that_no_verdict_allows_is_refused_before_anything_starts(
    registry: Registry, lake: Path, tmp_path: Path, secret_file: Path, prepare: Any, kind: str, sentence: str
) -> None:
    prepare(registry, registered(registry, f"refused-{kind}"), secret_file.read_bytes())
    config = configured(registry, lake, tmp_path / "out", secret_file, model=f"models:/refused-{kind}/1")
    with pytest.raises(VerdictError) as caught:
        anonymize(config)
    assert caught.value.kind == kind
    assert sentence in str(caught.value)
    assert str(caught.value).endswith("or say --allow-unaudited (which is stamped into every shard and the manifest)")
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.private").exists()


def test_without_a_champion_the_default_model_is_told_to_be_missing(
    registry: Registry, lake: Path, tmp_path: Path, secret_file: Path
) -> None:
    registered(registry, "prichexy-net", kind="identity")
    with pytest.raises(UsageError, match="there is no models:/prichexy-net@champion"):
        anonymize(configured(registry, lake, tmp_path / "out", secret_file))


@pytest.mark.usefixtures("local_ray")
def test_the_champion_is_the_default_and_its_audit_is_stamped_and_kept_when_a_job_goes_on(
    lake: Path, tmp_path: Path, secret_file: Path, registry: Registry
) -> None:
    secret = secret_file.read_bytes()
    model = registered(registry, "prichexy-net", kind="identity")
    identifier = store_audit(registry, record(model.under_audit()), secret)
    promote(registry, f"models:/prichexy-net/{model.version}", secret, "a test")
    config = configured(registry, lake, tmp_path / "out", secret_file)
    summary = anonymize(config)
    assert (summary.model, summary.audited, summary.audit_id) == (f"prichexy-net/{model.version}", True, identifier)
    assert summary.published == summary.rows > 3
    files = {path: path.read_bytes() for path in (tmp_path / "out" / "data").iterdir()}
    assert len(files) > 1
    for path in files:
        assert pq.read_schema(path).metadata[b"prichexy.audit"] == identifier.encode()
    job = json.loads((tmp_path / "out" / "_snapshots/0001/_MANIFEST.json").read_text())["jobs"][-1]
    assert (job["audited"], job["audit_id"]) == (True, identifier)
    report = verify(Store(str(tmp_path / "out")))
    assert (report.problems, report.audit_id) == ([], identifier)

    # Killed, and audited anew before it goes on: the shards are those that it would have made, byte for byte.
    for lost in ("_SUCCESS", "_snapshots/0001/_MANIFEST.json", "_snapshots/0001/_commits/000001.json"):
        (tmp_path / "out" / lost).unlink()
    later = store_audit(registry, record(model.under_audit(), seed=43), secret)
    assert later != identifier
    again = anonymize(config)
    assert (again.resumed, again.audit_id) == (summary.shards - 1, identifier)
    assert {path: path.read_bytes() for path in (tmp_path / "out" / "data").iterdir()} == files

    # Once its latest audit failed, nothing more is published with it.
    store_audit(registry, record(model.under_audit(), auc=0.7), secret)
    with pytest.raises(VerdictError, match="failed its audit"):
        anonymize(config)
    with pytest.raises(UsageError, match=r"another job's shards \(differing: audit_id, audited\)"):
        anonymize(config.model_copy(update={"allow_unaudited": True}))
