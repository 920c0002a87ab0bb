"""No file that this repository gives away holds a secret; one that somebody puts there is found, whatever its form."""

import base64
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from prichexy.deid.burned_in.networks import _SHA256
from tests.infra.built import INFRA, OVERLAYS, ROOT, compose, overlay

PATTERNS = {
    "an AWS key id": r"\b(AKIA|ASIA)[0-9A-Z]{16}\b",
    "a private key": r"BEGIN [A-Z ]*PRIVATE KEY",
    # But for a path, the call of a function, and the name of a variable of the environment.
    "a value of a secret": r"(?i:secret|password|token|access_?key)[\w-]*['\"]?[ ]*[:=][ ]*['\"]?"
    r"(?!/|\w+\(|[A-Z]+(?:_[A-Z]+)+\b)[\w+/-]{16,}",
    "a password in an address": r"\w+://[^/\s:@{]+:[^/\s@{]+@",
    "random digits": r"\b(?!(?:0123456789abcdef)+\b)(?=[0-9a-f]*[a-f])(?=[0-9a-f]*\d)[0-9a-f]{32,}\b",
    # But for a path, which begins with / or with two words.
    "random bytes in base64": r"(?<![\w+/-])(?!/|(?:[A-Za-z_]+/){2})"
    r"(?=[\w+/]*[A-Z])(?=[\w+/]*[a-z])(?=[\w+/]*\d)[\w+/]{42,}(?![\w+/-])",
    "a Secret": r"(?m)^kind: Secret$",
    "a generated Secret": r"(?m)^secretGenerator:",
    "a variable that should name a file": r"name: \w*(SECRET|PASSWORD|TOKEN|KEY)(?!\w*(FILE|PATH))\w*[,\s]\s*value:",
}

PLACES = ("infra", "jobs", "prichexy", ".ci", ".readme", "README.md", "Makefile")
"""What is looked at; tests have made-up secrets of their own."""


def found_in(text: str) -> list[str]:
    for public in _SHA256.values():  # of networks that others publish
        text = text.replace(public, "")
    return [what for what, pattern in PATTERNS.items() if re.search(pattern, text)]


def secrets_in(root: Path) -> dict[str, list[str]]:
    """What each file of `PLACES` seems to hold, by path; files without anything are left out."""
    there = [root / place for place in PLACES if (root / place).exists()]
    paths = [path for place in there for path in ([place] if place.is_file() else sorted(place.rglob("*")))]
    found = {}
    for path in paths:
        if path.is_file() and path.suffix != ".pyc":
            what = found_in(path.read_text(errors="replace"))
            what += ["a file of secrets"] * (path.suffix in (".key", ".pem", ".env", ".crt", ".p12"))
            found[str(path.relative_to(root))] = what
    assert len(found) > 30
    return {name: what for name, what in found.items() if what}


def test_no_file_holds_a_secret() -> None:
    assert [place for place in PLACES if not (ROOT / place).exists()] == []
    assert secrets_in(ROOT) == {}


KEY = bytes(range(7, 39))
PLANTED = {
    "an AWS key": ("infra/kuberay/base/cluster.yaml", "# AKIAIOSFODNN7EXAMPLE"),
    "an AWS secret": ("jobs/configs/anonymize.yaml", "aws_secret_access_key: wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY"),
    "a variable's value": (
        "infra/kuberay/components/gpu/workers.yaml",
        '              - {name: MLFLOW_TRACKING_PASSWORD, value: "hunter2"}',
    ),
    "a variable's value in two lines": (
        "infra/kuberay/base/promote.yaml",
        "            - name: AWS_SECRET_ACCESS_KEY\n              value: wJalrXUtnFEMIK7MDENG",
    ),
    "a password of compose": ("infra/compose.yaml", "      POSTGRES_PASSWORD: hunter2hunter2hunter2"),
    "an address": ("infra/compose.yaml", "      - --backend-store-uri=postgresql://mlflow:hunter2@postgres/mlflow"),
    "the project's secret in hexadecimal": ("jobs/configs/publish.yaml", f"key: {KEY.hex()}"),
    "a Secret": (
        "infra/kuberay/base/service-account.yaml",
        f"---\napiVersion: v1\nkind: Secret\ndata: {{prichexy.key: {base64.b64encode(KEY).decode()}}}",
    ),
    "a short Secret": (
        "infra/kuberay/base/namespace.yaml",
        "---\napiVersion: v1\nkind: Secret\nstringData: {password: hunter2}",
    ),
    "a generated Secret": (
        "infra/kuberay/overlays/gpu/kustomization.yaml",
        "secretGenerator:\n  - {name: prichexy-s3, literals: [password=hunter2]}",
    ),
    "a private key": ("infra/aws/cluster.yaml", "# -----BEGIN RSA PRIVATE KEY-----"),
    "a token in the README": ("README.md", "    export MLFLOW_TRACKING_TOKEN=correct-horse-battery-staple"),
    "a password in the Makefile": ("Makefile", "MLFLOW := https://mlflow:hunter2@mlflow.example.org"),
    "a key in the checks": (".ci/run", "export AWS_ACCESS_KEY_ID=AKIAIOSFODNN7EXAMPLE"),
    "the project's secret in code": ("prichexy/demo.py", f'KEY = bytes.fromhex("{KEY.hex()}")'),
    "a password in code": ("prichexy/registry/models.py", 'PASSWORD = "correcthorsebatterystaple"'),
    "a token in a script": ("infra/docker/install.sh", "export HF_TOKEN=hf_AbCdEfGhIjKlMnOpQrSt"),
}
"""What somebody could leave in a file: the file, and the lines."""


@pytest.mark.parametrize("what", PLANTED)
def test_a_secret_planted_in_a_file_is_found_there(what: str, tmp_path: Path) -> None:
    for place in PLACES:
        if (ROOT / place).is_dir():
            shutil.copytree(ROOT / place, tmp_path / place, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / place, tmp_path / place)
    name, lines = PLANTED[what]
    with (tmp_path / name).open("a") as file:
        file.write(f"\n{lines}\n")
    assert list(secrets_in(tmp_path)) == [name]


def test_a_file_of_secrets_is_found(tmp_path: Path) -> None:
    shutil.copytree(INFRA, tmp_path / "infra")
    (tmp_path / "infra" / "kuberay" / "prichexy.key").write_bytes(KEY)
    assert secrets_in(tmp_path) == {"infra/kuberay/prichexy.key": ["a file of secrets"]}


def test_environments_name_secret_files_and_hold_none() -> None:
    telling = re.compile(r"SECRET|PASSWORD|TOKEN|CREDENTIAL|KEY", re.IGNORECASE)
    for name, value in environments():
        if telling.search(name):
            assert re.search(r"(FILE|PATH)$", name), name
            assert value.startswith("/run/secrets/"), name


def environments() -> Iterator[tuple[str, str]]:
    for service in compose()["services"].values():
        yield from service.get("environment", {}).items()
    for name in OVERLAYS:
        yield from variables(overlay(name))
    yield from yaml.safe_load((INFRA / "aws" / "sky.yaml").read_text())["envs"].items()


def variables(part: Any) -> Iterator[tuple[str, str]]:
    if isinstance(part, dict):
        for key, value in part.items():
            if key == "env":
                yield from ((each["name"], each["value"]) for each in value)
            else:
                yield from variables(value)
    elif isinstance(part, list | tuple):
        for each in part:
            yield from variables(each)
