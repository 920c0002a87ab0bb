"""What looking for burned-in text costs the whole job: `redact` against `off`, on the same images in one run.

The job runs on a local Ray with all cores, publishes real radiographs of 1024 px at 256 px with an untrained
PriCheXy-Net of the published size, and runs alternately (off, redact, redact at full resolution, off, ...). Counted is
the streaming of images, from the first fetch to the last commit: milliseconds an image on the wall clock.

    python -m tests.bench.text_share [--images 48] [--rounds 3]
"""

import argparse
import logging
import secrets
import shutil
import statistics
import tempfile
from pathlib import Path

import ray

from prichexy.anonymize import anonymize
from prichexy.config import AnonymizeConfig, DeidConfig
from prichexy.obfuscation import create_untrained
from tests.bench import report
from tests.bench.burned_in_text import radiographs

WAYS = {
    "off": DeidConfig(burned_in_text="off"),
    "redact": DeidConfig(),
    "redact_full_resolution": DeidConfig(full_resolution=True),
}


def milliseconds(place: Path, name: str, way: DeidConfig) -> float:
    """Of one image, in one run of the job."""
    config = AnonymizeConfig(
        source=str(place / "lake"),
        destination=str(place / name),
        model=str(place / "model"),
        secret_file=place / "key",
        allow_unaudited=True,
        resolution="256",
        rows_per_shard=16,
        chunk=8,
        deid=way,
    )
    return 1000 / anonymize(config).images_per_second


def main() -> None:
    parser = argparse.ArgumentParser(description="What burned-in text costs the whole job.")
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    spent: dict[str, list[float]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "lake").mkdir()
        for file in radiographs("both")[: given.images]:
            shutil.copy(file, place / "lake")
        (place / "key").write_bytes(secrets.token_bytes(32))
        create_untrained("flow-field", place / "model", 0, {})
        milliseconds(place, "warm", DeidConfig())
        for number in range(given.rounds):
            for name, way in WAYS.items():
                spent[name].append(milliseconds(place, f"{name}-{number}", way))
    ray.shutdown()
    medians = {name: statistics.median(values) for name, values in spent.items()}
    figures = {
        "images": given.images,
        "rounds": given.rounds,
        "milliseconds_an_image": {name: round(value, 1) for name, value in medians.items()},
        "share_of_the_job": {
            name: round(1 - medians["off"] / value, 3) for name, value in medians.items() if name != "off"
        },
        "all_rounds": {name: [round(value, 1) for value in values] for name, values in spent.items()},
    }
    report("text_share", figures)


if __name__ == "__main__":
    main()
