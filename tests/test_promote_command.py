"""`prichexy promote` at the prompt, and as a job."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from prichexy.cli import app
from prichexy.cli.console import exit_codes
from prichexy.registry import Registry, store_audit
from tests.registry.registered import registered
from tests.verdict.records import record


def run(*arguments: str) -> tuple[int, str]:
    try:
        with exit_codes():
            result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
            return result.exit_code, result.stdout
    except SystemExit as stop:
        return int(str(stop.code)), ""


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory, secret_file: Path) -> Registry:
    """Versions 1 and 2 passed their audits, 3 has none."""
    registry = Registry(f"sqlite:///{tmp_path_factory.mktemp('registry')}/mlflow.db")
    for number in range(3):
        model = registered(registry, "net", kind="identity")
        if number < 2:
            store_audit(registry, record(model.under_audit()), secret_file.read_bytes())
    return registry


def test_promote_and_roll_back(registry: Registry, secret_file: Path) -> None:
    shared = ["--secret-file", str(secret_file), "--tracking-uri", registry.uri, "--json"]
    code, text = run("promote", "models:/net/1", "--reason", "first", *shared)
    assert (code, json.loads(text)["outcome"], json.loads(text)["previous"]) == (0, "promoted", None)
    code, text = run("promote", "models:/net/2", "--reason", "better", *shared)
    assert (code, json.loads(text)["model"], json.loads(text)["previous"]) == (0, "models:/net/2", "1")
    code, text = run("promote", "models:/net", "--reason", "worse", "--rollback", *shared)
    assert (code, json.loads(text)["model"], json.loads(text)["outcome"]) == (0, "models:/net/1", "rolled back")
    code, text = run("models", "list", "--tracking-uri", registry.uri, "--json")
    listed = [(entry["model"], entry["aliases"], entry["audited"]) for entry in json.loads(text)]
    assert listed == [
        ("models:/net/3", "", False),
        ("models:/net/2", "previous", True),
        ("models:/net/1", "champion", True),
    ]


def test_a_multi_scale_field_is_promoted_or_refused_like_any_other(
    registry: Registry, secret_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shared = ["--reason", "x", "--secret-file", str(secret_file), "--tracking-uri", registry.uri, "--json"]
    given = {"backbone": "tiny", "image_size": 64, "kept": 2}
    for auc in (0.55, 0.65):
        model = registered(registry, "field", kind="multi-scale-field", **given)
        store_audit(registry, record(model.under_audit(), auc), secret_file.read_bytes())
    assert run("promote", "models:/field/2", *shared)[0] == 1
    assert "linear-metric, reaches a mean AUC of 0.6500" in capsys.readouterr().err
    code, text = run("promote", "models:/field/1", *shared)
    assert (code, json.loads(text)["outcome"]) == (0, "promoted")


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["models:/net/3", "--reason", "x"], 1, "models:/net/3 has no audit: run `prichexy audit models:/net/3`"),
        (["models:/net/9", "--reason", "x"], 2, "there is no models:/net/9 in the registry"),
        (["models:/net/1"], 2, "setting reason is missing"),
        (["models:/net/1", "--reason", " "], 2, "reason must say why"),
        (["--reason", "x"], 2, "setting model is missing"),
        (["models:/net/1", "--reason", "x", "force=true"], 2, "unknown setting force"),
        (["models:/net/1", "--reason", "x", "--secret-file", "absent.key"], 2, "absent.key can't be read"),
    ],
)
def test_a_refusal_or_mistake_is_one_sentence_with_its_exit_code(
    registry: Registry,
    secret_file: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    sentence: str,
) -> None:
    shared = ["--tracking-uri", registry.uri]
    if "--secret-file" not in arguments:
        shared += ["--secret-file", str(secret_file)]
    assert run("promote", *arguments, *shared)[0] == code
    told = [line for line in capsys.readouterr().err.splitlines() if line]
    assert len(told) == 1
    assert sentence in told[0]


def test_without_a_secret_nothing_can_be_proven(registry: Registry, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("promote", "models:/net/1", "--reason", "x", "--tracking-uri", registry.uri)[0] == 2
    assert "no project secret" in capsys.readouterr().err


def test_the_job_promotes_as_its_configuration_says(registry: Registry, secret_file: Path, tmp_path: Path) -> None:
    (tmp_path / "promote.yaml").write_text(
        f"model: models:/net/1\nsecret_file: {secret_file}\ntracking_uri: {registry.uri}\n"
    )
    job = Path(__file__).parents[1] / "jobs" / "promote.py"
    command = [sys.executable, str(job), "--config", str(tmp_path / "promote.yaml"), "reason=from a pipeline", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["reason"] == "from a pipeline"
