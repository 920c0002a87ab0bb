"""`--dry-run` of each job: what it tells, what it refuses, and that it leaves nothing behind."""

import importlib.util
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray
import typer
from typer.testing import CliRunner

from prichexy.anonymize.plan import job_of
from prichexy.audit.job import RECORD, place_of
from prichexy.cli.console import exit_codes
from prichexy.cohort.catalog import build_catalog, open_catalog
from prichexy.cohort.phantom import PhantomCohort, write_png
from prichexy.cohort.table import open_table
from prichexy.config import AnonymizeConfig, AuditConfig, CatalogConfig, StorageConfig, TrainConfig, load
from prichexy.deid import Pseudonyms
from prichexy.lake.commit import commit_shard
from prichexy.lake.job import claim
from prichexy.lake.lease import Sign
from prichexy.lake.snapshots import finish
from prichexy.lake.storage import Store
from prichexy.obfuscation import create_untrained
from prichexy.registry import Registry, promote, store_audit
from prichexy.training.checkpoints import Checkpoints
from prichexy.training.records import STAGE, deciding_settings, write_record
from prichexy.verdict import sealed
from tests.publish.publications import published, rows
from tests.registry.registered import SECRET, registered
from tests.training.phantom_table import TINY, phantom_table
from tests.verdict.records import record

ROOT = Path(__file__).resolve().parents[1]
PATIENTS = 12


@pytest.fixture(autouse=True)
def no_ray_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process of its own: other tests' Ray is not seen, and none is started."""

    def init(*args: Any, **settings: Any) -> None:
        raise AssertionError("a dry run started Ray")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """Versions 1 (audited) and 2 (not) of a model; MLflow takes seconds to make a database."""
    registry = Registry(f"sqlite:///{tmp_path_factory.mktemp('registry')}/mlflow.db")
    for number in range(2):
        model = registered(registry, "net", seed=number)
        if number == 0:
            store_audit(registry, record(model.under_audit()), SECRET)
    return registry


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The project's secret, and room for what a test makes."""
    (tmp_path / "key").write_bytes(SECRET)
    return tmp_path


def dry(job: str, settings: dict[str, Any], *flags: str) -> tuple[int, Any, str]:
    """Exit code, plan (None without one) and stderr of a job's dry run, which has to leave all files as they are."""
    spec = importlib.util.spec_from_file_location(f"job_{job}", ROOT / "jobs" / f"{job}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    single = typer.Typer(add_completion=False)
    single.command()(module.main)
    config = Path(settings["config"])
    config.write_text(json.dumps({key: value for key, value in settings.items() if key != "config"}))
    database = Path(settings.get("tracking_uri", f"sqlite:///{config}").removeprefix("sqlite:///"))
    places = {config.parent, database.parent}
    before = {place: contents(place) for place in places}

    def run() -> Any:
        with exit_codes():
            single(["--config", str(config), "--dry-run", "--json", *flags], standalone_mode=False)

    wrapped = typer.Typer(add_completion=False)
    wrapped.command()(run)
    result = CliRunner().invoke(wrapped)
    assert {place: contents(place) for place in places} == before
    return result.exit_code, json.loads(result.stdout) if result.stdout else None, result.stderr


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("lake") / "lake"
    write_png(PhantomCohort(PATIENTS, 3, size=96), place)
    return place


@pytest.fixture
def publishing(folder: Path, lake: Path, registry: Registry) -> dict[str, Any]:
    """Settings that publish the lake."""
    return {
        "config": str(folder / "anonymize.yaml"),
        "source": str(lake),
        "destination": str(folder / "out"),
        "exclude": ["*.csv"],
        "model": "models:/net/1",
        "secret_file": str(folder / "key"),
        "tracking_uri": registry.uri,
        "rows_per_shard": 10,
        "deid": {"burned_in_text": "off"},
        "ray": {"num_cpus": 4},
    }


def catalogued(publishing: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The same with a catalog as source."""
    build_catalog(CatalogConfig(source=publishing["source"], out=str(folder / "catalog"), exclude=("*.csv",)))
    return {key: value for key, value in publishing.items() if key != "exclude"} | {"source": str(folder / "catalog")}


def images(lake: Path) -> int:
    return len(list(lake.glob("*.png")))


def test_of_a_lake_without_a_catalog_the_files_are_counted(
    publishing: dict[str, Any], folder: Path, lake: Path
) -> None:
    files = len(list(lake.iterdir()))
    code, plan, _ = dry("anonymize", publishing, "--images-per-second", "0.5", "--price-per-hour", "36")
    assert code == 0
    assert plan["facts"]["state"] == "to be listed"
    assert (plan["facts"]["images_to_do"], plan["facts"]["shards_to_do"]) == (files, -(-files // 10))
    assert plan["estimate"]["hours"] == round(files * 2 / 3600, 4)
    assert plan["estimate"]["cost"] == round(files * 2 / 100, 2)
    assert plan["places"]["source"] == publishing["source"]


def test_of_a_catalog_rows_shards_audit_and_actors_are_told(
    publishing: dict[str, Any], folder: Path, lake: Path
) -> None:
    code, plan, _ = dry("anonymize", catalogued(publishing, folder))
    count = images(lake)
    assert code == 0
    assert plan["does"] == f"publishes {count} images in {-(-count // 10)} shards as snapshot 1"
    assert (plan["facts"]["catalog_rows"], plan["facts"]["shards_committed"]) == (count, 0)
    assert (plan["facts"]["model"], len(plan["facts"]["audit"])) == ("net/1", 16)
    shared = {"where": "local", "cores": 4, "actors": 4, "cores_an_actor": 0.5, "cores_a_task": 0.5}
    if not plan["resources"]["gpus"]:
        assert plan["resources"] | shared == plan["resources"]
    assert plan["estimate"]["hours"] is None
    assert "--images-per-second" in plan["estimate"]["basis"]


def test_a_model_without_an_audit_is_refused_after_the_plan(publishing: dict[str, Any], folder: Path) -> None:
    unaudited = catalogued(publishing, folder) | {"model": "models:/net/2"}
    code, plan, told = dry("anonymize", unaudited)
    assert code == 1
    assert plan["facts"]["audit"] == "refused"
    assert plan["refusal"] in told
    assert plan["refusal"].startswith("models:/net/2 has no audit: run `prichexy audit models:/net/2`")
    code, plan, _ = dry("anonymize", unaudited | {"allow_unaudited": True})
    assert (code, plan["facts"]["audit"], plan["refusal"]) == (0, "unaudited", "")


def begun(publishing: dict[str, Any], folder: Path, shards: int) -> Store:
    """The destination as a run would leave it after some shards, and the job's settings."""
    given = {key: value for key, value in publishing.items() if key != "config"}
    config, keys = AnonymizeConfig.model_validate(given), Pseudonyms.from_file(folder / "key")
    registry = Registry(config.tracking_uri)
    model = registry.find(config.model)
    catalog = open_catalog(config.source, StorageConfig())
    assert catalog is not None
    assert model.audit_id is not None
    job = job_of(config, catalog, model, model.audit_id, keys, 1)
    store = Store(config.destination)
    claim(store, job)
    for shard in range(min(shards, job.shards)):
        commit_shard(store, job, shard, rows(job, *job.span(shard)))
    if shards >= job.shards:
        finish(store, job)
    return store


def test_a_job_that_goes_on_is_told_by_its_commits_and_its_last_rate(
    publishing: dict[str, Any], folder: Path, lake: Path
) -> None:
    settings = catalogued(publishing, folder)
    store = begun(settings, folder, 1)
    store.write("_lease/000001.json", Sign(1, "run", 3, "", "", {"images_per_second": 2.0}).to_bytes())
    code, plan, _ = dry("anonymize", settings, "--price-per-hour", "1")
    left = images(lake) - 10
    assert code == 0
    assert (plan["facts"]["state"], plan["facts"]["shards_committed"]) == ("goes on", 1)
    assert plan["facts"]["images_to_do"] == left
    assert plan["facts"]["lease"].startswith("held")
    assert plan["estimate"]["hours"] == round(left / 2 / 3600, 4)


def test_a_finished_job_has_nothing_to_do(publishing: dict[str, Any], folder: Path) -> None:
    settings = catalogued(publishing, folder)
    begun(settings, folder, 99)
    code, plan, _ = dry("anonymize", settings)
    assert (code, plan["does"]) == (0, "nothing: snapshot 1 is finished")
    assert (plan["facts"]["images_to_do"], plan["estimate"]["hours"]) == (0, 0.0)
    code, _, told = dry("anonymize", settings | {"rows_per_shard": 7})
    assert code == 2
    assert "holds another job's shards (differing: rows_per_shard)" in told


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"rows_per_shard": 0}, "setting rows_per_shard"),
        ({"colour": "red"}, "unknown setting colour"),
        ({"secret_file": "/absent"}, "secret"),
        ({"tracking_uri": "sqlite:////absent/mlflow.db"}, "setting tracking_uri: there is no registry"),
        ({"model": "models:/net/9"}, "there is no models:/net/9"),
        ({"source": "/absent"}, "/absent"),
        ({"ray": {"address": "127.0.0.1:1"}}, "setting ray.address: no usable Ray cluster answers there"),
    ],
)
def test_what_the_job_refuses_its_dry_run_refuses(
    publishing: dict[str, Any], change: dict[str, Any], told: str
) -> None:
    code, plan, text = dry("anonymize", publishing | change)
    assert (code, plan) == (1 if told == "/absent" else 2, None)  # a lake that is not there is a store's fault
    assert text.splitlines()[-1].startswith("error: ")
    assert told in text.splitlines()[-1]
    assert text.count("error: ") == 1


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> str:
    return phantom_table(tmp_path_factory.mktemp("table") / "table", patients=70, shares=(0.4, 0.2, 0.4))


@pytest.fixture
def training(folder: Path, table: str, registry: Registry) -> dict[str, Any]:
    return {
        **TINY,
        "config": str(folder / "train.yaml"),
        "table": table,
        "storage_path": str(folder / "runs"),
        "tracking_uri": registry.uri,
        "ray": {"num_cpus": 2},
    }


def of(kind: Callable[..., Any], settings: dict[str, Any]) -> Any:
    return kind(**{key: value for key, value in settings.items() if key != "config"})


def test_training_tells_how_far_each_stage_is_and_what_is_left(training: dict[str, Any], folder: Path) -> None:
    code, plan, _ = dry("train", training)
    assert (code, plan["facts"]["stages"]["adversarial"]) == (0, "begins, at most 2 epochs")
    assert plan["does"] == "trains classifier, verifier, pretraining, adversarial and registers prichexy-net"
    assert plan["estimate"]["hours"] is None
    config, run = of(TrainConfig, training), folder / "runs" / "train"
    fingerprint = open_table(config.table, config.storage).facts.fingerprint
    ended = {"settings": deciding_settings(config, "classifier", fingerprint), "result": {"epochs": 2}}
    write_record(Store(str(run / "classifier")), STAGE, ended)
    verifier = Checkpoints(Store(str(run / "verifier")))
    verifier.write(1, {})
    verifier.write_history([{"epoch": 1, "images_per_second": 16.0}])
    train_images = plan["facts"]["images"]["train"]
    for stage in ("pretraining", "adversarial"):
        Checkpoints(Store(str(run / stage))).write_history([{"images_per_second": 8.0}])
    code, plan, _ = dry("train", training, "--price-per-hour", "10")
    stages = {"classifier": "trained before", "verifier": "goes on after epoch 1 of at most 2"}
    assert plan["facts"]["stages"] | stages == plan["facts"]["stages"]
    seconds = 2 * 64 / 16 + 2 * train_images / 8 + 2 * 2 * 64 / 8
    assert plan["estimate"]["hours"] == round(seconds / 3600, 4)
    assert plan["estimate"]["cost"] == round(seconds / 360, 2)
    code, _, told = dry("train", training | {"classifier": TINY["classifier"] | {"batch": 8}})  # type: ignore[operator]
    assert code == 2
    assert "the classifier stage of run 'train' was begun with another classifier.batch" in told


def test_training_refuses_what_this_machine_does_not_have(training: dict[str, Any]) -> None:
    code, _, told = dry("train", training | {"compute": {"threads": 64}})
    assert code == 2
    assert "compute.workers x compute.threads is 64, but this machine gives Ray 2 cores" in told


@pytest.fixture
def auditing(training: dict[str, Any], folder: Path) -> dict[str, Any]:
    places = {name: training[name] for name in ("table", "tracking_uri", "ray")}
    more = {"out": str(folder / "audits"), "secret_file": str(folder / "key"), "config": str(folder / "audit.yaml")}
    return {
        **places,
        **more,
        "seeds": 3,
        "strength": [20],
        "attackers": ["correlation-16", "linear-metric", "inversion"],
    }


def test_an_audit_tells_its_attacks_those_kept_and_the_verdict(auditing: dict[str, Any], folder: Path) -> None:
    audited, unaudited = auditing | {"model": "models:/net/1"}, auditing | {"model": "models:/net/2"}
    code, plan, _ = dry("audit", unaudited)
    assert (code, plan["facts"]["attacks_kept"], plan["facts"]["record_there"]) == (0, 0, "none")
    assert plan["facts"]["registered_verdict"] == "none"
    assert plan["facts"]["decides"] is False
    attacks = plan["facts"]["attacks"]
    config = of(AuditConfig, audited)
    model = Registry(config.tracking_uri).find("models:/net/1")
    place = place_of(config, model, open_table(config.table, config.storage))
    place.write("runs/correlation-16-seed-42.npz", b"kept")
    place.write(RECORD, sealed(record(model.under_audit()), SECRET))
    code, plan, _ = dry("audit", audited, "--seconds-per-attack", "60", "--price-per-hour", "3")
    assert (code, plan["facts"]["attacks"], plan["facts"]["attacks_kept"]) == (0, attacks, 1)
    assert (plan["facts"]["record_there"], plan["facts"]["registered_verdict"]) == ("passed", "passed")
    assert plan["resources"]["attacks_at_once"] == 2
    assert plan["estimate"]["hours"] == round((attacks - 1) * 60 / 2 / 3600, 4)
    assert plan["places"]["results"].startswith(str(folder / "audits"))
    code, _, told = dry("audit", audited | {"attackers": ["oracle"]})
    assert code == 2
    assert "setting attackers: there is no oracle" in told


def test_a_comparison_tells_the_attacks_of_each_row(auditing: dict[str, Any]) -> None:
    compared = [
        {"label": "originals", "obfuscation": {"kind": "identity", "image_size": 64}},
        {"label": "ours", "model": "models:/net/1"},
    ]
    code, plan, _ = dry("audit", auditing | {"rows": compared}, "--compare")
    assert code == 0
    kept = {label: re.fullmatch(r"0 of (\d+) attacks kept", said) for label, said in plan["facts"]["rows"].items()}
    assert list(kept) == ["originals", "ours"]
    originals, ours = (int(found[1]) for found in kept.values() if found)
    assert ours == originals + 1  # the inversion needs a field


def test_a_promotion_tells_what_would_come_of_it(folder: Path, registry: Registry) -> None:
    shared = {"secret_file": str(folder / "key"), "tracking_uri": registry.uri, "config": str(folder / "promote.yaml")}
    asked = {**shared, "reason": "a test"}
    code, plan, _ = dry("promote", asked | {"model": "models:/net/1"})
    assert (code, plan["facts"]["outcome"], plan["facts"]["champion"]) == (0, "promoted", None)
    code, plan, told = dry("promote", asked | {"model": "models:/net/2"})
    assert (code, plan["facts"]["outcome"]) == (1, "refused")
    assert "models:/net/2 has no audit" in told
    assert registry.find("models:/net/1").aliases == ()
    with registry.asked() as client:
        assert client.get_experiment_by_name("prichexy-promotions") is None
    promote(registry, "models:/net/1", SECRET, "for the test")
    code, plan, _ = dry("promote", asked | {"model": "models:/net/1"})
    assert (code, plan["does"]) == (0, "nothing: models:/net/1 is the champion")
    code, _, told = dry("promote", asked | {"model": "models:/net", "rollback": True})
    assert code == 2
    assert "has no champion before this one to go back to" in told


def test_publishing_tells_the_files_that_it_would_write(folder: Path) -> None:
    store = published(folder / "out")
    settings = {"destination": store.uri, "config": str(folder / "publish.yaml"), "license": "CC-BY-4.0"}
    code, plan, _ = dry("publish", settings)
    assert code == 0
    assert plan["facts"]["files"] == dict.fromkeys(["README.md", "index.html", "croissant.json", "SHA256SUMS"], "new")
    assert plan["facts"]["images"] == 40
    store.write("README.md", b"an older card")
    code, plan, _ = dry("publish", settings)
    assert plan["facts"]["files"]["README.md"] == "another is there"
    code, plan, _ = dry("publish", settings | {"check": True})
    assert (code, "files" in plan["facts"]) == (0, False)
    code, _, told = dry("publish", settings | {"destination": str(folder / "nothing")})
    assert code != 0
    assert told.startswith("error: ")


def test_with_a_secret_a_publication_of_a_registered_model_asks_for_its_registry(folder: Path) -> None:
    store = published(folder / "out")
    settings = {"destination": store.uri, "config": str(folder / "publish.yaml"), "secret_file": str(folder / "key")}
    code, _, told = dry("publish", settings | {"tracking_uri": f"sqlite:///{folder}/absent.db"})
    assert code == 2
    assert "there is no registry" in told


def test_dry_runs_of_the_configurations_for_a_cluster_load_them() -> None:
    """A dry run takes the very files that a RayJob mounts."""
    for kind, name in ((AnonymizeConfig, "anonymize"), (AuditConfig, "audit"), (TrainConfig, "train-chestxray14")):
        assert load(kind, ROOT / "jobs" / "configs" / f"{name}.yaml")  # type: ignore[type-var]


def test_a_model_in_a_folder_needs_no_registry(publishing: dict[str, Any], folder: Path) -> None:
    create_untrained("flow-field", folder / "model", 0, {"features": 4, "image_size": 64})
    settings = publishing | {"model": str(folder / "model"), "allow_unaudited": True}
    code, plan, _ = dry("anonymize", settings | {"tracking_uri": f"sqlite:///{folder}/absent.db"})
    assert code == 0
    assert plan["facts"]["model"].startswith("local/")
