"""A verifier that learns from all comparisons of a batch: the loss, and the batch of two workers."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from prichexy.networks.verifier import Verifier
from prichexy.training.batches import PatientPairs
from prichexy.training.compute import Compute, NonFiniteLossError, adam
from prichexy.training.contrast import contrast_loss
from prichexy.training.verifier_step import patients_step
from prichexy.training.world import World

ROOT = Path(__file__).resolve().parents[2]
PLAIN = Compute(channels_last=False)


def test_the_loss_is_that_of_every_pair() -> None:
    logits = torch.randn(6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    patients = [4, 7, 4, 4, 9, 7]
    same, strangers, found = [], [], []
    for i in range(6):
        others = [float(logits[i, j]) for j in range(6) if j != i]
        for j in range(6):
            if i == j:
                continue
            value = float(logits[i, j])
            if patients[i] == patients[j]:
                same.append(math.log1p(math.exp(-value)))
                found.append(math.log(sum(map(math.exp, others))) - value)
            else:
                strangers.append(math.log1p(math.exp(value)))
    signs = (sum(same) / len(same) + sum(strangers) / len(strangers)) / 2
    expected = (signs + sum(found) / len(found)) / 2
    assert float(contrast_loss(logits, torch.tensor(patients))) == pytest.approx(expected, rel=1e-12)


def test_an_images_likeness_to_itself_does_not_count() -> None:
    logits = torch.zeros(4, 4, requires_grad=True)
    contrast_loss(logits, torch.tensor([0, 0, 1, 1])).backward()
    assert logits.grad is not None
    assert logits.grad.diagonal().tolist() == [0, 0, 0, 0]
    assert float(logits.grad[0, 1]) < 0 < float(logits.grad[0, 2])


def test_a_batch_of_one_patient_has_a_loss() -> None:
    logits = torch.zeros(2, 2)
    assert float(contrast_loss(logits, torch.tensor([3, 3]))) == pytest.approx(math.log(2) / 4)


def batch(count: int = 6) -> PatientPairs:
    random = torch.Generator().manual_seed(0)
    base = F.interpolate(torch.rand(count, 1, 8, 8, generator=random), size=64, mode="bilinear")
    noisy = [(base + 0.02 * torch.randn(base.shape, generator=random)).clamp(0, 1) for _ in range(2)]
    return PatientPairs(noisy[0], noisy[1], torch.arange(count))


@pytest.mark.parametrize("compute", [PLAIN, Compute(bf16=True)], ids=["float32", "bf16"])
def test_a_step_learns_its_patients(compute: Compute) -> None:
    torch.manual_seed(0)
    verifier = Verifier("tiny")
    optimiser = adam(verifier, 1e-3)
    losses = [patients_step(batch(), verifier, optimiser, compute, World())["verifier"] for _ in range(12)]
    assert losses[-1] < 0.5 * losses[0]


def test_a_loss_that_is_not_finite_stops_before_the_update() -> None:
    verifier = Verifier("tiny")
    before = verifier.fc_end.weight.detach().clone()
    broken = batch()
    broken.first[0] = math.nan
    with pytest.raises(NonFiniteLossError, match="verifier loss is not finite at step 3"):
        patients_step(broken, verifier, adam(verifier), PLAIN, World(), step=3)
    assert torch.equal(verifier.fc_end.weight, before)


def test_two_gloo_workers_compare_the_images_of_the_joined_batch(tmp_path: Path) -> None:
    def command(rank: int, size: int) -> list[str]:
        return [
            sys.executable,
            "-m",
            "tests.training.gloo_contrast",
            str(rank),
            str(size),
            str(tmp_path / "m"),
            str(tmp_path),
        ]

    workers = [subprocess.Popen(command(rank, 2), cwd=ROOT) for rank in range(2)]
    assert [worker.wait(timeout=120) for worker in workers] == [0, 0]
    subprocess.run(command(0, 1), cwd=ROOT, check=True, timeout=120)
    alone, first, second = (torch.load(tmp_path / f"{name}.pt") for name in ("0-of-1", "0-of-2", "1-of-2"))
    # Both sum the same terms in float32 (unit roundoff 6e-8) in another order, over 8 steps.
    assert first["losses"] == pytest.approx(alone["losses"], rel=1e-5)
    assert first["losses"] == second["losses"]
    assert alone["losses"][-1] < 0.9 * alone["losses"][0]
    for key, value in alone["weights"].items():
        # SGD at 0.2 with momentum 0.9 moves a weight by up to twice a gradient's rounding a step; 2.3e-6 on a Xeon.
        torch.testing.assert_close(first["weights"][key], value, rtol=1e-4, atol=1e-5)
        assert torch.equal(first["weights"][key], second["weights"][key])
