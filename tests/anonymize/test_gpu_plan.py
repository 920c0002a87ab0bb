"""The job's plan on a cluster with GPUs: Ray is told of two that nobody has, so actors compute on the CPU."""

import subprocess
import sys
from pathlib import Path

import pytest

from prichexy.anonymize import anonymize
from prichexy.cohort.phantom import PhantomCohort, write_png
from prichexy.config import AnonymizeConfig
from prichexy.obfuscation import create_untrained

ON_GPUS = """
import sys
import ray
from prichexy.anonymize import anonymize
from prichexy.config import AnonymizeConfig
ray.init(address="local", num_cpus=4, num_gpus=2, include_dashboard=False, log_to_driver=False)
print(anonymize(AnonymizeConfig.model_validate_json(sys.stdin.read())).published)
"""


@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize("resolution", [pytest.param("256", marks=pytest.mark.long), "native"])
def test_shards_are_the_same_with_gpus_and_without(tmp_path: Path, secret_file: Path, resolution: str) -> None:
    write_png(PhantomCohort(9, 5, size=96), tmp_path / "lake")
    create_untrained("flow-field", tmp_path / "model", 0, {"features": 4, "mu": 0.05})
    config = AnonymizeConfig(
        source=str(tmp_path / "lake"),
        destination=str(tmp_path / "without"),
        model=str(tmp_path / "model"),
        secret_file=secret_file,
        allow_unaudited=True,
        exclude=("*.csv",),
        resolution=resolution,
        rows_per_shard=10,
        chunk=4,  # does not divide a shard: spans of 4, 4 and 2 rows
        deid={"burned_in_text": "off"},
    )
    published = anonymize(config).published
    on_gpus = config.model_copy(update={"destination": str(tmp_path / "with")})
    done = subprocess.run(
        [sys.executable, "-c", ON_GPUS], input=on_gpus.model_dump_json(), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout.split()[-1]) == published > 10
    shards = [
        {path.name: path.read_bytes() for path in (tmp_path / where / "data").iterdir()}
        for where in ("without", "with")
    ]
    assert shards[0] == shards[1]
