"""What the findings themselves give away: pairs told apart by their labels, without a look at any image.

Whatever keeps all findings recognizable lets an attacker compare them. The figure is no bound for a given classifier,
which knows less than the labels, nor for one that is taken in, but it says where a model stands that keeps all of them.

    python -m tests.bench.labels_alone [--table tables/chestxray14-64] [--draws 10]
"""

import argparse
from pathlib import Path

import numpy as np

from prichexy.audit.statistics import auc
from prichexy.cohort.pairs import draw_pairs
from prichexy.cohort.splits import SPLITS
from prichexy.cohort.table import open_table
from prichexy.config import StorageConfig
from tests.bench import report


def main() -> None:
    parser = argparse.ArgumentParser(description="AUC of re-identification by labels of findings alone.")
    parser.add_argument("--table", default="tables/chestxray14-64", help="a training table")
    parser.add_argument("--draws", type=int, default=10, help="of pairs, with seeds from 42 on")
    given = parser.parse_args()
    if "://" not in given.table and not Path(given.table).exists():
        print(f"labels_alone is left out: there is no table {given.table}; `prichexy prepare` makes one", flush=True)
        return
    table = open_table(given.table, StorageConfig(), None)
    figures = {}
    for split in SPLITS:
        rows = table.split(split)
        findings_NF, found = np.asarray(rows.findings), []
        for seed in range(42, 42 + given.draws):
            pairs = draw_pairs(np.asarray(rows.patients), 5000, seed)
            differ_P = (findings_NF[pairs.first] != findings_NF[pairs.second]).sum(axis=1)
            found.append(auc(-differ_P.astype(np.float64), pairs.same))
        figures[split] = {
            "patients": len(np.unique(rows.patients)),
            "auc_mean": round(float(np.mean(found)), 4),
            "auc_sd": round(float(np.std(found, ddof=1)), 4),
        }
    report("labels_alone", figures)


if __name__ == "__main__":
    main()
