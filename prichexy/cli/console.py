"""What all commands share: their options, their exit codes, how results and errors look."""

import json
import logging
import os
import secrets
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table

from prichexy.errors import PrichexyError

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="YAML file with settings.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings, such as storage.region=eu-west-1.")
]
SecretFile = Annotated[Path | None, typer.Option(help="File with the project secret; or PRICHEXY_SECRET_FILE.")]
TrackingUri = Annotated[str | None, typer.Option(help="MLflow; or MLFLOW_TRACKING_URI; else sqlite:///mlflow.db.")]


LOG_VARIABLE = "PRICHEXY_LOG"
"""Environment variable; ``json`` makes each event one JSON object a line."""


class JsonLines(logging.Formatter):
    """Events for programs: time, run, level, module, stage, message, and the event's own facts (shard, counts)."""

    def __init__(self) -> None:
        """Name the run, so that its lines are found among those of others."""
        super().__init__()
        self._run = secrets.token_hex(4)

    def format(self, record: logging.LogRecord) -> str:
        """One line; without traceback, which could quote values and paths."""
        message = record.getMessage()
        stage, colon, _ = message.partition(": ")
        facts = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "run": self._run,
            "level": record.levelname.lower(),
            "module": record.name,
            "stage": stage if colon and " " not in stage else None,
            "message": message,
        }
        own = record.args if isinstance(record.args, Mapping) else {}
        return json.dumps({**{str(name): value for name, value in own.items()}, **facts}, default=str)


@contextmanager
def exit_codes() -> Iterator[None]:
    """Logging to stderr, and errors as one sentence with the exit code of their kind."""
    # Only our own events are shown: other libraries' may quote header values and paths.
    events = logging.StreamHandler(sys.stderr)
    for_people = logging.Formatter("%(asctime)s %(name)s: %(message)s", datefmt="%H:%M:%S")
    events.setFormatter(JsonLines() if os.environ.get(LOG_VARIABLE) == "json" else for_people)
    logging.getLogger("prichexy").handlers = [events]
    logging.getLogger("prichexy").setLevel(logging.INFO)
    logging.getLogger("prichexy").propagate = False
    logging.getLogger().handlers = [logging.NullHandler()]
    try:
        yield
    except PrichexyError as error:
        _stop(str(error), error.exit_code)
    except KeyboardInterrupt:
        _stop("interrupted; the same command goes on where it stopped", 130)
    except Exception as error:
        # Not a user's mistake but ours. The message may quote a path or a value, so only kind and place are told.
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        place = f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace else "?"
        _stop(f"internal error: {type(error).__name__} at {place}; please report it", 1)


def _stop(sentence: str, code: int) -> NoReturn:
    Console(stderr=True, soft_wrap=True, highlight=False).print(f"error: {sentence}", markup=False)
    sys.exit(code)


def show(facts: dict[str, Any], as_json: bool, title: str) -> None:
    """Print a result: for programs, or for people."""
    if as_json:
        print(json.dumps(facts, indent=2, default=str))
        return
    table = Table(title=title, show_header=False, title_justify="left", title_style="bold")
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        text = (
            ", ".join(f"{key} {count}" for key, count in value.items()) or "-"
            if isinstance(value, dict)
            else _text(value)
        )
        table.add_row(name.replace("_", " "), text)
    Console(soft_wrap=True).print(table)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int | float) else str(value)
