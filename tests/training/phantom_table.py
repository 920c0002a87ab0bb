"""A training table of phantoms, written without Ray."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from prichexy.cohort.phantom import PhantomCohort, render
from prichexy.cohort.splits import SPLITS, by_seed
from prichexy.cohort.table import FACTS_FILE, TableFacts, fingerprint, write_part
from prichexy.lake.storage import Store


def phantom_table(folder: Path, patients: int = 40, size: int = 64, shares: tuple[float, ...] = (0.6, 0.2, 0.2)) -> str:
    """Place of a table of phantoms with two to four studies each."""
    studies = PhantomCohort(patients, 7, size=size).studies
    owners = sorted({study.patient_id for study in studies})
    split_of = dict(zip(owners, by_seed(owners, 1, shares), strict=True))
    store, parts = Store(str(folder)), []
    for number, split in enumerate(SPLITS):
        own = [study for study in studies if SPLITS[split_of[study.patient_id]] == split]
        rows = pa.table(
            {
                "image_name": [f"{study.patient_id}-{study.study}.png" for study in own],
                "patient_id": [study.patient_id for study in own],
                "follow_up": pa.array([study.study for study in own], pa.int32()),
                "findings": pa.array([list(study.findings) for study in own], pa.list_(pa.string())),
            }
        )
        pixels = (
            np.stack([render(study) for study in own]).astype(np.uint8) if own else np.empty((0, size, size), np.uint8)
        )
        parts.append(write_part(store, number, split, f"data/{split}-{number:05d}.parquet", rows, pixels, []))
    facts = TableFacts(
        size=size,
        rows=sum(part.rows for part in parts),
        counts={part.split: part.rows for part in parts},
        patients={name: sum(SPLITS[split] == name for split in split_of.values()) for name in SPLITS},
        fingerprint=fingerprint(parts),
        seed=1,
        splits={},
        pseudonyms=None,
        quarantined=(),
        parts=tuple(parts),
    )
    store.write(FACTS_FILE, facts.to_json())
    return str(folder)


TINY = {
    "seed": 5,
    "pairs": {"train": 64, "validation": 24, "test": 24},
    "classifier": {"backbone": "tiny", "optimiser": "adam", "learning_rate": 1e-3, "epochs": 2, "batch": 16},
    "verifier": {"backbone": "tiny", "learning_rate": 1e-3, "epochs": 2, "batch": 16},
    "generator": {"features": 4, "mu": 0.05},
    "pretraining": {"learning_rate": 1e-3, "epochs": 2, "batch": 16},
    "adversarial": {"learning_rate": 1e-3, "epochs": 2, "batch": 16},
    "multi_scale": {"epochs": 2, "batch": 8, "critics": ["tiny-narrow"]},
}
"""Settings of a training of seconds."""
