"""`prichexy promote`: which version is the champion."""

from dataclasses import asdict
from typing import Annotated

import typer

from prichexy import config as settings
from prichexy.cli.console import AsJson, ConfigFile, Overrides, SecretFile, TrackingUri, show


def promote(
    model: Annotated[str | None, typer.Argument(help="models:/NAME/VERSION; models:/NAME with --rollback.")] = None,
    overrides: Overrides = None,
    reason: Annotated[str | None, typer.Option(help="Why; it is kept with the event.")] = None,
    rollback: Annotated[bool, typer.Option("--rollback", help="Go back to the champion before.")] = False,
    secret_file: SecretFile = None,
    tracking_uri: TrackingUri = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Make an audited version the champion, or go back to the one before; every decision is kept in MLflow.

    It refuses, with exit code 1, a version without a passing and untouched audit of exactly its weights, operator and
    precision.

    Example: `prichexy promote models:/prichexy-net/3 --reason "audit of May" --secret-file project.key`
    """
    loaded = settings.load(
        settings.PromoteConfig,
        config,
        overrides or (),
        model=model,
        reason=reason,
        rollback=rollback or None,
        secret_file=secret_file,
        tracking_uri=tracking_uri,
    )
    run_promote(loaded, as_json)


def run_promote(config: settings.PromoteConfig, as_json: bool) -> None:
    """Promote or roll back, and print what came of it."""
    from prichexy.deid import read_secret_file
    from prichexy.registry import Registry, roll_back
    from prichexy.registry import promote as run

    secret, registry = read_secret_file(settings.secret_file(config.secret_file)), Registry(config.tracking_uri)
    done = (roll_back if config.rollback else run)(registry, config.model, secret, config.reason)
    show(asdict(done), as_json, done.outcome.capitalize())
