"""The stand-in cluster: valid, every reference resolved, each container with its own secrets only."""

import json
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import s3fs
import yaml

from tests.e2e.conftest import S3Server, _wait_until_it_takes_objects, free_ports
from tests.infra.built import INFRA, compose, tool

sys.path.insert(0, str(INFRA / "docker"))
import prepare


def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = compose()["services"]
    return found


def test_it_follows_the_compose_specification() -> None:
    compose_spec = pytest.importorskip("compose_spec", reason="it is in the dev extras")
    read = compose_spec.PyCompose.from_yaml(yaml.safe_dump(compose()))
    read.validate()
    assert sorted(read.service_names()) == sorted(services())
    with pytest.raises(ValueError, match="imagge"):
        compose_spec.PyCompose.from_yaml("services: {a: {image: x, imagge: y}}")


def test_one_command_starts_everything_in_order() -> None:
    for name, service in services().items():
        for needed, how in service.get("depends_on", {}).items():
            other = services()[needed]
            if how["condition"] == "service_healthy":
                ours = other["image"].startswith("prichexy")  # the Dockerfile has their health checks
                assert ours or other["healthcheck"]["test"], (name, needed)
            else:
                assert how["condition"] == "service_completed_successfully"
                assert other["restart"] == "no"
        assert "profiles" not in service
    once = {name for name, service in services().items() if service["restart"] == "no"}
    awaited = {needed for service in services().values() for needed in service.get("depends_on", ())}
    assert once == {"secrets", "buckets", "lake"}
    assert once <= awaited  # `up --wait` takes their end for success only then


def test_images_are_pinned_and_name_no_registry() -> None:
    for service in services().values():
        name, _, tag = service["image"].rpartition(":")
        assert re.fullmatch(r"\d+(\.\d+)+(-\w+)?", tag), service["image"]
        assert "." not in name.split("/")[0]


def test_nothing_is_reachable_from_outside_the_machine() -> None:
    ports = [port for service in services().values() for port in service.get("ports", ())]
    assert ports == ["127.0.0.1:5000:5000", "127.0.0.1:8265:8265"]


def test_our_containers_keep_no_needless_rights() -> None:
    for name, service in services().items():
        if name == "postgres":  # changes its user itself
            continue
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert set(service.get("cap_add", ())) <= {"CHOWN", "DAC_OVERRIDE"}
        assert "privileged" not in service


def test_each_container_sees_its_own_secrets_only() -> None:
    seen = {
        name: [volume.split(":")[0] for volume in service.get("volumes", ()) if "secrets" in volume]
        for name, service in services().items()
    }
    made = {volume.split(":")[0]: volume.split("/")[-1] for volume in services()["secrets"]["volumes"]}
    assert set(made) == {name for name in compose()["volumes"] if name.endswith("-secrets")}
    assert seen.pop("secrets") == list(made)
    assert seen == {
        "s3": ["s3-secrets"],
        "buckets": ["admin-secrets"],
        "lake": ["admin-secrets"],
        "postgres": ["postgres-secrets"],
        "mlflow": ["mlflow-secrets"],
        "ray-head": ["node-secrets"],
        "ray-worker": ["node-secrets"],
    }
    for name in seen:
        assert all(volume.endswith("/run/secrets:ro") for volume in services()[name]["volumes"] if "secrets" in volume)


def test_secrets_are_made_once_and_every_named_file_is_among_them(made: Path) -> None:
    files = {str(path.relative_to(made)) for path in made.rglob("*") if path.is_file()}
    named = set()
    for name, service in services().items():
        if name != "secrets":
            (folder,) = [volume.split("-")[0] for volume in service["volumes"] if "secrets" in volume]
            text = json.dumps([service.get("environment", {}), service.get("command", [])])
            named |= {f"{folder}/{file}" for file in re.findall(r"/run/secrets/([\w.]+)", text)}
    assert named | {"node/prichexy.key"} == files
    before = {name: (made / name).read_bytes() for name in files}
    assert len(before["node/prichexy.key"]) == 32
    assert {stat.S_IMODE((made / name).stat().st_mode) for name in files} == {0o400}
    assert {(made / name).stat().st_uid for name in files - {"postgres/password"}} == {1000}
    prepare.make_secrets(made)
    assert {name: (made / name).read_bytes() for name in files} == before


def test_the_configured_places_are_the_buckets_that_are_made() -> None:
    buckets = {prepare.SOURCE, prepare.PUBLISHED, prepare.PRIVATE, prepare.MLFLOW}
    job = yaml.safe_load((INFRA.parent / "jobs" / "configs" / "anonymize.yaml").read_text())
    named = {job[key].removeprefix("s3://").split("/")[0] for key in ("source", "destination", "work_dir")}
    assert named == buckets - {prepare.MLFLOW}
    assert job["secret_file"] == "/run/secrets/prichexy.key"
    assert job["tracking_uri"] == services()["ray-head"]["environment"]["MLFLOW_TRACKING_URI"]
    assert services()["mlflow"]["networks"] == {"default": {"aliases": ["mlflow.internal"]}}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The secrets of one start."""
    folder = tmp_path_factory.mktemp("made")
    try:
        prepare.make_secrets(folder)
    except PermissionError:
        pytest.skip("only root can give files to the containers' users")
    return folder


@pytest.fixture(scope="module")
def server(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The S3 server with the compose file's own options, but for its ports and places; its address."""
    data, (s3, master, volume, filer) = tmp_path_factory.mktemp("data"), free_ports(4)
    command = [tool("weed"), *services()["s3"]["command"]]
    places = {"-dir=/data": f"-dir={data}", "-ip=s3": "-ip=127.0.0.1", "-ip.bind=0.0.0.0": "-ip.bind=127.0.0.1"}
    places |= {"-s3.port=8333": f"-s3.port={s3}", "-s3.config=/run/secrets/s3.json": f"-s3.config={made}/s3/s3.json"}
    command = [places.pop(word, word) for word in command]
    assert places == {}
    command += [f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}"]
    log = data / "log"
    with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out) as process:
        try:
            admin = client(made, "admin", f"http://127.0.0.1:{s3}")
            _wait_until_it_takes_objects(_As(f"http://127.0.0.1:{s3}", admin), process, log)
            yield f"http://127.0.0.1:{s3}"
        finally:
            process.kill()


class _As(S3Server):
    """The server as one of its users sees it."""

    def __init__(self, endpoint: str, seen: s3fs.S3FileSystem) -> None:
        super().__init__(endpoint)
        object.__setattr__(self, "_seen", seen)

    def client(self) -> s3fs.S3FileSystem:
        return self._seen  # type: ignore[attr-defined]


def client(made: Path, user: str, endpoint: str) -> s3fs.S3FileSystem:
    folder = {"job": "node"}.get(user, user)
    lines = dict(line.split(" = ") for line in (made / folder / "aws_credentials").read_text().splitlines()[1:])
    return s3fs.S3FileSystem(
        key=lines["aws_access_key_id"],
        secret=lines["aws_secret_access_key"],
        endpoint_url=endpoint,
        client_kwargs={"region_name": "us-east-1"},
        use_listings_cache=False,
        skip_instance_cache=True,
    )


@pytest.mark.e2e
def test_each_user_of_the_store_can_do_its_work_and_no_more(
    made: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(made / "admin" / "aws_credentials"))
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(variable, raising=False)
    s3fs.S3FileSystem.clear_instance_cache()
    prepare.make_buckets()
    prepare.make_buckets()
    prepare.make_lake(1)
    s3fs.S3FileSystem.clear_instance_cache()
    job, mlflow = client(made, "job", server), client(made, "mlflow", server)
    images = job.find("hospital-cxr/images")
    assert len(images) >= 2
    assert job.cat_file(images[0])
    for bucket in ("public-cxr", "hospital-private"):
        job.pipe_file(f"{bucket}/a", b"x")
        assert job.cat_file(f"{bucket}/a") == b"x"
        job.rm_file(f"{bucket}/a")
    mlflow.pipe_file("mlflow/artifacts/a", b"x")
    for user, refused in ((job, "hospital-cxr/b"), (job, "mlflow/b"), (mlflow, "public-cxr/b")):
        with pytest.raises(PermissionError):
            user.pipe_file(refused, b"x")
    for user, refused in ((mlflow, images[0]), (job, "mlflow/artifacts/a")):
        with pytest.raises(PermissionError):
            user.cat_file(refused)


@pytest.mark.e2e
def test_the_stores_health_check_answers(server: str) -> None:
    address = services()["s3"]["healthcheck"]["test"][1].split()[-1]
    path = re.fullmatch(r"http://127\.0\.0\.1:8333(/\w+)", address)
    assert path is not None
    done = subprocess.run([sys.executable, str(INFRA / "docker" / "healthy.py"), f"{server}{path[1]}"])
    assert done.returncode == 0
