import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from prichexy.demo import run
from prichexy.errors import UsageError


@pytest.mark.usefixtures("local_ray")
def test_the_demo_publishes_its_lake_and_shows_one_radiograph(tmp_path: Path) -> None:
    figures = run(tmp_path / "demo", patients=3, seed=1)
    assert figures["images in"] == figures["published"] + 3
    assert figures["why"] == {"Empty": 1, "NotAnImage": 1, "Truncated": 1}
    manifest = json.loads((tmp_path / "demo" / "published" / "_MANIFEST.json").read_text())
    assert manifest["job"]["audited"] is False
    sheet = np.asarray(Image.open(figures["before and after"])).astype(int)
    side = (sheet.shape[1] - 16) // 3
    before, after = sheet[-side:, :side], sheet[-side:, side + 8 : 2 * side + 8]
    assert before.std() > 20
    assert 0 < np.abs(before - after).mean() < 10
    assert run(tmp_path / "demo", patients=3, seed=1)["published"] == figures["published"]
    with pytest.raises(UsageError, match="holds the lake of another demo"):
        run(tmp_path / "demo", patients=4, seed=1)
