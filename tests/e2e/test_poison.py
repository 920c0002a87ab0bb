"""Poison files, which kill the process that decodes them: found, set aside, and everything else published."""

import json
import os
import resource
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from prichexy.deid import Pseudonyms
from prichexy.obfuscation import create_untrained
from tests.e2e.conftest import prichexy

pytestmark = [pytest.mark.e2e, pytest.mark.long, pytest.mark.timeout(1500)]

IMAGES = 240  # 2,000 give the same, in six times the time
SHARD = 64
POISON = {
    37: ("crash", "KilledItsProcess"),
    38: ("crash", "KilledItsProcess"),
    150: ("abort", "KilledItsProcess"),
    160: ("allocate", "DecompressionBomb"),
    211: ("loop", "TookTooLong"),
}
"""Number of a file -> what its decoder does, and the reason for which it must be set aside."""

PLUGIN = '''
"""A PNG decoder with bugs, in every process that starts with this on its path."""
import ctypes, importlib.util, os, sys
import importlib.abc

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name != "prichexy.imaging.decode":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module
        def exec_module(module):
            execute(module)
            decoder = module._DECODERS["png"]
            module._DECODERS["png"] = lambda data, limits: poisoned(data) or decoder(data, limits)
        spec.loader.exec_module = exec_module
        return spec

def poisoned(data):
    what = data[-20:].partition(b"poison:")[2].decode()
    if what == "crash":
        ctypes.string_at(0)
    if what == "abort":
        os.abort()
    if what == "allocate":
        import numpy as np
        held = [np.ones(2**31, np.uint8) for _ in range(25)]  # 50 GB, of which the limit allows none
    while what == "loop":
        pass

sys.meta_path.insert(0, Finder())
'''


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small radiographs, of which five are poison to a decoder with bugs, and fine to any other."""
    folder = tmp_path_factory.mktemp("poison") / "lake"
    folder.mkdir()
    rng = np.random.default_rng(7)
    for number in range(IMAGES):
        side = int(rng.integers(64, 97))
        image = Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8)).resize((side, side), Image.Resampling.BILINEAR)
        image.save(folder / name(number), "PNG")
        if number in POISON:
            with (folder / name(number)).open("ab") as file:
                file.write(f"poison:{POISON[number][0]}".encode())
    listed = prichexy("catalog", str(folder), "--out", str(folder.parent / "catalog"))
    assert listed.returncode == 0, listed.stderr
    return folder.parent / "catalog"


def name(number: int) -> str:
    return f"image{number:04d}.png"


def run(lake: Path, out: Path, secret_file: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    """The job, in a folder of its own where core files would lie."""
    model = out.parent / "identity"
    create_untrained("identity", model, 0, {})
    command = [str(Path(sys.executable).parent / "prichexy"), "anonymize", str(lake), str(out), "--model", str(model)]
    command += ["--secret-file", str(secret_file), "--allow-unaudited", "--resolution", "256", "--json"]
    command += [f"rows_per_shard={SHARD}", "chunk=16", "deid.burned_in_text=off"]
    command += ["limits.seconds=15", f"limits.memory={1 << 30}"]
    return subprocess.run(
        command,
        cwd=out.parent,
        env={**os.environ, **environment},
        preexec_fn=allow_cores,
        capture_output=True,
        text=True,
        timeout=550,
    )


def allow_cores() -> None:
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))


def published(out: Path) -> dict[str, dict[str, Any]]:
    return {row["image_id"]: row for file in out.glob("data/*") for row in pq.read_table(file).to_pylist()}


def test_poison_files_are_set_aside_and_all_others_published(lake: Path, secret_file: Path, tmp_path: Path) -> None:
    (tmp_path / "plugin").mkdir()
    (tmp_path / "plugin" / "sitecustomize.py").write_text(PLUGIN)
    for folder in ("undisturbed", "poisoned"):
        (tmp_path / folder).mkdir()
    out, whole = tmp_path / "poisoned" / "out", tmp_path / "undisturbed" / "out"

    began = time.monotonic()
    done = run(lake, out, secret_file, PYTHONPATH=str(tmp_path / "plugin"))
    print(f"{IMAGES} images, {len(POISON)} of them poison: {time.monotonic() - began:.1f} s")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("core*"))
    summary = json.loads(done.stdout)  # nothing beside it, such as Ray's own words on the workers that died
    assert (summary["published"], summary["quarantined"]) == (IMAGES - len(POISON), len(POISON))
    assert summary["reasons"] == Counter(reason for _, reason in POISON.values())
    shown = prichexy("quarantine", str(out), "--catalog", str(lake), "--json")
    set_aside = json.loads(shown.stdout)
    assert {Path(row["uri"]).name: row["reason"] for row in set_aside} == {
        name(n): reason for n, (_, reason) in POISON.items()
    }
    assert {row["stage"] for row in set_aside} == {"decode"}
    assert prichexy("verify", str(out)).returncode == 0

    plain = run(lake, whole, secret_file)
    assert plain.returncode == 0, plain.stderr
    expected, ours = published(whole), Pseudonyms.from_file(secret_file)
    assert len(expected) == IMAGES
    for number in POISON:
        del expected[ours.image_id(name(number))]
    assert published(out) == expected
    with_poison = {f"part-0001-{row['row_id'] // SHARD:06d}-of-{summary['shards']:06d}.parquet" for row in set_aside}
    for file in whole.glob("data/*"):
        assert (file.read_bytes() == (out / "data" / file.name).read_bytes()) == (file.name not in with_poison)
