"""De-identifying headers, ours against dicom-anonymizer, on the same files in one run.

Both start from the bytes of phantom DX files and stop at a de-identified data set in memory, without pixel data: read
and walk, files a second. Rounds alternate (theirs, ours, theirs, ours, ...). dicom-anonymizer runs with the same
edition of the standard's table; it looks at the top level only, and keeps a table of UIDs in the process.

    python -m tests.bench.header_walk [--files 50] [--rounds 5] [--size 96]
"""

import argparse
import importlib.metadata
import secrets
import statistics
import time
from collections.abc import Callable
from functools import partial
from io import BytesIO
from typing import Any

from pydicom import Dataset, dcmread

from prichexy.cohort.phantom.cohort import PhantomStudy
from prichexy.cohort.phantom.dicom import DEFAULT_TRANSFER_SYNTAXES, dicom_file, variant
from prichexy.deid import ProfileOptions, Pseudonyms, deidentify, read_header
from tests.bench import report

EDITION = "dicomfields_2026c"
Walk = Callable[[bytes], Dataset]


def files(count: int, size: int) -> list[bytes]:
    """DX files in ten transfer syntaxes; deflated ones left out, since inflating them would be the larger part."""
    syntaxes = tuple(syntax for syntax in DEFAULT_TRANSFER_SYNTAXES if syntax != "1.2.840.10008.1.2.1.99")
    made = []
    for number in range(count):
        study = PhantomStudy(3, number, 0, (size, size), f"P{number:05d}", (), "PA", "F", 50)
        buffer = BytesIO()
        dicom_file(study, variant(number, syntaxes))[0].save_as(buffer, enforce_file_format=True)
        made.append(buffer.getvalue())
    return made


def theirs() -> Walk:
    from dicomanonymizer.simpledicomanonymizer import anonymize_dataset, initialize_actions

    actions = partial(initialize_actions, EDITION)

    def walk(data: bytes) -> Dataset:
        data_set = dcmread(BytesIO(data), stop_before_pixels=True)
        anonymize_dataset(data_set, base_rules_gen=actions)
        return data_set

    return walk


def ours(options: ProfileOptions) -> Walk:
    keys = Pseudonyms.from_secret(secrets.token_bytes(32))
    return lambda data: deidentify(read_header(data), keys, options)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    sources = files(arguments.files, arguments.size)
    walks: dict[str, Walk] = {
        "dicom-anonymizer": theirs(),
        "ours": ours(ProfileOptions(modified_dates=False, patient_characteristics=False)),
        "ours, all options": ours(ProfileOptions(device_identity=True)),
    }
    rates: dict[str, list[float]] = {name: [] for name in walks}
    for number in range(arguments.rounds + 1):
        for name, walk in walks.items():
            start = time.perf_counter()
            for data in sources:
                walk(data)
            if number:  # the first round warms up
                rates[name].append(len(sources) / (time.perf_counter() - start))
    medians = {name: statistics.median(each) for name, each in rates.items()}
    return {
        "files": len(sources),
        "attributes a file": round(statistics.mean(_size(data) for data in sources), 1),
        "dicom-anonymizer": importlib.metadata.version("dicom-anonymizer"),
        "rounds": arguments.rounds,
        "median files a second": {name: round(median, 1) for name, median in medians.items()},
        "times as fast as dicom-anonymizer": {
            name: round(medians[name] / medians["dicom-anonymizer"], 2) for name in walks if name != "dicom-anonymizer"
        },
        "files a second": {name: [round(rate, 1) for rate in each] for name, each in rates.items()},
    }


def _size(data: bytes) -> int:
    return sum(1 for _ in dcmread(BytesIO(data), stop_before_pixels=True).iterall())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--files", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=96, help="side of the images in pixels")
    report("header_walk", measure(parser.parse_args()))


if __name__ == "__main__":
    main()
