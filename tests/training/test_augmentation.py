"""Random changes of training images: what they are, and that they follow from seed, epoch and sample."""

import numpy as np
import pytest
import torch
from torch import Tensor

from prichexy.cohort.pairs import Pairs, draw_pairs
from prichexy.cohort.table import SplitRows, open_table
from prichexy.config import StorageConfig
from prichexy.errors import UsageError
from prichexy.training.augmentation import Augmentation
from prichexy.training.samples import changed_pairs, epoch_order, patient_pairs, training_shares
from tests.training.phantom_table import phantom_table


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> SplitRows:
    return open_table(phantom_table(tmp_path_factory.mktemp("table") / "table"), StorageConfig()).split("train")


def blob(column: int, level: int = 200) -> Tensor:
    images = torch.full((1, 1, 64, 64), 40, dtype=torch.uint8)
    images[..., 24:40, column - 6 : column + 6] = level
    return images


def changed(augmentation: Augmentation, images: Tensor, epoch: int = 0, mirrored: bool = False) -> Tensor:
    randoms = augmentation.generators(epoch, np.arange(len(images)))
    return augmentation.apply(images, randoms, np.full(len(images), mirrored))


def test_strength_0_mirrors_only() -> None:
    images = blob(20)
    assert torch.equal(changed(Augmentation(0, 1), images), images / 255)
    assert torch.equal(changed(Augmentation(0, 1), images, mirrored=True), images.flip(-1) / 255)


def test_changes_are_of_the_size_that_is_said() -> None:
    images = blob(32).expand(200, -1, -1, -1)
    moved = changed(Augmentation(1, 1), images)
    assert 0 <= float(moved.min()) < float(moved.max()) <= 1
    brightness = moved.mean(dim=(1, 2, 3))
    assert 0.02 < float(brightness.std()) < 0.2
    weight = (moved - moved.amin(dim=(2, 3), keepdim=True)).square().squeeze(1)
    centre = (weight * torch.arange(64.0)).sum(dim=(1, 2)) / weight.sum(dim=(1, 2)) - 31.5
    assert 0.5 < float(centre.std()) < 6  # pixels: up to 3 of shift, and what a covered part adds
    weaker = changed(Augmentation(0.1, 1), images)
    assert float(weaker.mean(dim=(1, 2, 3)).std()) < 0.3 * float(brightness.std())


def test_what_is_drawn_follows_from_seed_epoch_and_sample() -> None:
    images = blob(32).expand(4, -1, -1, -1)
    first = changed(Augmentation(1, 1), images)
    assert torch.equal(first, changed(Augmentation(1, 1), images))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first, changed(Augmentation(1, 2), images))
    assert not torch.equal(first, changed(Augmentation(1, 1), images, epoch=1))


def test_both_images_of_a_pair_are_changed_on_their_own_but_mirrored_together(rows: SplitRows) -> None:
    image = np.arange(len(rows))
    twice = Pairs(image, image, np.ones(len(rows), dtype=np.bool_))
    first, second, _ = changed_pairs(rows, twice, Augmentation(1, 3)).in_epoch(2).load(image)
    assert not any(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    first, second, _ = changed_pairs(rows, twice, Augmentation(0, 3)).in_epoch(2).load(image)
    assert torch.equal(first, second)
    stored = torch.from_numpy(rows.images(image)).unsqueeze(1) / 255
    turned = [bool(torch.equal(one, other.flip(-1))) for one, other in zip(first, stored, strict=True)]
    by_patient = {patient: {turned[i] for i in image if rows.patients[i] == patient} for patient in rows.patients}
    assert all(len(ways) == 1 for ways in by_patient.values())
    assert {way for ways in by_patient.values() for way in ways} == {True, False}


def test_two_workers_read_the_batch_of_one(rows: SplitRows) -> None:
    samples = patient_pairs(rows, lambda epoch: draw_pairs(rows.patients, 32, epoch), Augmentation(1, 3)).in_epoch(4)
    order = epoch_order(samples.count, 3, 4)
    (alone, *_), (even, *_), (odd, *_) = (training_shares(order, 8, *who) for who in ((0, 1), (0, 2), (1, 2)))
    whole, parts = samples.load(alone), [samples.load(share) for share in (even, odd)]
    for joined, own, others in zip(whole, *parts, strict=True):
        assert torch.equal(joined[::2], own)
        assert torch.equal(joined[1::2], others)


def test_same_patient_pairs_are_drawn_anew_for_each_epoch(rows: SplitRows) -> None:
    samples = patient_pairs(rows, lambda epoch: draw_pairs(rows.patients, 32, epoch), Augmentation(0, 3))
    owners = np.unique(rows.patients, return_inverse=True)[1]
    for epoch in (0, 1):
        pairs = draw_pairs(rows.patients, 32, epoch)
        own = samples.in_epoch(epoch)
        assert own.count == int(pairs.same.sum())
        batch = own.load(np.arange(own.count))
        assert batch.patients.tolist() == owners[pairs.first[pairs.same]].tolist()
        assert batch.patients.tolist() == owners[pairs.second[pairs.same]].tolist()
    assert draw_pairs(rows.patients, 32, 0).first.tolist() != draw_pairs(rows.patients, 32, 1).first.tolist()


def test_a_list_without_a_same_patient_pair_is_refused(rows: SplitRows) -> None:
    pairs = draw_pairs(rows.patients, 32, 0)
    strangers = Pairs(pairs.first[~pairs.same], pairs.second[~pairs.same], pairs.same[~pairs.same])
    with pytest.raises(UsageError, match="no same-patient pair"):
        patient_pairs(rows, lambda epoch: strangers, Augmentation(0, 3))
