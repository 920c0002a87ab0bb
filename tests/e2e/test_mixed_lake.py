"""The whole job on 400 files of every kind, on a file system and on a real S3 server."""

import json
from collections import Counter
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest

from prichexy.deid import Pseudonyms
from prichexy.errors import Quarantined
from prichexy.imaging import decode
from tests.e2e.conftest import S3Server, prichexy

pytestmark = pytest.mark.e2e
PLAIN = ("deid.burned_in_text=off",)  # what is found in these images is tested elsewhere

BROKEN = {
    "ColourPhotograph": 5,
    "Corrupt": 5,
    "DecompressionBomb": 5,
    "Empty": 5,
    "MultiFrame": 5,
    "NotAChestRadiograph": 5,
    "NotAnImage": 5,
    "TooSmall": 5,
    "Truncated": 15,
    "UnsupportedTransferSyntax": 5,
}


def expected(lake: Path) -> tuple[set[str], Counter[str]]:
    """Paths that must be published, and how often each reason must stand in quarantine."""
    good, reasons = set(), Counter[str]()
    for path in lake.rglob("*"):
        if path.is_file():
            try:
                decode(path.read_bytes())
                good.add(str(path.relative_to(lake)))
            except Quarantined as error:
                reasons[error.reason] += 1
    return good, reasons


def test_every_file_is_in_exactly_one_row(lake: Path, model: Path, secret_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["anonymize", str(lake), str(out), "--model", str(model), "--secret-file", str(secret_file)]
    done = prichexy(*arguments, "--allow-unaudited", "--resolution", "256", "rows_per_shard=64", *PLAIN, "--json")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    good, reasons = expected(lake)
    assert all(reasons[reason] >= count for reason, count in BROKEN.items())
    summary = json.loads(done.stdout)
    assert (summary["rows"], summary["published"], summary["quarantined"]) == (400, len(good), 400 - len(good))
    assert summary["reasons"] == dict(reasons)
    assert len(good) >= 270
    ours = Pseudonyms.from_file(secret_file)
    ids = [
        name
        for file in out.glob("data/*")
        for name in pq.read_table(file, columns=["image_id"])["image_id"].to_pylist()
    ]
    assert sorted(ids) == sorted(ours.image_id(name) for name in good)
    rows = [row for file in out.glob("_quarantine/*") for row in pq.read_table(file).to_pylist()]
    assert len({row["row_id"] for row in rows}) == len(rows) == 400 - len(good)
    told = done.stderr + done.stdout + json.dumps(rows)
    for name in ("Roe", "4711", "MRN0", "ZEBRAFISH", "radiograph0", "holiday"):
        assert name not in told, name
    shown = prichexy("quarantine", str(out), "--catalog", f"{out}.private/catalog", "--json")
    by_file = {Path(row["uri"]).name: row["reason"] for row in json.loads(shown.stdout)}
    assert (by_file["bomb0.png"], by_file["text1.png"], by_file["video2.dcm"]) == (
        "DecompressionBomb",
        "NotAnImage",
        "UnsupportedTransferSyntax",
    )
    assert prichexy("verify", str(out)).returncode == 0


def test_the_same_lake_through_s3(lake: Path, model: Path, secret_file: Path, tmp_path: Path, s3: S3Server) -> None:
    client = s3.client()
    for bucket in ("hospital", "public"):
        if not client.exists(bucket):
            client.mkdir(bucket)
    client.put(str(lake), "hospital/lake", recursive=True)
    arguments = ["anonymize", "s3://hospital/lake", "s3://public/release", "--model", str(model)]
    arguments += [
        "--secret-file",
        str(secret_file),
        "--allow-unaudited",
        "--resolution",
        "256",
        "rows_per_shard=128",
        *PLAIN,
    ]
    missing = prichexy(*arguments, env=s3.environment())
    assert missing.returncode == 2
    assert "setting work_dir is missing: name a private place" in missing.stderr
    done = prichexy(*arguments, "--work-dir", "s3://hospital/private", "--json", env=s3.environment())
    assert done.returncode == 0, done.stderr
    good, reasons = expected(lake)
    summary = json.loads(done.stdout)
    assert (summary["published"], summary["reasons"]) == (len(good), dict(reasons))
    verified = prichexy("verify", "s3://public/release", "--json", env=s3.environment())
    assert verified.returncode == 0, verified.stderr
    assert json.loads(verified.stdout)["published"] == len(good)
    connection = duckdb.connect()
    shards = [connection.read_parquet(_local(client, path, tmp_path)) for path in client.ls("public/release/data")]
    assert sum(len(shard.fetchall()) for shard in shards) == len(good)


def _local(client: object, path: str, folder: Path) -> str:
    client.get(path, str(folder / Path(path).name))  # type: ignore[attr-defined]
    return str(folder / Path(path).name)


def test_wrong_s3_credentials_are_one_sentence_within_seconds(
    lake: Path, model: Path, secret_file: Path, s3: S3Server
) -> None:
    arguments = ["anonymize", "s3://hospital/lake", "s3://public/other", "--model", str(model)]
    arguments += ["--secret-file", str(secret_file), "--allow-unaudited", "--work-dir", "s3://hospital/private2"]
    refused = prichexy(*arguments, env=s3.environment(secret_key="wrong"), timeout=60)
    assert refused.returncode == 1
    assert refused.stdout == ""
    errors = [line for line in refused.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert "refused the credentials" in errors[0]
    assert "wrong" not in refused.stderr
    assert "Traceback" not in refused.stderr
