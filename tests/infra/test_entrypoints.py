"""Every command line in a manifest names a program, flags, files and settings that exist; no file holds a secret."""

import importlib.util
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from pydantic import BaseModel
from ray.scripts.scripts import cli as ray_cli

from prichexy.cli import app
from prichexy.config import (
    AnonymizeConfig,
    AuditConfig,
    CatalogConfig,
    CompareConfig,
    PrepareConfig,
    PromoteConfig,
    PublishConfig,
    Settings,
    TrainConfig,
    load,
)
from tests.infra.built import INFRA, OVERLAYS, ROOT, compose, of_kind, tool

JOBS: dict[str, type[Settings]] = {
    "anonymize": AnonymizeConfig,
    "audit": AuditConfig,
    "promote": PromoteConfig,
    "publish": PublishConfig,
    "train": TrainConfig,
}
SETTINGS: dict[str, type[Settings]] = {
    **JOBS,
    "audit compare": CompareConfig,
    "catalog": CatalogConfig,
    "doctor": AnonymizeConfig,
    "prepare": PrepareConfig,
}
"""Of commands that take a configuration."""

SCRIPTS = ("prepare.py", "healthy.py", "fetch_secret.py")
"""In the images' working folder, /app."""


def command_lines() -> Iterator[tuple[str, list[str]]]:
    """Where it stands, and its words."""
    for name in OVERLAYS:
        for job in of_kind(name, "RayJob").values():
            yield f"{name}/{job['metadata']['name']}", shlex.split(job["spec"]["entrypoint"])
        for job in of_kind(name, "Job").values():
            yield f"{name}/{job['metadata']['name']}", job["spec"]["template"]["spec"]["containers"][0]["command"]
    for name, service in compose()["services"].items():
        if "command" in service:
            yield f"compose/{name}", [*service.get("entrypoint", ()), *service["command"]]
    for step in re.findall(r"^HEALTHCHECK.*?CMD (\[.*?\])$", dockerfile(), re.MULTILINE):
        yield "Dockerfile", yaml.safe_load(step)
    launcher = yaml.safe_load((INFRA / "aws" / "cluster.yaml").read_text())
    for group in ("setup_commands", "head_start_ray_commands", "worker_start_ray_commands"):
        for line in launcher[group]:
            yield f"cluster.yaml/{group}", words(line.split(";")[-1])
    sky = yaml.safe_load((INFRA / "aws" / "sky.yaml").read_text())
    for line in in_the_container(sky["run"])[1]:
        yield "sky.yaml", words(line)
    for file in (INFRA / "README.md", INFRA / "compose.yaml"):
        text = re.sub(r"\\\n#?\s*", "", file.read_text())
        for line in re.findall(r"exec ray-head\s+(.*)", text):
            yield file.name, words(line)


def in_the_container(script: str) -> tuple[list[str], list[str]]:
    """The words of a script's one `docker run`, and the lines of the shell script that it runs in the container."""
    (line,) = [line for line in re.sub(r"\\\n\s*", "", script).split("\n", 1) if line.startswith("docker run")]
    *docker, inner = shlex.split(line)
    assert docker[-3:] == ["sh", "-e", "-c"]
    return docker, [command.strip() for command in inner.strip().splitlines()]


def dockerfile() -> str:
    return (INFRA / "docker" / "Dockerfile").read_text().replace("\\\n", "")


def words(line: str) -> list[str]:
    """A shell's words, without the variables that are set before the program."""
    found = shlex.split(line)
    while re.match(r"[A-Z_]+=", found[0]):
        del found[0]
    return found


def test_every_command_line_is_understood() -> None:
    kinds = [check(*each) for each in command_lines()]
    assert set(kinds) == {"job", "script", "prichexy", "ray", "mlflow", "weed"}
    assert kinds.count("job") >= 5 * len(OVERLAYS)


def check(where: str, line: list[str]) -> str:
    """What kind of command it is, having parsed it; nothing is run but `weed -h`."""
    program, *rest = line
    if program == "python" and Path(rest[0]).name in SCRIPTS:
        check_script(where, rest)
        return "script"
    if program == "python":
        check_job(where, rest)
        return "job"
    if program == "weed":
        check_weed(rest)
        return "weed"
    if program == "mlflow":
        from mlflow.cli import cli

        parse(cli, rest)
        return "mlflow"
    if program == "ray":
        parse(ray_cli, rest)
        if rest[:2] == ["job", "submit"] and "--" in rest:
            folder = rest[rest.index("--working-dir") + 1] if "--working-dir" in rest else ""
            inner = rest[rest.index("--") + 1 :]
            check(where, [f"{folder}/{word}" if (ROOT / folder / word).is_file() else word for word in inner])
        return "ray"
    assert program == "prichexy", f"{where}: {program} is not known here"
    parse(typer.main.get_command(app), rest)
    kind = SETTINGS.get(" ".join(rest[:2])) or SETTINGS.get(rest[0])
    if "--config" in rest:
        assert kind is not None, where
        check_config(where, kind, rest)
    elif kind is not None:
        check_settings(where, kind, rest)
    return "prichexy"


def check_settings(where: str, kind: type[BaseModel], line: list[str]) -> None:
    """Words of the form key=value name settings of the command; which others it needs, a README may leave out."""
    for key in (word.split("=")[0] for word in line if re.match(r"[a-z_.]+=", word)):
        inner: Any = kind
        for name in key.split("."):
            assert name in inner.model_fields, f"{where}: {key} is no setting of {kind.__name__}"
            inner = inner.model_fields[name].annotation


def check_script(where: str, line: list[str]) -> None:
    name = Path(line[0]).name
    assert line[0] in (name, f"/app/{name}"), where
    assert (INFRA / "docker" / name).exists()
    assert re.search(rf"COPY .*infra/docker/{re.escape(name)}.* \./", dockerfile()), f"{name} is not in the images"
    if name == "prepare.py":
        assert f'case ["{line[1]}"' in (INFRA / "docker" / name).read_text(), where


def check_job(where: str, line: list[str]) -> None:
    """The job's file exists and takes these options, and its configuration these settings."""
    script = ROOT / line[0].removeprefix("/app/")
    assert script.parent == ROOT / "jobs", where
    assert script.exists(), f"{where}: there is no {script.name}"
    spec = importlib.util.spec_from_file_location(f"job_{script.stem}", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    single = typer.Typer()
    single.command()(module.main)
    parse(typer.main.get_command(single), line[1:])
    check_config(where, CompareConfig if "--compare" in line else JOBS[script.stem], line)


def check_config(where: str, kind: type[Settings], line: list[str]) -> None:
    file = line[line.index("--config") + 1].removeprefix("/app/")
    assert file.startswith("jobs/configs/"), where
    assert load(kind, ROOT / file, [word for word in line if re.match(r"[\w.]+=", word)])


def parse(command: Any, line: list[str]) -> None:
    """Let click (or typer's own copy of it) read the words, down to the last subcommand; unknown ones raise."""
    context = command.make_context(command.name or "", list(line))
    while hasattr(context.command, "resolve_command"):
        name, command, rest = context.command.resolve_command(context, [*context._protected_args, *context.args])
        context = command.make_context(name, rest, parent=context)


def check_weed(line: list[str]) -> None:
    help_text = subprocess.run([tool("weed"), line[0], "-h"], capture_output=True, text=True)
    known = set(re.findall(r"^\s+-([\w.]+)", help_text.stdout + help_text.stderr, re.MULTILINE))
    assert {re.split("=", flag)[0].removeprefix("-") for flag in line[1:]} <= known


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("python /app/jobs/anonymise.py --config /app/jobs/configs/anonymize.yaml", "there is no anonymise.py"),
        ("python /app/jobs/anonymize.py --configuration /app/jobs/configs/anonymize.yaml", "--configuration"),
        ("python /app/jobs/anonymize.py --config /app/jobs/configs/anonymise.yaml", "anonymise.yaml can't be read"),
        ("python /app/jobs/anonymize.py --config /app/jobs/configs/anonymize.yaml ray.wait_gpu=1", "ray.wait_gpu"),
        ("prichexy doctors", "doctors"),
        ("prichexy prepare catalog/ --out table/ split.seed=42", "split.seed is no setting of PrepareConfig"),
        ("ray job submit --working-dir jobs -- python anonymise.py --config configs/anonymize.yaml", "anonymise.py"),
        ("prichexy doctor --all", "--all"),
        ("ray start --heads", "--heads"),
        ("weed server -s3.portt=1", "s3.portt"),
        ("python prepare.py secret /made", "here"),
    ],
)
def test_a_slip_in_a_command_line_is_found(line: str, told: str) -> None:
    with pytest.raises(Exception, match=r".") as caught:  # two copies of click have no error in common
        check("here", shlex.split(line))
    assert told in str(caught.value)


def test_every_path_of_a_configuration_in_a_document_exists() -> None:
    for file in (*INFRA.rglob("*.md"), *INFRA.rglob("*.yaml")):
        for place in re.findall(r"(?:jobs|infra)/[\w./-]+\w", file.read_text()):
            assert (ROOT / place).exists(), f"{file.relative_to(ROOT)} names {place}"
