"""README and job configurations say what the code does."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

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

ROOT = Path(__file__).resolve().parents[1]


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
    "kind", [AnonymizeConfig, PrepareConfig, TrainConfig, AuditConfig, PromoteConfig, PublishConfig]
)
def test_readme_lists_every_setting(kind: type[BaseModel]) -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    missing = [text for text in (row(*setting) for setting in settings(kind)) if text not in lines]
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


def test_readme_names_every_command() -> None:
    text = (ROOT / "README.md").read_text()
    for command in (
        "keygen",
        "models import",
        "anonymize",
        "verify",
        "quarantine",
        "catalog",
        "prepare",
        "train",
        "audit",
        "audit compare",
        "promote",
        "demo",
    ):
        assert f"prichexy {command}" in text or f"make {command}" in text, command


def test_make_targets_that_the_readme_names_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in ("demo", "test", "lint", "bench"):
        assert f"\n{target}:" in makefile


def test_a_job_configuration_names_no_secret() -> None:
    for file in (ROOT / "jobs" / "configs").glob("*.yaml"):
        assert not {"secret", "password", "key", "token"} & set(yaml.safe_load(file.read_text()))
