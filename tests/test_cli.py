"""What a person meets at the prompt: help, mistakes, results."""

import json
import re
from pathlib import Path

import pytest
import torch
import typer.main
from typer.testing import CliRunner

from prichexy.cli import app
from prichexy.cli.console import exit_codes
from prichexy.networks.flow_generator import FlowFieldGenerator


def run(*arguments: str) -> tuple[int, str]:
    """Exit code and stdout of the command, errors handled as the entry point does."""
    runner = CliRunner()

    try:
        with exit_codes():
            result = runner.invoke(app, list(arguments), catch_exceptions=False)
            return result.exit_code, result.stdout
    except SystemExit as stop:
        return int(str(stop.code)), ""


def commands() -> list[list[str]]:
    group = typer.main.get_command(app)
    found = []
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        found += [[name, inner] for inner in command.commands] if hasattr(command, "commands") else [[name]]
    return found


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_every_command_has_help_with_an_example(command: list[str]) -> None:
    code, text = run(*command, "--help")
    assert code == 0
    assert "Example:" in text
    assert f"prichexy {' '.join(command)}" in re.sub(r"\s+", " ", text)


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["anonymize", "a", "b"], 2, "no project secret: name its file with --secret-file or PRICHEXY_SECRET_FILE"),
        (["anonymize", "a"], 2, "setting destination is missing"),
        (["anonymize", "a", "b", "chnk=1"], 2, "unknown setting chnk"),
        (["anonymize", "a", "b", "--resolution", "512"], 2, "setting resolution: Input should be 'native' or '256'"),
        (["anonymize", "a", "b", "--encoding", "webp"], 2, "setting encoding: Input should be 'png' or 'jpeg-xl'"),
        (["anonymize", "a", "b", "--config", "absent.yaml"], 2, "the configuration absent.yaml can't be read"),
        (["verify", "absent"], 1, "nothing found at absent"),
        (["catalog", "absent", "--out", "c"], 1, "nothing found at absent"),
        (["models", "import", "absent.pth"], 2, "the checkpoint file can't be opened"),
        (["models", "create", "blur"], 2, "kind"),
        (["models", "create", "identity", "mu=0.1"], 2, "mu: not a setting of kind 'identity'"),
        (["phantom", "p", "--format", "tiff"], 2, "--format tiff is unknown: use png, dicom, mixed"),
    ],
)
def test_a_mistake_is_one_sentence_with_its_exit_code(
    arguments: list[str],
    code: int,
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*arguments)[0] == code
    told = [line for line in capsys.readouterr().err.splitlines() if line]
    assert len(told) == 1
    assert told[0].startswith("error: ")
    assert sentence in told[0]


def test_an_internal_error_shows_neither_message_nor_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop, exit_codes():
        raise ValueError("PatientName Roe^Jane")
    told = capsys.readouterr().err
    assert stop.value.code == 1
    assert "internal error: ValueError at test_cli.py" in told
    assert "Jane" not in told


def test_keygen_then_import_and_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("keygen", "project.key")[0] == 0
    assert len(Path("project.key").read_bytes()) == 32
    torch.save({"state_dict": FlowFieldGenerator(features=4).state_dict()}, "generator.pth")
    code, text = run("models", "import", "generator.pth", "--mu", "0.005", "--json")
    assert code == 0
    made = json.loads(text)
    assert (made["model"], made["operator"], made["features"], made["mu"]) == (
        "models:/prichexy-net/1",
        "reference",
        4,
        0.005,
    )
    listed = json.loads(run("models", "list", "--json")[1])
    assert [(entry["model"], entry["audited"]) for entry in listed] == [("models:/prichexy-net/1", False)]


def test_catalog_tells_what_it_found(tmp_path: Path) -> None:
    (tmp_path / "lake").mkdir()
    for name in ("a.png", "b.png", "c.dcm", "d"):
        (tmp_path / "lake" / name).write_bytes(b"x")
    code, text = run("catalog", str(tmp_path / "lake"), "--out", str(tmp_path / "c"), "--json")
    assert code == 0
    facts = json.loads(text)
    assert (facts["files"], facts["bytes"], facts["formats_by_name"]) == (4, 4, {"png": 2, "dicom": 1, "other": 1})
