"""Events as JSON, for programs that read the log."""

import json
import logging

import pytest

from prichexy.cli.console import JsonLines, exit_codes


def test_an_event_is_one_json_object_with_run_stage_and_shard(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PRICHEXY_LOG", "json")
    with exit_codes():
        log = logging.getLogger("prichexy.anonymize")
        log.info("commit: shard %(shard)d, %(published)d published", {"shard": 7, "published": 16})
        log.info("the lease could not be removed: later")
    first, second = map(json.loads, capsys.readouterr().err.splitlines())
    assert (first["stage"], first["shard"], first["published"]) == ("commit", 7, 16)
    assert first["message"] == "commit: shard 7, 16 published"
    assert (second["stage"], second["level"], second["module"]) == (None, "info", "prichexy.anonymize")
    assert first["run"] == second["run"]
    assert JsonLines()._run != first["run"]
