"""What a classifier that had no part in a model still finds on its images: mean AUC over findings, test patients.

A model may learn from a classifier and be audited with the same one. Another, trained alike with another seed, tells
whether findings are still there or only what the first one reads. Images are published with keys of the seeds 0, 1, ...

    python -m tests.bench.second_classifier --model models:/multi-scale-64/1 [--table tables/chestxray14-64]
        [--classifier runs/check-43/classifier/lowest_classifier/classifier.safetensors] [--backbone tiny] [--draws 5]
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch

from prichexy.audit.utility import finding_scores
from prichexy.cohort.table import open_table
from prichexy.config import StorageConfig
from prichexy.imaging import from_unit, to_unit
from prichexy.networks.classifier import Classifier
from prichexy.networks.initial_weights import start_from
from prichexy.obfuscation import load
from prichexy.registry import Registry
from prichexy.training.evaluation import finding_aucs
from tests.bench import report

WEIGHTS = "runs/check-43/classifier/lowest_classifier/classifier.safetensors"


def main() -> None:
    parser = argparse.ArgumentParser(description="A second classifier's AUC before and after.")
    parser.add_argument("--model", default="models:/multi-scale-64/1")
    parser.add_argument("--table", default="tables/chestxray14-64")
    parser.add_argument("--classifier", type=Path, default=Path(WEIGHTS))
    parser.add_argument("--backbone", default="tiny")
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--tracking-uri")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if not given.classifier.exists():
        print(f"second_classifier is left out: there is no {given.classifier}; README: the frontier", flush=True)
        return
    classifier = Classifier(given.backbone)
    start_from(classifier, given.classifier)
    rows = open_table(given.table, StorageConfig(), None).split("test")
    originals_NHW = np.asarray(rows.images(np.arange(len(rows))))
    labels_NF = torch.from_numpy(np.asarray(rows.findings)).float()
    with tempfile.TemporaryDirectory() as folder:
        obfuscator = load(Registry(given.tracking_uri).fetch(given.model, Path(folder)).folder)

    def auc(images_NHW: np.ndarray) -> float:
        return finding_aucs(torch.from_numpy(finding_scores(classifier.eval(), images_NHW)), labels_NF)["auc"]

    images_N1HW = torch.from_numpy(to_unit(originals_NHW, 8))[:, None]
    after = []
    for seed in range(given.draws):
        keys_N = torch.from_numpy(np.random.default_rng(seed).integers(0, 2**62, len(rows)))
        after.append(auc(from_unit(obfuscator(images_N1HW, keys_N)[:, 0].numpy(), 8)))
    report(
        "second_classifier",
        {
            "model": given.model,
            "test images": len(rows),
            "auc of originals": round(auc(originals_NHW), 4),
            "auc of published images, mean over keys": round(float(np.mean(after)), 4),
            "its deviation over keys": round(float(np.std(after, ddof=1)), 4),
        },
    )


if __name__ == "__main__":
    main()
