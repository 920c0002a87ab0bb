"""AWS: the launcher's file by Ray's own schema, SkyPilot's task, and policies that allow what is needed and no more."""

import base64
import json
import os
import re
import stat
import subprocess
import sys
from fnmatch import fnmatchcase
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import jsonschema
import pytest
import ray.autoscaler
import yaml

from tests.infra.built import INFRA
from tests.infra.test_entrypoints import in_the_container
from tests.infra.test_images import stages

AWS = INFRA / "aws"
POLICIES = sorted((AWS / "iam").glob("*.json"))

# The parts of a SkyPilot task that are used here, by SkyPilot 0.14.1 (sky/utils/schemas.py).
TASK = {
    "type": "object",
    "additionalProperties": False,
    "required": ["resources", "run"],
    "properties": {
        **{name: {"type": "string"} for name in ("name", "setup", "run")},
        "envs": {"type": "object", "additionalProperties": {"type": "string"}},
        "resources": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "infra": {"type": "string", "pattern": r"^aws/[a-z0-9-]+$"},
                "accelerators": {"type": "string", "pattern": r"^\w+:\d+$"},
                "cpus": {"type": "string", "pattern": r"^\d+\+$"},
                "memory": {"type": "string", "pattern": r"^\d+\+$"},
                "use_spot": {"type": "boolean"},
                "disk_size": {"type": "integer"},
                "job_recovery": {
                    "type": "object",
                    "additionalProperties": False,
                    "properties": {"max_restarts_on_errors": {"type": "integer", "minimum": 0}},
                },
            },
        },
    },
}


def cluster() -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((AWS / "cluster.yaml").read_text())
    return read


def sky() -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((AWS / "sky.yaml").read_text())
    return read


def statements(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((AWS / "iam" / f"{name}.json").read_text())["Statement"]
    return found


def allows(name: str, action: str, resource: str, prefix: str | None = None) -> bool:
    """Whether a policy allows an action, as IAM matches words; conditions other than a list's prefix are met."""
    for each in statements(name):
        assert each["Effect"] == "Allow"
        fits = action in each["Action"] and any(fnmatchcase(resource, known) for known in each["Resource"])
        prefixes = each.get("Condition", {}).get("StringLike", {}).get("s3:prefix")
        if fits and (prefixes is None or any(fnmatchcase(prefix or "", known) for known in prefixes)):
            return True
    return False


def test_the_launchers_file_follows_rays_schema() -> None:
    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    jsonschema.validate(cluster(), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**cluster(), "max_worker": 1}, schema)


def test_workers_are_spot_machines_from_none_on_without_public_addresses_or_open_disks() -> None:
    read = cluster()
    assert read["provider"]["use_internal_ips"] is True
    assert read["provider"]["cache_stopped_nodes"] is False
    for name, kind in read["available_node_types"].items():
        machine = kind["node_config"]
        assert machine.get("InstanceMarketOptions", {}).get("MarketType") == (None if name == "head" else "spot")
        assert kind.get("min_workers", 0) == 0
        assert machine["IamInstanceProfile"]["Arn"].endswith("head" if name == "head" else "worker")
        assert machine["MetadataOptions"]["HttpTokens"] == "required"
        assert all(disk["Ebs"]["Encrypted"] is True for disk in machine["BlockDeviceMappings"])
    assert read["available_node_types"]["gpu"]["resources"]["GPU"] == 1
    assert sum(kind["max_workers"] for kind in read["available_node_types"].values()) >= read["max_workers"]


def test_the_launchers_image_is_the_stage_that_its_commands_need() -> None:
    """It copies files into the container by rsync, and the head starts workers by ssh from within it."""
    image = cluster()["docker"]["image"]
    assert re.fullmatch(r"prichexy-launcher:\d+\.\d+\.\d+", image)
    base, steps = stages()["launcher"]
    assert base == "cuda"
    (install,) = [step for step in steps if "apt-get install" in step]
    assert "openssh-client rsync " in install
    mounted = {place for place in cluster()["file_mounts"] if place.startswith("~")}
    assert mounted  # below the home that the image names: the launcher takes /root where it names none
    assert "ENV HOME=/home/prichexy" in steps


def test_rays_token_is_asked_for_on_every_machine() -> None:
    read = cluster()
    for commands in (read["head_start_ray_commands"], read["worker_start_ray_commands"]):
        assert "RAY_AUTH_MODE=token ray start" in commands[-1]


def test_skypilots_task_is_valid_and_goes_on_after_its_machine_is_taken() -> None:
    task = sky()
    jsonschema.validate(task, TASK)
    assert task["resources"]["use_spot"] is True
    assert task["resources"]["job_recovery"]["max_restarts_on_errors"] >= 1


def test_skypilots_machine_runs_the_image_and_gives_it_gpus_and_its_role() -> None:
    """As SkyPilot's own environment (image_id) an image needs root or sudo, which ours has not."""
    docker, _ = in_the_container(sky()["run"])
    assert {"--gpus", "all", "--network", "host", "--rm", "--init"} <= set(docker)
    assert docker[-4] == "prichexy-cuda:0.1.0"
    passed = {docker[place + 1] for place, word in enumerate(docker) if word == "--env"}
    assert passed == set(sky()["envs"])


@pytest.mark.parametrize(
    ("failing", "ran"),
    [
        ("none", ["python fetch_secret.py", "prichexy doctor", "python jobs/anonymize.py"]),
        ("doctor", ["python fetch_secret.py", "prichexy doctor"]),
        ("fetch_secret", ["python fetch_secret.py"]),
    ],
)
def test_skypilots_job_ends_at_the_first_command_that_fails(failing: str, ran: list[str], tmp_path: Path) -> None:
    """Run as it stands, with programs that only note that they were called."""
    note = f'echo "${{0##*/}} $1" >> {tmp_path}/ran\ncase "$0 $*" in *{failing}*) exit 1;; esac\n'
    after = 'while [ "$1" != sh ]; do shift; done\nexec "$@"\n'
    for name, script in (("python", note), ("prichexy", note), ("docker", after)):
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}")
        (tmp_path / name).chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = subprocess.run(["bash", "-c", sky()["run"]], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (int(failing != "none"), "")
    assert (tmp_path / "ran").read_text().splitlines() == ran


def test_the_clusters_head_may_start_machines_from_all_that_a_start_needs() -> None:
    named = {arn.split(":")[-1].split("/")[0] for each in statements("cluster-head") for arn in each["Resource"]}
    assert {"image", "instance", "key-pair", "network-interface", "security-group", "subnet", "volume"} <= named


@pytest.mark.parametrize("file", POLICIES, ids=lambda file: file.stem)
def test_no_policy_allows_everything(file: Path) -> None:
    for each in json.loads(file.read_text())["Statement"]:
        assert not [action for action in each["Action"] if "*" in action]
        assert each["Sid"]
        if "*" in each["Resource"]:
            assert all(re.fullmatch(r"ec2:Describe\w+", action) for action in each["Action"])
            assert each["Condition"]


LAKE, PUBLISHED, LINKS = (
    "hospital-cxr/images/a.dcm",
    "public-cxr/release-1/data/a.parquet",
    "hospital-custodian/links/a",
)


@pytest.mark.parametrize(
    ("policy", "key", "rights"),
    [
        ("source-reader", LAKE, "Get"),
        ("source-reader", PUBLISHED, ""),
        ("destination-writer", PUBLISHED, "Get Put Delete"),
        ("destination-writer", "public-cxr/release-2/a", ""),
        ("destination-writer", "hospital-private/release-1/catalog/a", "Get Put Delete"),
        ("destination-writer", LINKS, "Put Delete"),
        ("destination-writer", LAKE, ""),
        ("custodian", LINKS, "Get Put Delete"),
        ("custodian", PUBLISHED, ""),
        ("custodian", LAKE, ""),
        ("table-writer", "hospital-private/catalog/a", "Get Put Delete"),
        ("table-writer", "hospital-private/chestxray14-256/x", "Get Put Delete"),
        ("table-writer", "hospital-private/release-1/catalog/a", ""),
        ("table-writer", LAKE, ""),
        ("trainer", "hospital-private/runs/chestxray14/x", "Get Put Delete"),
        ("trainer", "hospital-private/chestxray14-256/x", "Get"),
        ("trainer", "hospital-private/release-1/catalog/a", ""),
        ("trainer", LAKE, ""),
        ("mlflow-artifacts", "mlflow/artifacts/1/weights", "Get Put Delete"),
        ("mlflow-artifacts", "hospital-private/runs/x", ""),
    ],
)
def test_a_role_can_do_its_work_and_no_more(policy: str, key: str, rights: str) -> None:
    found = [right for right in ("Get", "Put", "Delete") if allows(policy, f"s3:{right}Object", f"arn:aws:s3:::{key}")]
    assert found == rights.split()
    bucket, _, path = key.partition("/")
    listed = allows(policy, "s3:ListBucket", f"arn:aws:s3:::{bucket}", path)
    assert listed == ("Get" in rights)  # the job writes links and never lists them


def test_whoever_writes_may_also_give_up_what_is_half_sent() -> None:
    """An object of several parts that breaks off stays, unseen, until it is given up."""
    for file in POLICIES:
        for each in json.loads(file.read_text())["Statement"]:
            if each["Effect"] == "Allow" and "s3:PutObject" in each["Action"]:
                assert "s3:AbortMultipartUpload" in each["Action"], each["Sid"]


def test_private_buckets_deny_what_comes_from_elsewhere() -> None:
    elsewhere, plain = statements("private-bucket-policy")
    assert (elsewhere["Effect"], plain["Effect"]) == ("Deny", "Deny")
    assert list(elsewhere["Condition"]["StringNotEquals"]) == ["aws:SourceVpce"]
    assert plain["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    for each in (elsewhere, plain):
        assert {"s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:ListBucket"} <= set(each["Action"])


def test_the_readme_names_every_policy() -> None:
    text = (AWS / "iam" / "README.md").read_text()
    assert [file.stem for file in POLICIES if f"`{file.stem}`" not in text] == []


def test_a_secret_is_fetched_into_a_file_of_its_own(tmp_path: Path) -> None:
    secret = bytes(range(32))

    class Manager(BaseHTTPRequestHandler):
        """AWS Secrets Manager, as far as its JSON protocol is used."""

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert self.headers["X-Amz-Target"] == "secretsmanager.GetSecretValue"
            answer = {"Name": asked["SecretId"], "SecretBinary": base64.b64encode(secret).decode()}
            body = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Manager)
    Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    keys = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_DEFAULT_REGION": "eu-central-1"}
    command = [sys.executable, str(INFRA / "docker" / "fetch_secret.py"), "prichexy/key", str(tmp_path / "key")]
    done = subprocess.run(command, env={**os.environ, **keys, "AWS_ENDPOINT_URL": address}, capture_output=True)
    server.shutdown()
    server.server_close()
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert (tmp_path / "key").read_bytes() == secret
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o400
