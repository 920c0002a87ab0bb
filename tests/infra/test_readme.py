"""infra/README.md, read as a stranger types it: every command is of a program that takes it, every name exists.

Commands that need neither a cluster nor a network are run as they stand, in a copy of the files that they change.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.scripts.scripts import cli as ray_cli

from prichexy.config import AnonymizeConfig, TrainConfig, load
from prichexy.registry import CHAMPION, STAGING
from tests.infra.built import INFRA, OVERLAYS, ROOT, compose, of_kind, overlay, pods, tool
from tests.infra.kuberay_schema import schema_of
from tests.infra.test_aws import allows
from tests.infra.test_entrypoints import JOBS, check, check_job, dockerfile, parse, words

README = INFRA / "README.md"
MODELS = ("audit", "promote", "anonymize")
"""Jobs that take a model."""

KNOWN = {
    *("docker compose", "docker build", "docker push", "kubectl", "helm", "prichexy", "mlflow", "ray", "python"),
    *("python3", ".venv/bin/pip", ".", "sed", "grep", "aws", "sky"),
}


def commands(file: Path | None = None) -> list[str]:
    """Indented lines of a document, in their order and without comments, whole where one goes on in the next."""
    text = re.sub(r"^```.*?^```$", "", (file or README).read_text(), flags=re.MULTILINE | re.DOTALL)
    found: list[str] = []
    for line in re.findall(r"^(?: {4}| {6}| {8})(\S.*)$", text, re.MULTILINE):
        if found and goes_on(found[-1]):
            found[-1] = found[-1].removesuffix("\\") + " " + line
        else:
            found.append(line)
        found[-1] = re.sub(r"\s+# .*", "", found[-1])
    return found


def goes_on(command: str) -> bool:
    """Whether a shell would read on: behind a backslash, or within quotes."""
    try:
        shlex.split(command)
    except ValueError:
        return True
    return False


def kind(command: str) -> str:
    first, *rest = words(command)
    return f"{first} {rest[0]}" if first == "docker" else first


def starting(program: str) -> list[list[str]]:
    """The words after the program of all its commands; one that stands in another's $(...) is a command of its own."""
    inner = [found for command in commands() for found in re.findall(r"\$\((.*?)\)", command)]
    plain = [re.sub(r"\$\(.*?\)", "FOUND", command) for command in commands()]
    return [words(command)[1:] for command in (*plain, *inner) if words(command)[0] == program]


def test_every_command_is_of_a_known_kind() -> None:
    assert len(commands()) > 35
    assert {kind(command) for command in commands()} == KNOWN


def test_paths_exist_and_programs_take_their_words() -> None:
    for command in commands():
        for place in re.findall(r"(?<![\w/.])(?:infra|jobs)/[\w./-]*\w", command):
            assert (ROOT / place).exists(), place
    for line in starting("prichexy"):
        assert check("README.md", ["prichexy", *line]) == "prichexy"
    for line in starting("mlflow"):
        assert check("README.md", ["mlflow", *line]) == "mlflow"
    for line in starting("ray"):
        parse(ray_cli, line)
        if line[0] == "submit":
            check_job("README.md", line[2:])
        if line[0] == "exec":
            check("README.md", words(line[2]))
    for line in starting("python"):
        assert line[0] == "infra/docker/prepare.py"
        assert f'case ["{line[1]}"' in (ROOT / line[0]).read_text()


def test_the_secret_is_put_where_the_machines_fetch_it() -> None:
    (line,) = starting("aws")
    name, file = line[line.index("--name") + 1], line[line.index("--secret-binary") + 1]
    assert file == "fileb://prichexy.key"
    for task in ("cluster.yaml", "sky.yaml"):
        assert f"fetch_secret.py {name} /run/secrets/prichexy.key" in (INFRA / "aws" / task).read_text()


def test_images_are_built_from_stages_that_exist_before_they_are_pushed() -> None:
    built = {}
    for line in starting("docker"):
        if line[0] == "build":
            given = dict(zip(line[1:-1:2], line[2:-1:2], strict=True))
            assert set(given) == {"--file", "--target", "--tag"}
            assert (ROOT / given["--file"]).samefile(INFRA / "docker" / "Dockerfile")
            assert f" AS {given['--target']}\n" in dockerfile() + "\n"
            built[given["--tag"]] = given["--target"]
        elif line[0] == "push":
            assert line[1] in built
    names = {f"{image['newName']}:{image['newTag']}" for name in OVERLAYS for image in images(INFRA, name)}
    launcher = yaml.safe_load((INFRA / "aws" / "cluster.yaml").read_text())["docker"]["image"]
    assert set(built) == {f"REGISTRY/{name}" for name in (*names, launcher)}
    assert built[f"REGISTRY/{launcher}"] == "launcher"


def test_a_job_for_the_launchers_cluster_names_it() -> None:
    """Unlike `ray job submit`, neither `ray submit` nor `ray exec` tells the program of the cluster."""
    lines = [line for line in starting("ray") if line[0] in ("submit", "exec")]
    assert [line[0] for line in lines] == ["exec", "submit"]
    for line in lines:
        assert "ray.address=auto" in " ".join(line).split(), line


def images(infra: Path, name: str) -> list[dict[str, str]]:
    read = yaml.safe_load((infra / "kuberay" / "overlays" / name / "kustomization.yaml").read_text())
    found: list[dict[str, str]] = read["images"]
    return found


def test_compose_commands_name_services_that_exist() -> None:
    services = compose()["services"]
    used = set()
    for line in starting("docker"):
        if line[0] == "compose":
            assert line[1] == "--file"
            used.add(line[3])
            if line[3] == "exec":
                assert line[4] in services
            if line[3] == "cp":
                assert line[5].split(":")[0] in services
    assert used == {"up", "cp", "exec"}


def flags_of(verb: str) -> set[str]:
    """Flags that kubectl knows for a verb."""
    own = subprocess.run([tool("kubectl"), *verb.split(), "--help"], capture_output=True, text=True, check=True)
    general = subprocess.run([tool("kubectl"), "options"], capture_output=True, text=True, check=True)
    return set(re.findall(r"^\s+(?:-\w, )?(--[\w-]+)=", own.stdout + general.stdout, re.MULTILINE))


def head() -> dict[str, Any]:
    """The head's container."""
    (found,) = pods(of_kind("gpu", "RayCluster")["prichexy"])["head"]["spec"]["containers"]
    assert isinstance(found, dict)
    return found


def kubectl_commands() -> list[list[str]]:
    return starting("kubectl")


def test_kubectl_knows_every_flag_and_the_manifests_every_object() -> None:
    objects = {(item["kind"].lower(), item["metadata"]["name"]) for item in overlay("gpu")}
    verbs = set()
    for line in kubectl_commands():
        ours = line[: line.index("--")] if "--" in line else line
        verb = "create secret generic" if ours[0] == "create" else ours[0]
        verbs.add(ours[0])
        given = {word.split("=")[0] for word in ours if word.startswith("--")}
        assert given <= flags_of(verb), ours
        if ours[0] == "apply":
            assert ours[1:] == ["--kustomize", f"infra/kuberay/overlays/{Path(ours[2]).name}"]
            assert Path(ours[2]).name in OVERLAYS
        else:
            assert ours[ours.index("--namespace") + 1] == "prichexy"
        if ours[0] in ("patch", "delete", "wait") or ours[:2] == ["get", "rayjob"]:
            assert (ours[1], ours[2]) in objects, ours
        if "--" in line:
            container = of_kind("gpu", "RayCluster")["prichexy"]["spec"]["headGroupSpec"]["template"]["spec"][
                "containers"
            ]
            assert ours[ours.index("--container") + 1] == container[0]["name"]
            assert check("README.md", line[line.index("--") + 1 :]) == "prichexy"
    assert verbs == {"apply", "create", "patch", "wait", "exec", "get", "logs", "delete"}


def test_the_standing_cluster_is_looked_at_with_the_workers_that_the_job_waits_for() -> None:
    """Its head has no cores: a check that waits for nothing would see no worker."""
    (look,) = [line for line in kubectl_commands() if "doctor" in line]
    (job,) = [job for name, job in of_kind("gpu", "RayJob").items() if name == "anonymize"]
    waits = [word for word in shlex.split(job["spec"]["entrypoint"]) if word.startswith("ray.wait_")]
    assert len(waits) == 2
    assert [word for word in look if word.startswith("ray.wait_")] == waits
    (job,) = [job for name, job in of_kind("cpu", "RayJob").items() if name == "anonymize"]
    (wait,) = [word for word in shlex.split(job["spec"]["entrypoint"]) if word.startswith("ray.wait_")]
    assert f"overlay `cpu`: `{wait}` alone" in README.read_text()


def test_the_patches_make_valid_objects_that_run(tmp_path: Path) -> None:
    patches = {(line[1], line[2], line[line.index("--patch") + 1]) for line in kubectl_commands() if line[0] == "patch"}
    assert len(patches) == 7
    for what, name, patch in patches:
        (item,) = [each for each in overlay("gpu") if (each["kind"].lower(), each["metadata"]["name"]) == (what, name)]
        (tmp_path / "one.yaml").write_text(yaml.safe_dump(item))
        command = [tool("kubectl"), "patch", "--local", "--filename", str(tmp_path / "one.yaml"), "--output", "yaml"]
        done = subprocess.run([*command, "--type", "merge", "--patch", patch], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        patched: dict[str, Any] = yaml.safe_load(done.stdout)
        assert patched["spec"].pop("suspend") is ("true" in patch)
        assert patched["spec"] == {key: value for key, value in item["spec"].items() if key != "suspend"}
        if item["apiVersion"] == "ray.io/v1":
            jsonschema.validate({**patched, "spec": {**patched["spec"], "suspend": False}}, schema_of(item["kind"]))


def test_the_secrets_that_are_made_are_those_that_are_mounted(tmp_path: Path) -> None:
    """Run as they stand, but for --dry-run, which asks no cluster."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    (tmp_path / "aws_credentials").write_text("[default]\n")
    made = {}
    for command in dict.fromkeys(commands()):
        if command.startswith("prichexy keygen"):
            subprocess.run(shlex.split(command), cwd=tmp_path, env=environment, check=True, capture_output=True)
        if command.startswith("kubectl create secret"):
            asked = [tool("kubectl"), *shlex.split(command)[1:], "--dry-run=client", "--output", "yaml"]
            done = subprocess.run(asked, cwd=tmp_path, capture_output=True, text=True, check=True)
            secret = yaml.safe_load(done.stdout)
            made[secret["metadata"]["name"]] = list(secret["data"])
    assert len((tmp_path / "prichexy.key").read_bytes()) == 32
    assert made == {"prichexy-key": ["prichexy.key"], "prichexy-s3": ["aws_credentials"]}
    variables = {each["name"]: each["value"] for each in head()["env"]}
    assert variables["AWS_SHARED_CREDENTIALS_FILE"] == "/run/secrets/aws_credentials"
    config = yaml.safe_load((ROOT / "jobs" / "configs" / "anonymize.yaml").read_text())
    assert config["secret_file"] == "/run/secrets/prichexy.key"


def test_the_lines_that_adapt_the_files_leave_none_out(tmp_path: Path) -> None:
    shutil.copytree(INFRA, tmp_path / "infra")
    shutil.copytree(ROOT / "jobs", tmp_path / "jobs")
    lines = [command for command in commands() if kind(command) in ("sed", "grep")]
    assert len(lines) == 3
    for line in lines:
        named = line.replace("MLFLOW", "mlflow.example.org").replace("REGISTRY", "registry.example.org/team")
        subprocess.run(["sh", "-c", named], cwd=tmp_path, check=True)
    for name in OVERLAYS:
        command = [tool("kubectl"), "kustomize", str(tmp_path / "infra" / "kuberay" / "overlays" / name)]
        built = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert "mlflow.internal" not in built
        assert built.count("http://mlflow.example.org:5000") > 10
        named_images = set(re.findall(r"^\s*(?:- )?image: (.*)$", built, re.MULTILINE))
        expected = {f"registry.example.org/team/prichexy{kind}:0.1.0" for kind in ("", "-cuda")}
        assert named_images == (expected if name != "cpu" else {min(expected, key=len)})
    for file in (tmp_path / "jobs" / "configs").glob("*.yaml"):
        assert "mlflow.internal" not in file.read_text()
    trial = load(AnonymizeConfig, tmp_path / "jobs" / "configs" / "anonymize.yaml")
    assert (trial.model, trial.allow_unaudited) == ("models:/prichexy-net/1", True)


def test_a_model_goes_from_job_to_job_by_its_alias() -> None:
    """Without a trial's values, nothing is published with a model that no audit has passed."""
    configured = {name: load(JOBS[name], ROOT / "jobs" / "configs" / f"{name}.yaml").model_dump() for name in MODELS}
    assert {name: settings["model"] for name, settings in configured.items()} == {
        "audit": f"models:/prichexy-net@{STAGING}",
        "promote": f"models:/prichexy-net@{STAGING}",
        "anonymize": f"models:/prichexy-net@{CHAMPION}",
    }
    assert configured["anonymize"]["allow_unaudited"] is False
    trials = [command for command in commands() if "exec ray-head" in command and "anonymize.yaml" in command]
    assert len(trials) == 2
    for command in trials:
        assert " model=models:/prichexy-net/1 allow_unaudited=true" in command


def test_the_training_table_is_made_where_training_looks_and_the_policies_allow_it() -> None:
    made = [line[line.index("--") + 1 :] for line in kubectl_commands() if "--" in line]
    (catalog,) = [line for line in made if line[1] == "catalog"]
    (prepare,) = [line for line in made if line[1] == "prepare"]
    assert prepare[2] == catalog[catalog.index("--out") + 1]
    table = prepare[prepare.index("--out") + 1]
    assert table == load(TrainConfig, ROOT / "jobs" / "configs" / "train-chestxray14.yaml").table
    assert {"ray.address=auto", "ray.wait_cpus=4"} <= set(prepare)  # the standing cluster's head has no cores
    read, written = [catalog[2], catalog[catalog.index("--labels") + 1]], [prepare[2], table]
    for place, policy, right in [(place, "source-reader", "Get") for place in read] + [
        (place, "table-writer", right) for place in written for right in ("Get", "Put", "Delete")
    ]:
        assert allows(policy, f"s3:{right}Object", f"arn:aws:s3:::{place.removeprefix('s3://')}/a"), place


def test_the_operator_is_put_where_the_network_policy_lets_it_in() -> None:
    (install,) = [line for line in starting("helm") if line[0] == "install"]
    namespace = install[install.index("--namespace") + 1]
    (policy,) = of_kind("gpu", "NetworkPolicy").values()
    assert {"kubernetes.io/metadata.name": namespace} in [
        each["namespaceSelector"]["matchLabels"]
        for rule in policy["spec"]["ingress"]
        for each in rule["from"]
        if "namespaceSelector" in each
    ]
    assert install[install.index("--version") + 1] in (Path(__file__).parent / "kuberay_schema.py").read_text()


def test_what_the_readme_asks_to_add_for_another_s3_is_a_setting_of_each_job() -> None:
    (added,) = re.findall(r"`(storage: \{.*?\})`", README.read_text().replace("\n   ", ""))
    value = yaml.safe_load(added)["storage"]
    named = [file for file in (ROOT / "jobs" / "configs").glob("*.yaml") if "s3://" in file.read_text()]
    assert len(named) >= 4
    for file in named:
        loaded = load(JOBS[file.stem.split("-")[0]], file, storage=value)
        assert loaded.model_dump()["storage"]["endpoint_url"] == "https://s3.example.org"


@pytest.mark.parametrize(
    ("slip", "test", "told"),
    [
        ("helmm install x", test_every_command_is_of_a_known_kind, "helmm"),
        ("prichexy docter", test_paths_exist_and_programs_take_their_words, "docter"),
        (
            "kubectl patch rayjob anonymise --namespace prichexy",
            test_kubectl_knows_every_flag_and_the_manifests_every_object,
            "anonymise",
        ),
        (
            "kubectl get rayjob anonymize --whatch",
            test_kubectl_knows_every_flag_and_the_manifests_every_object,
            "whatch",
        ),
    ],
)
def test_a_slip_in_the_readme_is_found(
    slip: str, test: Callable[[], None], told: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "README.md").write_text(f"    {slip}\n\n{README.read_text()}")
    monkeypatch.setitem(globals(), "README", tmp_path / "README.md")
    with pytest.raises(Exception, match=r".") as caught:  # two copies of click have no error in common
        test()
    assert told in str(caught.value)
