"""What was published with a model is found from the registry and from the destination."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from prichexy.cli import app
from prichexy.errors import PrichexyError
from prichexy.lake.lineage import lineage
from prichexy.lake.storage import Store
from prichexy.obfuscation import create_untrained
from prichexy.registry import Publication, Registry, note_publication, publications
from prichexy.registry.lineage import PUBLISHED_TAG
from tests.lake.test_commit import job, publish
from tests.registry.registered import registered


def told(registry: Registry, uri: str) -> list[tuple[str, str]]:
    return [(each.destination, each.snapshots) for each in publications(registry, registry.find(uri))]


def test_each_destination_is_noted_once_with_all_snapshots(registry: Registry) -> None:
    model = registered(registry, "lineage", kind="identity")
    note_publication(registry, model, "s3://public/b", [1])
    note_publication(registry, model, "s3://public/a", [2])
    note_publication(registry, model, "s3://public/b", [5, 1, 2, 3, 7, 8])
    assert told(registry, "models:/lineage/1") == [("s3://public/a", "2"), ("s3://public/b", "1-3, 5, 7-8")]
    other = registered(registry, "lineage", kind="identity", seed=4)
    assert told(registry, f"models:/lineage/{other.version}") == []


def test_nothing_is_noted_without_a_snapshot_or_a_registered_model(registry: Registry, tmp_path: Path) -> None:
    model = registered(registry, "unused", kind="identity")
    note_publication(registry, model, "s3://public/a", [])
    create_untrained("identity", tmp_path / "model", 0, {})
    local = registry.fetch(str(tmp_path / "model"), tmp_path)
    note_publication(registry, local, "s3://public/a", [1])
    assert told(registry, "models:/unused/1") == []


def test_a_tag_of_another_form_is_passed_over(registry: Registry) -> None:
    model = registered(registry, "foreign", kind="identity")
    with registry.asked() as client:
        for number, value in enumerate(("no JSON", "[]", "{}")):
            client.set_model_version_tag("foreign", "1", f"{PUBLISHED_TAG}{number}", value)
    note_publication(registry, model, "out", [1])
    assert told(registry, "models:/foreign/1") == [("out", "1")]


def test_the_command_shows_both_sides(registry: Registry, tmp_path: Path) -> None:
    model = registered(registry, "shown", kind="identity")
    note_publication(registry, model, "s3://public/set", [1])
    asked = ["lineage", "models:/shown/1", "--tracking-uri", registry.uri]
    facts = json.loads(CliRunner().invoke(app, [*asked, "--json"], catch_exceptions=False).stdout)
    assert (facts["model"], facts["fingerprint"]) == ("models:/shown/1", model.fingerprint)
    assert [Publication(**each).destination for each in facts["published"]] == ["s3://public/set"]
    assert "s3://public/set" in CliRunner().invoke(app, asked, catch_exceptions=False).stdout
    out = Store(str(tmp_path / "out"))
    publish(out, job(), bad=(6,))
    made = json.loads(CliRunner().invoke(app, ["lineage", out.uri, "--json"], catch_exceptions=False).stdout)
    assert [
        (each["snapshot"], each["model"], each["audit_id"], each["key_id"], each["images"])
        for each in made["snapshots"]
    ] == [(1, "models:/m/1", "unaudited", "key", 9)]
    assert "models:/m/1" in CliRunner().invoke(app, ["lineage", out.uri], catch_exceptions=False).stdout


def test_the_code_that_made_a_snapshot_is_told(tmp_path: Path) -> None:
    from prichexy.provenance import code_version

    out = Store(str(tmp_path / "out"))
    publish(out, job())
    assert [made.code for made in lineage(out)] == [code_version()]


def test_an_empty_place_has_no_lineage(tmp_path: Path) -> None:
    with pytest.raises(PrichexyError, match="has no finished snapshot"):
        lineage(Store(str(tmp_path)))
