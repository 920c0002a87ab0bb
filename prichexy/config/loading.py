"""Reading settings: a YAML file, overridden as ``key=value``; every mistake is one sentence that names the setting."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from prichexy.config.shared import Settings
from prichexy.errors import UsageError

ConfigT = TypeVar("ConfigT", bound=Settings)


def load(kind: type[ConfigT], file: Path | None = None, overrides: Sequence[str] = (), **given: Any) -> ConfigT:
    """A validated configuration.

    Args:
        kind: which configuration.
        file: YAML file with its settings, or None.
        overrides: ``key=value`` strings, dotted for nested settings (``storage.region=eu-central-1``); values are YAML.
        **given: values from the command line, which win over file and overrides; None means not given.

    Raises:
        UsageError: one sentence that names the setting and what is wrong with it.
    """
    values = parse_overrides(overrides, _read_yaml(file) if file else {})
    values.update({key: value for key, value in given.items() if value is not None})
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise UsageError(_sentence(kind, error)) from None


def parse_overrides(overrides: Sequence[str], values: dict[str, Any] | None = None) -> dict[str, Any]:
    """``key=value`` strings as nested settings, over those given."""
    values = {} if values is None else values
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator or not key:
            raise UsageError(f"'{override}' is not a setting: write key=value, such as storage.region=eu-central-1")
        try:
            _set(values, key.split("."), yaml.safe_load(text))
        except yaml.YAMLError:
            raise UsageError(f"the value of setting {key} can't be read as YAML") from None
    return values


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(file.read_text())
    except OSError as error:
        raise UsageError(f"the configuration {file} can't be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise UsageError(f"the configuration {file} is not valid YAML") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UsageError(f"the configuration {file} must hold settings as 'key: value'")
    return values


def _set(values: dict[str, Any], path: list[str], value: Any) -> None:
    for key in path[:-1]:
        nested = values.setdefault(key, {})
        if not isinstance(nested, dict):
            raise UsageError(f"setting {'.'.join(path)}: {key} is not a group of settings")
        values = nested
    values[path[-1]] = value


def _sentence(kind: type[Settings], error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        known = ", ".join(sorted(kind.model_fields))
        return f"unknown setting {where}{more}; the settings are: {known}"
    if first["type"] == "missing":
        return f"setting {where} is missing{more}: {kind.model_fields[where].description}"
    reason = first["msg"].removeprefix("Value error, ")
    return f"setting {where}: {reason}{more}" if where else f"{reason}{more}"
