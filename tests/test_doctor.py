"""`prichexy doctor` finds each planted misconfiguration, names the mend, and leaves nothing behind."""

import base64
import contextlib
import json
import subprocess
import threading
import time
from collections.abc import Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from s3fs import S3FileSystem

from prichexy.cluster import shared_out
from prichexy.config import AnonymizeConfig
from prichexy.doctor import Finding, examine
from prichexy.doctor.cluster import check_gpus, mismatch, node_clocks, same_key, same_versions
from prichexy.doctor.finding import merged, ok, warning
from prichexy.doctor.node import NodeFacts, check_disk, check_shared_memory, look_at_node, versions
from prichexy.doctor.secret import check_logs, check_runtime_envs, needles
from prichexy.lake.storage import _filesystem
from prichexy.obfuscation import create_untrained
from prichexy.registry import Registry
from tests.e2e.conftest import S3Server, free_ports, prichexy, s3

__all__ = ["s3"]  # the server's fixture

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]
BUCKET = "doctor"
SECRET = bytes(range(100, 132))


@pytest.fixture(scope="module")
def registry_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A registry that holds prichexy-net version 1, not audited."""
    folder = tmp_path_factory.mktemp("registry")
    create_untrained("flow-field", folder / "flow", 0, {"features": 4})
    registry = Registry(f"sqlite:///{folder}/mlflow.db")
    registry.register(folder / "flow", "prichexy-net", "a test")
    return registry.uri


@pytest.fixture
def store(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3FileSystem]:
    """The S3 server with a lake of one file; for this test, the AWS variables name it."""
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    client = s3.client()
    if not client.exists(BUCKET):
        client.mkdir(BUCKET)
    client.pipe_file(f"{BUCKET}/lake/a.png", b"no radiograph")
    _forget_credentials()
    yield client
    _forget_credentials()


def _forget_credentials() -> None:
    _filesystem.cache_clear()
    S3FileSystem.clear_instance_cache()


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "project.key"
    path.write_bytes(SECRET)
    path.chmod(0o600)
    return path


@pytest.fixture
def sound(store: S3FileSystem, registry_uri: str, key: Path) -> dict[str, object]:
    """Settings with nothing wrong."""
    return {
        "source": f"s3://{BUCKET}/lake",
        "destination": f"s3://{BUCKET}/published",
        "work_dir": f"s3://{BUCKET}/private",
        "model": "models:/prichexy-net/1",
        "allow_unaudited": True,
        "tracking_uri": registry_uri,
        "secret_file": str(key),
        "ray": {"num_cpus": 2},
    }


def findings(settings: dict[str, object]) -> dict[str, Finding]:
    return {finding.check: finding for finding in examine(AnonymizeConfig.model_validate(settings))}


def failures(settings: dict[str, object]) -> dict[str, Finding]:
    return {check: finding for check, finding in findings(settings).items() if finding.state == "failed"}


def test_a_sound_configuration_passes_and_nothing_is_left_behind(sound: dict[str, object], store: S3FileSystem) -> None:
    before = store.find(BUCKET)
    found = findings(sound)
    assert {check: finding.found for check, finding in found.items() if finding.state == "failed"} == {}
    assert list(found) == [
        *("ray", "secret", "logs", "source", "destination", "work_dir", "disk", "shared memory", "text networks"),
        *("mlflow", "model", "clock"),
    ]
    assert found["source"].found == "can be listed and read"
    assert found["destination"].found == "can be written, read, listed and deleted"
    assert found["model"] == warning(
        "model", "prichexy-net version 1 has no passing audit; shards will say so", "`prichexy audit` it"
    )
    assert found["clock"].found == "within 30 s of the S3 server"
    assert store.find(BUCKET) == before


def test_the_wrong_endpoint(sound: dict[str, object]) -> None:
    (port,) = free_ports(1)
    found = failures({**sound, "storage": {"endpoint_url": f"http://127.0.0.1:{port}"}})
    assert set(found) == {"source", "destination", "work_dir"}
    assert found["source"].found == f"can't read from s3://{BUCKET}/lake: the endpoint does not answer"
    assert "AWS_ENDPOINT_URL" in found["source"].mend


def test_wrong_credentials(sound: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not the key")
    _forget_credentials()
    found = failures(sound)
    assert set(found) == {"source", "destination", "work_dir"}
    assert "HTTP 403" in found["destination"].found
    assert "policy lets them list, read, write and delete (infra/aws/iam)" in found["destination"].mend
    assert "not the key" not in str(found)


def test_a_read_only_destination(sound: dict[str, object], tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "ro,size=1m") as disk:
        found = failures({**sound, "destination": str(disk / "out"), "work_dir": str(tmp_path / "work")})
    assert set(found) == {"destination"}
    assert found["destination"].found == f"can't write: can't write to {disk}/out: it is read-only"
    assert "mount it for writing" in found["destination"].mend


def test_the_link_table_is_written_to_and_never_read(
    sound: dict[str, object], store: S3FileSystem, tmp_path: Path
) -> None:
    found = findings({**sound, "link_table": f"s3://{BUCKET}/links", "link_recipient": str(tmp_path / "c.pub")})
    assert found["link_table"] == ok("link_table", "can be written and deleted")
    assert [name for name in store.find(BUCKET) if ".tmp-" in name] == []


def test_a_secret_that_everybody_can_read(sound: dict[str, object], key: Path) -> None:
    key.chmod(0o644)
    (found,) = failures(sound).values()
    assert found.found == "everybody on the machine can read the secret file (mode 0644)"
    assert found.mend.startswith(f"chmod 600 {key}")


def test_a_short_secret(sound: dict[str, object], key: Path) -> None:
    key.write_bytes(SECRET[:16])
    (found,) = failures(sound).values()
    assert found.found == f"the secret file {key} holds 16 bytes instead of 32"
    assert "prichexy keygen" in found.mend


def test_an_unknown_alias(sound: dict[str, object]) -> None:
    (found,) = failures({**sound, "model": "models:/prichexy-net@champion"}).values()
    assert found.found.startswith("setting model: there is no models:/prichexy-net@champion in the registry")
    assert "prichexy promote" in found.mend


def test_a_model_without_an_audit(sound: dict[str, object]) -> None:
    (found,) = failures({**sound, "allow_unaudited": False}).values()
    assert found.found == "prichexy-net version 1 has no passing audit"
    assert "allow_unaudited" in found.mend


def test_an_mlflow_that_does_not_answer(sound: dict[str, object]) -> None:
    (port,) = free_ports(1)
    (found,) = failures({**sound, "tracking_uri": f"http://127.0.0.1:{port}"}).values()
    assert found.check == "mlflow"
    assert "start the server, or check tracking_uri" in found.mend


def test_a_registry_that_is_not_there_is_not_made(sound: dict[str, object], tmp_path: Path) -> None:
    (found,) = failures({**sound, "tracking_uri": f"sqlite:///{tmp_path}/none.db"}).values()
    assert found.found == f"there is no registry {tmp_path}/none.db here"
    assert not (tmp_path / "none.db").exists()


def test_a_full_disk(sound: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with mounted(tmp_path / "disk", "size=1m") as disk:
        (disk / "spilled").write_bytes(bytes(1_020_000))
        monkeypatch.setenv("RAY_TMPDIR", str(disk))
        (found,) = failures(sound).values()
    assert found.check == "disk"
    assert found.found.endswith("Ray stops spilling at 95%")
    assert "RAY_TMPDIR" in found.mend


@pytest.mark.parametrize(("ahead", "state"), [(-2, "ok"), (-40, "warning"), (1000, "failed")])
def test_a_clock_that_goes_wrong(sound: dict[str, object], ahead: int, state: str) -> None:
    with server_whose_clock_is(ahead) as address:
        found = findings({**sound, "storage": {"endpoint_url": address}})["clock"]
    assert found.state == state
    if state == "failed":
        assert found.found.startswith("1000 s behind the S3 server") or found.found.startswith("999 s behind")
        assert found.mend == "let both machines keep their time by NTP"


def test_a_secret_in_logs_and_runtime_environments(key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI")
    unwanted = needles(key)
    assert set(unwanted.values()) == {"the project secret", "a storage credential"}
    (tmp_path / "logs" / "old").mkdir(parents=True)
    log = tmp_path / "logs" / "old" / "worker.out"
    shown = {SECRET: 1, SECRET.hex().encode(): 1, base64.b64encode(SECRET): 1, b"wJalrXUtnFEMI": 1, b"0ff": 0}
    for value, count in shown.items():
        log.write_bytes(b"lines before\n" + value + b"\nlines behind")
        found = check_logs(tmp_path / "logs", unwanted)
        assert (found.state == "failed") == bool(count), value
        assert "wJalr" not in found.found
    clean = {"runtime_env": {"env_vars": {"AWS_SHARED_CREDENTIALS_FILE": "/run/secrets/aws"}}, "entrypoint": "x"}
    assert check_runtime_envs([clean, {"runtime_env": None}], unwanted) == ok(
        "exposure", "no secret in the runtime environments of 2 jobs"
    )
    named = {"runtime_env": {"env_vars": {"MLFLOW_TRACKING_PASSWORD": "x"}}}
    assert check_runtime_envs([clean, named], unwanted).found == (
        "a job's runtime environment holds MLFLOW_TRACKING_PASSWORD"
    )
    told = check_runtime_envs([{"entrypoint": f"job {SECRET.hex()}"}], unwanted)
    assert (told.state, told.found) == (
        "failed",
        "the project secret stands in a job's runtime environment or command line",
    )


def test_nodes_that_differ() -> None:
    here, now = versions(), time.time()
    alike = {"one": NodeFacts(here, "k", now, ()), "two": NodeFacts(here, "k", now + 1, ())}
    other = {**alike, "two": NodeFacts((here[0], "2.40.0", here[2]), "other", now - 90, ())}
    capacity = shared_out(8, 0, None)
    assert same_versions(alike, 2, 8, capacity).found == f"{here[1]} on 2 nodes, 8 cores, 8 generator actors"
    assert "2.40.0" in same_versions(other, 2, 8, capacity).found
    assert same_versions(alike, 3, 8, capacity).found == "1 of 3 nodes don't answer"
    assert (same_key(alike).state, same_key(other).state) == ("ok", "failed")
    assert (node_clocks(alike, now, now + 2).state, node_clocks(other, now, now + 2).state) == ("ok", "failed")
    assert check_gpus({"one": True, "two": None}).found == "usable on 1 nodes, busy on 1"
    assert check_gpus({"one": True, "two": False}).found == "torch sees no GPU on two, where Ray has one"
    assert "one image" in mismatch("2.40.0", "3.11.7").mend
    bad = Finding("disk", "failed", "full", "make room")
    assert merged({"one": ok("disk", "fine"), "two": bad}) == Finding("disk", "failed", "full (on two)", "make room")
    assert merged({"one": bad, "two": bad}).found == "full (on all 2 nodes)"


def test_a_containers_little_shared_memory(tmp_path: Path) -> None:
    with mounted(tmp_path / "shm", "size=64m") as place:
        assert check_shared_memory(place).state == "warning"
        assert check_disk(place).state == "warning"
    assert check_disk(tmp_path / "none").state == "failed"


def test_every_node_of_a_cluster_is_asked(sound: dict[str, object], local_ray: None) -> None:
    found = findings({**sound, "ray": {"address": "auto"}})
    assert "on 1 nodes, 2 cores" in found["ray"].found
    assert found["gpus"].state == "warning"
    assert found["exposure"].state == "ok"
    assert "MiB of logs" in found["logs"].found
    assert found["same key"].found == "one project secret on all nodes"
    assert found["node clocks"].state == "ok"
    # These workers began without the variables that this test has: credentials are needed on every node.
    assert "no credentials found" in found["destination"].found
    assert "AWS_SHARED_CREDENTIALS_FILE" in found["destination"].mend


def test_the_command_prints_a_line_a_check_and_fails_when_one_did(
    sound: dict[str, object], s3: S3Server, key: Path, tmp_path: Path
) -> None:
    config = tmp_path / "job.yaml"
    config.write_text(json.dumps(sound))
    key.chmod(0o604)
    done = prichexy("doctor", "--config", str(config), env=s3.environment())
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert len(lines) == 12
    (line,) = [line for line in lines if line.startswith("failed")]
    assert "(mode 0604); mend: chmod 600" in line
    assert done.stderr == "error: 1 of 12 checks failed: secret\n"
    key.chmod(0o600)
    done = prichexy("doctor", "--config", str(config), "--json", env=s3.environment())
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["failed"] == []
    assert {"check", "state", "found", "mend"} == set(told["findings"][0])
    assert SECRET.hex() not in done.stdout + done.stderr


def test_a_local_source_and_a_model_folder_need_no_server(tmp_path: Path, key: Path) -> None:
    (tmp_path / "lake").mkdir()
    create_untrained("flow-field", tmp_path / "flow", 0, {"features": 4})
    settings = {
        "source": str(tmp_path / "lake"),
        "destination": str(tmp_path / "new" / "out"),
        "model": str(tmp_path / "flow"),
        "secret_file": str(key),
        "deid": {"burned_in_text": "off"},
    }
    (found,) = failures(settings).values()
    assert (found.check, found.found) == ("source", "it holds no file")
    assert not (tmp_path / "new").exists()
    (tmp_path / "lake" / "a.png").write_bytes(b"x")
    assert failures(settings) == {}
    facts = look_at_node(AnonymizeConfig.model_validate(settings), None)
    assert (facts.versions, len(facts.key_id or "")) == (versions(), 16)


@contextlib.contextmanager
def mounted(place: Path, options: str) -> Iterator[Path]:
    """A small file system in memory."""
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], capture_output=True).returncode:
        pytest.skip("a file system can only be mounted by root")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


@contextlib.contextmanager
def server_whose_clock_is(ahead: int) -> Iterator[str]:
    """A web server that refuses everything, with a date that many seconds off."""

    class Refuses(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response_only(403)
            self.send_header("Date", formatdate(time.time() + ahead, usegmt=True))
            self.end_headers()

        do_GET = do_HEAD  # noqa: N815
        do_PUT = do_HEAD  # noqa: N815

        def log_message(self, *arguments: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Refuses)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
