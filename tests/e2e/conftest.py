"""Real servers on this machine's loopback, started for the tests and ended with them."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import s3fs

from prichexy.lake.storage import _filesystem
from prichexy.obfuscation import create_untrained
from tests.conftest import SHARED
from tests.e2e.lakes import mixed_lake

ACCESS_KEY, SECRET_KEY = "testkey", "testsecret"


@dataclass(frozen=True)
class S3Server:
    """A seaweedfs server that checks credentials."""

    endpoint: str

    def environment(self, access_key: str = ACCESS_KEY, secret_key: str = SECRET_KEY) -> dict[str, str]:
        """The usual AWS variables for a client of this server."""
        return {
            "AWS_ACCESS_KEY_ID": access_key,
            "AWS_SECRET_ACCESS_KEY": secret_key,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def client(self) -> s3fs.S3FileSystem:
        return s3fs.S3FileSystem(
            key=ACCESS_KEY,
            secret=SECRET_KEY,
            endpoint_url=self.endpoint,
            use_listings_cache=False,
            skip_instance_cache=True,
        )


_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_UNUSED = iter(range(12_000 + 1_000 * (_WORKER % 8), 13_000 + 1_000 * (_WORKER % 8)))


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on; below 20,000 so that the server's derived gRPC ports (+10,000) are valid.

    Each is given out once, and each of pytest's processes has its own thousand: a server that is still starting does
    not listen yet.
    """
    ports: list[int] = []
    for port in _UNUSED:
        with socket.socket() as one, socket.socket() as two:
            try:
                one.bind(("127.0.0.1", port))
                two.bind(("127.0.0.1", port + 10_000))
            except OSError:
                continue
        ports.append(port)
        if len(ports) == count:
            return ports
    raise RuntimeError("no free ports")


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    folder = tmp_path_factory.mktemp("weed")
    identity = {
        "name": "admin",
        "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    s3_port, master, volume, filer = free_ports(4)
    weed = Path(sys.executable).parent / "weed"
    command = [str(weed if weed.exists() else shutil.which("weed")), "server", f"-dir={folder}", "-ip=127.0.0.1"]
    command += [
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-master.telemetry=false",
        "-ip.bind=127.0.0.1",
        "-volume.max=100",
        "-master.volumeSizeLimitMB=256",
        "-s3",
        f"-s3.port={s3_port}",
    ]
    command += [
        f"-s3.config={folder / 's3.json'}",
        f"-master.port={master}",
        f"-volume.port={volume}",
        f"-filer.port={filer}",
    ]
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        server = S3Server(f"http://127.0.0.1:{s3_port}")
        try:
            _wait_until_it_takes_objects(server, process, folder / "log")
            yield server
        finally:
            process.kill()


def _wait_until_it_takes_objects(server: S3Server, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            client = server.client()
            client.mkdir("ready")
            client.pipe_file("ready/probe", b"x")
            return
        except Exception:
            if process.poll() is not None:
                break
            time.sleep(0.5)
    raise RuntimeError(f"the S3 server did not start: {log.read_text(errors='replace')[-2000:]}")


@pytest.fixture
def credentials(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The S3 server's, for stores that the test itself opens."""
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    _forget_credentials()
    yield
    _forget_credentials()


def _forget_credentials() -> None:
    """Both caches keep those of earlier tests."""
    _filesystem.cache_clear()
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def bucket(s3: S3Server, credentials: None) -> str:
    """A bucket that the test itself reaches; tests share it, each below a prefix of its own."""
    client = s3.client()
    if not client.exists("store"):
        client.mkdir("store")
    return "s3://store"


@pytest.fixture
def mlflow_server(s3: S3Server, tmp_path: Path) -> Iterator[str]:
    """An MLflow server with its own database, whose artifacts lie on the S3 server."""
    pytest.importorskip("boto3", reason="MLflow reaches S3 by boto3, which is in the dev extras")
    s3.client().mkdir("mlflow")
    (port,) = free_ports(1)
    database = f"sqlite:///{tmp_path}/server.db"
    words = ["server", "--backend-store-uri", database, "--artifacts-destination", "s3://mlflow/artifacts"]
    words += ["--serve-artifacts", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    environment = {**os.environ, **s3.environment(), "MLFLOW_S3_ENDPOINT_URL": s3.endpoint}
    with (tmp_path / "server.log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *words], env=environment, stdout=log, stderr=log, start_new_session=True
        )
        try:
            uri = f"http://127.0.0.1:{port}"
            deadline = time.monotonic() + 180
            while not _answers(uri):
                assert server.poll() is None, (tmp_path / "server.log").read_text()
                assert time.monotonic() < deadline, "the MLflow server does not answer"
                time.sleep(0.5)
            yield uri
        finally:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def _answers(uri: str) -> bool:
    try:
        with urllib.request.urlopen(f"{uri}/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@pytest.fixture(scope="session")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The mixed lake of 400 files, of real radiographs where they are at hand."""
    real = Path(os.environ.get("PRICHEXY_REAL_DATA", SHARED / "data"))
    folder = tmp_path_factory.mktemp("mixed") / "lake"
    mixed_lake(folder, real if (real / "chestxray14" / "images_1024").is_dir() else None)
    return folder


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small flow-field model: real deformations at a tenth of the arithmetic."""
    folder = tmp_path_factory.mktemp("model") / "flow"
    create_untrained("flow-field", folder, 0, {"features": 4, "mu": 0.05})
    return folder


def prichexy(
    *arguments: str, env: dict[str, str] | None = None, timeout: float = 300
) -> "subprocess.CompletedProcess[str]":
    """Run the command as a user would."""
    command = [str(Path(sys.executable).parent / "prichexy"), *arguments]
    return subprocess.run(command, env={**os.environ, **(env or {})}, capture_output=True, text=True, timeout=timeout)
