"""What an audit works on: the table's images before and after the model, as they would be published.

The images are anonymized here by the code that publishes (`Obfuscator`), in Ray tasks, and rounded to 8 bits as a
published PNG is. A table of larger images than the model's is an audit at native resolution: the field is applied at
the table's size, and both sides are then resized to the model's, where attackers and classifier look at them.

Shape suffixes: N image, F finding, H height, W width, S side of the model's images.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import ray
import torch
from numpy.typing import NDArray

from prichexy.audit.evidence import Evidence, Seeds, Split, refuse_seen
from prichexy.audit.utility import LabelledSplit
from prichexy.cohort.pairs import draw_pairs
from prichexy.cohort.splits import SPLITS
from prichexy.cohort.table import SplitRows, TrainingTable
from prichexy.config.audit import AuditSettings
from prichexy.errors import UsageError
from prichexy.imaging import from_unit, resize, to_unit
from prichexy.networks.classifier import Classifier
from prichexy.networks.verifier import Verifier
from prichexy.obfuscation import Obfuscator
from prichexy.obfuscation.model_files import from_bytes
from prichexy.progress import Progress

Images = NDArray[np.uint8]

Judges = Literal["test", "validation"]

HELD_OUT = 7
"""One in so many training patients is held out where the validation patients judge."""

CHUNK = 64
"""Images that one task anonymizes."""


@dataclass(frozen=True, eq=False)
class Material:
    """Everything an attacker or the classifier is given.

    Attributes:
        evidence: images, patients and pairs of the three splits.
        findings: of each split, (N, 14) booleans, columns as `FINDINGS`.
        classifier: of findings, trained on originals; None where one has to be trained first.
    """

    evidence: Evidence
    findings: dict[str, NDArray[np.bool_]]
    classifier: Classifier | None

    def labelled(self, split: str, anonymized: bool) -> LabelledSplit:
        """Images of a split, before or after, with their findings."""
        images: Split = getattr(self.evidence, split)
        return LabelledSplit(images.anonymized_NHW if anonymized else images.originals_NHW, self.findings[split])


def gather(
    settings: AuditSettings,
    table: TrainingTable,
    model: bytes,
    verifier: Verifier | None = None,
    classifier: Classifier | None = None,
    judges: Judges = "test",
) -> Material:
    """The material of an audit, anonymized on the Ray that this process is connected to.

    Args:
        settings: of pairs, seeds and sizes.
        table: whose images.
        model: as `prichexy.obfuscation.to_bytes` gave it.
        verifier: the one that the model was trained against, or None.
        classifier: of findings, trained on this table's training split, or None.
        judges: the split whose patients judge. With ``validation``, a seventh of the training patients tells attackers
            when to stop in its place, and the test patients stay unseen.

    Raises:
        UsageError: the table's images are smaller than the model's, the model can't be applied at their size, or
            patients or pairs are too few.
    """
    obfuscator = from_bytes(model)
    side = obfuscator.settings.image_size
    if table.facts.size < side:
        raise UsageError(
            f"the table's images are {table.facts.size} pixels wide, the model's {side}: prepare a table of size {side}"
        )
    rows, chosen = _parts(table, settings, judges)
    refuse_seen(rows["test"].patients, table.split("train").patients, "the model's training")
    splits = {}
    with Progress("anonymize for the audit", sum(map(len, chosen.values()))) as progress:
        for number, name in enumerate(SPLITS):
            patients_N = rows[name].patients[chosen[name]]
            wanted = getattr(settings.pairs, name)
            pairs = draw_pairs(patients_N, wanted, settings.seed, settings.pairs.per_patient)
            seeds_N = np.random.default_rng((settings.seed, number)).integers(0, 2**63, len(patients_N), dtype=np.int64)
            originals, anonymized = [], []
            for before_NSS, after_NSS in _both_sides(rows[name], chosen[name], seeds_N, model, settings):
                originals.append(before_NSS)
                anonymized.append(after_NSS)
                progress.advance(len(before_NSS))
            splits[name] = Split(np.concatenate(originals), np.concatenate(anonymized), patients_N, pairs, seeds_N)
    evidence = Evidence(
        splits["train"],
        splits["validation"],
        splits["test"],
        verifier,
        obfuscator,
        classifier,
        native=table.facts.size != side,
    )
    return Material(evidence, {name: rows[name].findings[chosen[name]] for name in SPLITS}, classifier)


def _parts(
    table: TrainingTable, settings: AuditSettings, judges: Judges
) -> tuple[dict[str, SplitRows], dict[str, NDArray[np.int64]]]:
    """For each split of the evidence, rows of the table and which of them are used."""
    if judges == "test":
        rows = {name: table.split(name) for name in SPLITS}
        return rows, {name: whole_patients(rows[name].patients, settings.most_images, settings.seed) for name in SPLITS}
    train, validation = table.split("train"), table.split("validation")
    owners = np.unique(train.patients)
    held = np.random.default_rng(settings.seed).permutation(owners)[: len(owners) // HELD_OUT]
    kept = whole_patients(train.patients, settings.most_images, settings.seed)
    held_N = np.isin(train.patients[kept], held)
    return (
        {"train": train, "validation": train, "test": validation},
        {
            "train": kept[~held_N],
            "validation": kept[held_N],
            "test": whole_patients(validation.patients, settings.most_images, settings.seed),
        },
    )


def whole_patients(patients_N: NDArray[np.str_], most: int, seed: int) -> NDArray[np.int64]:
    """Rows of at most `most` images, in order; of a larger split, patients are drawn with all of their images."""
    if len(patients_N) <= most:
        return np.arange(len(patients_N))
    owners, owner_N, images = np.unique(patients_N, return_inverse=True, return_counts=True)
    drawn = np.random.default_rng(seed).permutation(len(owners))
    kept = drawn[np.cumsum(images[drawn]) <= most]
    return np.flatnonzero(np.isin(owner_N, kept))


def _both_sides(
    rows: SplitRows,
    chosen: NDArray[np.int64],
    seeds_N: Seeds,
    model: bytes,
    settings: AuditSettings,
) -> Iterator[tuple[Images, Images]]:
    """Originals and anonymized images of some rows, in order, both (n, S, S); a few tasks run ahead."""
    there = ray.put(model)
    task = _anonymized.options(num_cpus=settings.threads, num_gpus=1 if settings.gpu else 0)
    count = max(1, -(-len(chosen) // CHUNK))
    parts = zip(np.array_split(chosen, count), np.array_split(seeds_N, count), strict=True)
    ahead = max(2, int(ray.cluster_resources().get("CPU", 1)) // settings.threads)
    waiting: list[Any] = []
    for part, own_seeds in parts:
        waiting.append(task.remote(there, rows.images(part), own_seeds, settings.threads, settings.gpu))
        if len(waiting) > ahead:
            yield ray.get(waiting.pop(0))
    for result in waiting:
        yield ray.get(result)


@ray.remote  # type: ignore[untyped-decorator]
def _anonymized(model: bytes, images_NHW: Images, seeds_N: Seeds, threads: int, gpu: bool) -> tuple[Images, Images]:
    torch.set_num_threads(threads)
    return both_sides(from_bytes(model, "cuda" if gpu else "cpu"), images_NHW, seeds_N, "cuda" if gpu else "cpu")


def both_sides(
    obfuscator: Obfuscator, images_NHW: Images, seeds_N: Seeds, device: str = "cpu"
) -> tuple[Images, Images]:
    """Images before and after, at the model's size.

    Args:
        obfuscator: the model, on `device`.
        images_NHW: uint8, (N, H, H), H at least the model's size S.
        seeds_N: a 63-bit seed for each, for keyed models.
        device: of the model.

    Returns:
        Originals and anonymized images, uint8, (N, S, S) each.

    Raises:
        UsageError: H differs from S, and the model has no result at another size.
    """
    side = obfuscator.settings.image_size
    small_NSS = np.stack([resize(image, side, side) for image in images_NHW])
    small_N1SS = torch.from_numpy(to_unit(small_NSS, 8)).unsqueeze(1).to(device)
    keys_N = torch.from_numpy(np.array(seeds_N))
    if images_NHW.shape[-1] == side:
        outputs_N1SS = obfuscator(small_N1SS, keys_N)
        return small_NSS, from_unit(outputs_N1SS[:, 0].cpu().numpy(), 8)
    natives = (torch.from_numpy(to_unit(image, 8)).unsqueeze(0).to(device) for image in images_NHW)
    outputs = obfuscator.at_native(small_N1SS, natives, keys_N)
    published = (from_unit(output[0].cpu().numpy(), 8) for output in outputs)
    return small_NSS, np.stack([resize(image, side, side) for image in published])
