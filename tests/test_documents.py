"""README and job configurations say what the code does."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from prichexy.cli import app
from prichexy.config import (
    AnonymizeConfig,
    AuditConfig,
    CompareConfig,
    PrepareConfig,
    PromoteConfig,
    PublishConfig,
    Settings,
    TrainConfig,
    load,
)
from tests.infra.test_entrypoints import check, words
from tests.infra.test_readme import commands, kind

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"


def settings(kind: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    """Dotted name, default and description of every setting."""
    for name, field in kind.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from settings(inner, f"{prefix}{name}.")
        else:
            # A default from the environment is none here, and described in words.
            default = None if field.default_factory is not None else field.get_default()
            yield f"{prefix}{name}", default, field.description or ""


def row(name: str, default: Any, description: str) -> str:
    """A setting's line in the README."""
    if default is PydanticUndefined:
        shown = "required"
    elif default is None or default == ():
        shown = ""
    else:
        shown = f"`{str(default).lower() if isinstance(default, bool) else default}`"
    return f"| `{name}` | {shown} | {description} |"


@pytest.mark.parametrize(
    "config", [AnonymizeConfig, PrepareConfig, TrainConfig, AuditConfig, PromoteConfig, PublishConfig]
)
def test_readme_lists_every_setting(config: type[BaseModel]) -> None:
    lines = README.read_text().splitlines()
    missing = [text for text in (row(*setting) for setting in settings(config)) if text not in lines]
    assert missing == []


@pytest.mark.parametrize("file", sorted((ROOT / "jobs" / "configs").glob("*.yaml")), ids=lambda file: file.name)
def test_every_job_configuration_is_valid(file: Path) -> None:
    kinds: dict[str, type[Settings]] = {
        "anonymize": AnonymizeConfig,
        "audit": AuditConfig,
        "compare": CompareConfig,
        "promote": PromoteConfig,
        "publish": PublishConfig,
        "train": TrainConfig,
    }
    assert load(kinds[file.stem.split("-")[0]], file)


def commands_of(command: Any, name: str = "prichexy") -> Iterator[tuple[str, set[str]]]:
    """Every command that help shows, by its whole name, with its options."""
    for word, inner in getattr(command, "commands", {}).items():
        if not inner.hidden:
            yield from commands_of(inner, f"{name} {word}")
    if not hasattr(command, "commands") or command.invoke_without_command:
        yield name, {option for parameter in command.params for option in parameter.opts}


COMMANDS = dict(commands_of(typer.main.get_command(app)))


def test_readme_names_every_command() -> None:
    text = README.read_text()
    assert len(COMMANDS) > 20
    missing = [name for name in COMMANDS if name not in text and name.replace("prichexy", "make") not in text]
    assert missing == []


def test_every_command_of_the_readme_is_understood() -> None:
    """As those of infra/README.md: parsed by the programs themselves, with the files and settings that they name."""
    found = commands(README)
    kinds = [kind(command) for command in found]
    assert set(kinds) == {"make", ".", "prichexy", "export", "ray", "python"}
    assert kinds.count("prichexy") > 30
    for command in found:
        if kind(command) in ("prichexy", "ray", "python"):
            check("README.md", words(command))


def test_commands_within_a_sentence_exist_with_their_options() -> None:
    spans = re.findall(r"`(prichexy [^`\n]+)`", README.read_text())
    assert len(spans) > 30
    for span in spans:
        if span == "prichexy COMMAND --help":
            continue
        known = max((name for name in COMMANDS if f"{span} ".startswith(f"{name} ")), key=len, default=None)
        assert known is not None, span
        assert set(re.findall(r"--[\w-]+", span)) <= COMMANDS[known], span


def test_make_targets_that_the_readme_names_exist() -> None:
    makefile, text = (ROOT / "Makefile").read_text(), README.read_text()
    named = set(re.findall(r"(?:^ {4}|`)make ([a-z-]+)", text, re.MULTILINE))
    assert {"demo", "test", "test-long"} <= named
    assert [target for target in named if f"\n{target}:" not in makefile] == []


@pytest.mark.parametrize(
    ("slip", "test"),
    [
        ("    prichexy verifye published/", test_every_command_of_the_readme_is_understood),
        ("    prichexy anonymize a/ b/ rows_a_shard=7", test_every_command_of_the_readme_is_understood),
        ("    prichexy train all --config jobs/configs/train.yaml", test_every_command_of_the_readme_is_understood),
        ("See `prichexy lineages out/`.", test_commands_within_a_sentence_exist_with_their_options),
        ("See `prichexy status out/ --watch`.", test_commands_within_a_sentence_exist_with_their_options),
        ("See `make tests`.", test_make_targets_that_the_readme_names_exist),
    ],
)
def test_a_slip_in_the_readme_is_found(
    slip: str, test: Callable[[], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    test()
    (tmp_path / "README.md").write_text(f"{slip}\n\n{README.read_text()}")
    monkeypatch.setitem(globals(), "README", tmp_path / "README.md")
    with pytest.raises(Exception, match=r"."):  # two copies of click have no error in common
        test()


def test_a_job_configuration_names_no_secret() -> None:
    for file in (ROOT / "jobs" / "configs").glob("*.yaml"):
        assert not {"secret", "password", "key", "token"} & set(yaml.safe_load(file.read_text()))
