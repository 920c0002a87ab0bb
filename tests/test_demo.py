import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from prichexy.config import TrainConfig, load
from prichexy.demo import COMPARED, run, training_config
from prichexy.errors import UsageError

ROOT = Path(__file__).resolve().parents[1]
PATIENTS = 75  # of whom enough judge the model
MISSING = (
    "^missing: model version phantom-net/1: The model failed its audit",
    "its images were made without a passing audit",
    "'contact' is not stated",
)


@pytest.mark.timeout(1500)  # minutes of training, and CI has other tests beside it
@pytest.mark.usefixtures("local_ray")
def test_the_demo_trains_audits_and_publishes_its_lake(tmp_path: Path) -> None:
    figures = run(tmp_path / "demo", PATIENTS, seed=1, size=128, text="off")
    assert figures["images in"] == figures["published"] + 3
    assert figures["why"] == {"Empty": 1, "NotAnImage": 1, "Truncated": 1}
    assert figures["model"] == "models:/phantom-net/1"
    assert set(COMPARED) < set(figures["attackers"])
    assert len(figures["attackers"]) >= 13
    assert max(figures["attackers"], key=lambda name: float(figures["attackers"][name])) == figures["strongest"]
    page = Path(figures["audit report"]).read_text()
    assert figures["strongest"] in page
    comparison = Path(figures["comparison"])
    rows = json.loads((comparison.parent / "comparison.json").read_text())
    assert [row["label"] for row in rows] == ["originals", "DP-Pix b = 8", "this demo's PriCheXy-Net"]
    assert rows[0]["ssim"] == pytest.approx(1)
    assert rows[1]["ssim"] < rows[2]["ssim"] < 1
    assert rows[1]["strongest_auc"] < rows[0]["strongest_auc"]
    for name in COMPARED:
        assert f"{rows[2]['attackers'][name]:.2f}" == figures["attackers"][name]
    assert all(row["label"] in figures["compared"] for row in rows)
    assert "this demo&#39;s PriCheXy-Net" in comparison.read_text()
    manifest = json.loads((tmp_path / "demo" / "published" / "_snapshots/0001/_MANIFEST.json").read_text())
    assert manifest["jobs"][-1]["audited"] is False, "linear metrics find phantoms again: this verdict is no"
    assert figures["verdict"].startswith("The strongest attacker")
    root = tmp_path / "demo" / "published"
    assert figures["page of the data set"] == str(root / "index.html")
    data_page = (root / "index.html").read_text()
    assert data_page.count("<img ") == 4
    assert "Verdict: FAILED" in data_page  # the audit's table is shown, since its seal is proven
    done = subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=root)
    assert done.returncode == 0
    assert pq.read_metadata(root / "splits.parquet").num_rows == figures["published"]
    gaps = figures["before it goes public"].split(". ")
    assert [bool(re.search(told, gap)) for told, gap in zip(MISSING, gaps, strict=True)] == [True] * 3, gaps
    sheet = np.asarray(Image.open(figures["before and after"])).astype(int)
    side = (sheet.shape[1] - 16) // 3
    before, after = sheet[-side:, :side], sheet[-side:, side + 8 : 2 * side + 8]
    assert before.std() > 20
    assert 0 < np.abs(before - after).mean() < 30
    again = run(tmp_path / "demo", PATIENTS, seed=1, size=128, text="off")  # all is there already
    assert {again[key] == figures[key] for key in ("model", "attackers", "published", "before and after")} == {True}
    with pytest.raises(UsageError, match="holds the lake of another demo"):
        run(tmp_path / "demo", PATIENTS + 1, seed=1)


@pytest.mark.long
@pytest.mark.timeout(1500)
@pytest.mark.usefixtures("local_ray")
def test_the_demo_treats_a_multi_scale_field_like_any_other_model(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    figures = run(folder, PATIENTS, seed=1, size=128, text="off", kind="multi-scale-field")
    assert figures["images in"] == figures["published"] + 3
    assert figures["model"] == "models:/phantom-net/1"
    assert {"verifier-adaptive", "inversion", "fusion"} < set(figures["attackers"])
    rows = json.loads((folder / "audits" / "comparison.json").read_text())
    assert [row["label"] for row in rows] == ["originals", "DP-Pix b = 8", "this demo's multi-scale field"]
    assert rows[2]["folded_share"] == 0
    assert rows[2]["strongest_auc"] < rows[0]["strongest_auc"]
    assert rows[2]["unseen_loss"] is not None
    audited = json.loads((folder / "published/_snapshots/0001/_MANIFEST.json").read_text())["jobs"][-1]["audited"]
    assert audited is figures["verdict"].startswith("Within the limits")
    with pytest.raises(UsageError, match="holds the lake of another demo"):
        run(folder, PATIENTS, seed=1, size=128, text="off")


def test_the_demos_training_is_that_of_its_job_configuration() -> None:
    job = load(TrainConfig, ROOT / "jobs" / "configs" / "train-demo.yaml")
    ours = training_config(Path("demo"), yaml.safe_load((ROOT / "jobs/configs/train-demo.yaml").read_text())["seed"])
    assert job.model_copy(update={"tracking_uri": None}) == ours.model_copy(update={"tracking_uri": None})
