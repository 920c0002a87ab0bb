"""The epochs of a stage in one process, and in two: order of samples, going on, keeping, stopping."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from prichexy.cohort.table import open_table
from prichexy.config import StorageConfig, TrainConfig
from prichexy.lake.storage import Store
from prichexy.networks.classifier import Classifier
from prichexy.training.checkpoints import Checkpoints, below
from prichexy.training.compute import NonFiniteLossError
from prichexy.training.epochs import Course, Stage, train_stage
from prichexy.training.samples import Reader, Samples, epoch_order, training_shares, validation_shares
from prichexy.training.seeds import seed_everything
from prichexy.training.stages import Inputs, StageName, make_stage
from prichexy.training.world import World
from tests.training.phantom_table import TINY, phantom_table

ROOT = Path(__file__).resolve().parents[2]
TIMINGS = ("images_per_second", "train_seconds", "data_wait_share")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> str:
    return phantom_table(tmp_path_factory.mktemp("table") / "table")


def ready(table: str, run: Path, name: StageName, **changes: Any) -> tuple[Stage[Any], Checkpoints]:
    config = TrainConfig.model_validate({"table": table, "storage_path": str(run), **TINY, **changes})
    seed_everything(config.seed)
    store = Store(str(run))
    stage = make_stage(name, Inputs(config, open_table(table, StorageConfig()), store, World()))
    return stage, Checkpoints(below(store, name))


def trained(table: str, run: Path, name: StageName, **changes: Any) -> list[dict[str, float]]:
    stage, checkpoints = ready(table, run, name, **changes)
    train_stage(stage, World(), checkpoints, 5)
    return losses(checkpoints)


def losses(checkpoints: Checkpoints) -> list[dict[str, float]]:
    history = checkpoints.read_history()
    return [{name: value for name, value in entry.items() if name not in TIMINGS} for entry in history]


def test_the_shares_of_two_workers_join_to_those_of_one() -> None:
    order = epoch_order(70, seed=5, epoch=2)
    assert sorted(order) == list(range(70))
    assert not np.array_equal(order, epoch_order(70, seed=5, epoch=3))
    alone = training_shares(order, 16, 0, 1)
    assert [len(share) for share in alone] == [16, 16, 16, 16]
    for joined, even, odd in zip(
        alone, training_shares(order, 16, 0, 2), training_shares(order, 16, 1, 2), strict=True
    ):
        assert np.array_equal(joined[::2], even)
        assert np.array_equal(joined[1::2], odd)
    assert [len(share) for share in training_shares(order[:7], 16, 1, 2)] == [3]
    assert sorted(np.concatenate([*validation_shares(7, 4, 0, 2), *validation_shares(7, 4, 1, 2)])) == list(range(7))


def test_a_reader_gives_every_batch_in_order_and_measures_its_waiting() -> None:
    import time

    def slow(rows: np.ndarray) -> Any:
        time.sleep(0.05)
        return rows

    reader = Reader(Samples(6, slow), [np.array([1, 2]), np.array([3, 4]), np.array([5])])
    assert [list(batch) for batch in reader] == [[1, 2], [3, 4], [5]]
    assert 0.1 < reader.waited < 1
    assert list(Reader(Samples(0, slow), [])) == []


@pytest.mark.parametrize("name", ["classifier", "verifier", "pretraining"])
def test_losses_fall(table: str, tmp_path: Path, name: StageName) -> None:
    settings = {**TINY[name], "epochs": 4}  # type: ignore[dict-item]
    history = trained(table, tmp_path, name, **{name: settings})
    assert [entry["epoch"] for entry in history] == [1, 2, 3, 4]
    assert history[-1][f"train/{name}"] < 0.97 * history[0][f"train/{name}"]
    assert Checkpoints(Store(str(tmp_path / name))).read_lowest(
        name, next(iter(ready(table, tmp_path, name)[0].networks))
    )


def test_a_stopped_run_goes_on_as_if_it_had_not_been(table: str, tmp_path: Path) -> None:
    decay = {**TINY["adversarial"], "epochs": 3, "decay_patience": 0, "patience": 9}  # type: ignore[dict-item]
    undisturbed = trained(table, tmp_path / "a", "adversarial", adversarial=decay)
    assert len(undisturbed) == 3
    stage, checkpoints = ready(table, tmp_path / "b", "adversarial", adversarial=decay)
    with pytest.raises(KeyboardInterrupt):  # in the middle of the second epoch
        train_stage(replace(stage, step=interrupted(stage.step, 5)), World(), checkpoints, 5)
    assert checkpoints.epochs() == [1]
    assert trained(table, tmp_path / "b", "adversarial", adversarial=decay) == undisturbed
    for network in stage.networks:
        whole = Checkpoints(Store(str(tmp_path / "a" / "adversarial"))).read_lowest("total", network)
        again = checkpoints.read_lowest("total", network)
        assert whole is not None
        assert again is not None
        assert all(torch.equal(whole[key], again[key]) for key in whole)


def test_a_verifier_that_compares_whole_batches_goes_on_as_if_it_had_not_been_stopped(
    table: str, tmp_path: Path
) -> None:
    changes = {"compare": "batch", "augmentation": 1.0, "optimiser": "adamw", "cosine_decay": True, "epochs": 4}
    settings = {**TINY["verifier"], **changes, "batch": 8}  # type: ignore[dict-item]
    undisturbed = trained(table, tmp_path / "a", "verifier", verifier=settings)
    rates = [entry["learning_rate/verifier"] for entry in undisturbed]
    assert rates == pytest.approx([1e-3, 1e-3 * (2 + 2**0.5) / 4, 5e-4, 1e-3 * (2 - 2**0.5) / 4])
    stage, checkpoints = ready(table, tmp_path / "b", "verifier", verifier=settings)
    steps = stage.training.count // 8
    assert steps >= 2
    with pytest.raises(KeyboardInterrupt):  # in the middle of the third epoch
        train_stage(replace(stage, step=interrupted(stage.step, 2 * steps + 1)), World(), checkpoints, 5)
    assert checkpoints.epochs() == [2, 1]
    assert trained(table, tmp_path / "b", "verifier", verifier=settings) == undisturbed
    whole = Checkpoints(Store(str(tmp_path / "a" / "verifier"))).read_lowest("verifier", "verifier")
    again = checkpoints.read_lowest("verifier", "verifier")
    assert whole is not None
    assert again is not None
    assert all(torch.equal(whole[key], again[key]) for key in whole)


MULTI_SCALE = {"kind": "multi-scale-field", "kept": 2, "detail": 0.5}


def classifier_file(folder: Path) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        save_file(Classifier("tiny").state_dict(), folder / "classifier.safetensors")
    return folder / "classifier.safetensors"


def test_a_generator_against_several_critics_goes_on_as_if_it_had_not_been_stopped(table: str, tmp_path: Path) -> None:
    file = classifier_file(tmp_path)
    own = {"epochs": 3, "batch": 8, "critics": ["tiny-narrow", "tiny"], "restart_every": 1}
    changes = {
        "generator": MULTI_SCALE,
        "classifier": {"backbone": "tiny", "weights": file},
        "multi_scale": {**own, "check_weights": file, "judge_weights": [file], "check_backbone": "tiny"},
    }
    undisturbed = trained(table, tmp_path / "a", "multi_scale", **changes)
    assert len(undisturbed) == 3
    assert {"train/critic_2_auc", "validation/correlation_auc", "validation/total"} <= set(undisturbed[0])
    for judge in ("check", "judge_1"):  # one file
        assert all(entry[f"validation/{judge}_auc"] == entry["validation/classifier_auc"] for entry in undisturbed)
    stage, checkpoints = ready(table, tmp_path / "b", "multi_scale", **changes)
    steps = stage.training.count // 8
    with pytest.raises(KeyboardInterrupt):  # in the middle of the third epoch, after both critics have started anew
        train_stage(replace(stage, step=interrupted(stage.step, 2 * steps + 1)), World(), checkpoints, 5)
    assert checkpoints.epochs() == [2, 1]
    assert trained(table, tmp_path / "b", "multi_scale", **changes) == undisturbed
    whole, again = (Checkpoints(Store(str(tmp_path / run / "multi_scale"))).read(3) for run in ("a", "b"))
    assert whole is not None
    assert again is not None
    networks, others = whole["training"]["networks"], again["training"]["networks"]
    assert set(networks) == {"generator", "critic_1", "critic_2"} == set(whole["training"]["optimisers"])
    for name, state in networks.items():
        assert all(torch.equal(value, others[name][key]) for key, value in state.items())


def test_one_critic_starts_anew_when_it_is_due(table: str, tmp_path: Path) -> None:
    changes = {
        "generator": MULTI_SCALE,
        "classifier": {"backbone": "tiny", "weights": classifier_file(tmp_path)},
        "multi_scale": {"batch": 8, "critics": ["tiny-narrow", "tiny"], "restart_every": 2},
    }
    stage, _ = ready(table, tmp_path, "multi_scale", **changes)
    assert stage.begin is not None

    def weights() -> list[torch.Tensor]:
        return [stage.networks[f"critic_{n}"].get_parameter("model.conv1.weight").detach().clone() for n in (1, 2)]

    first = weights()
    for epoch, anew in ((0, ()), (1, ()), (2, (0,)), (3, ()), (4, (1,)), (6, (0,))):
        before = weights()
        stage.begin(epoch)
        for number, (was, now) in enumerate(zip(before, weights(), strict=True)):
            assert torch.equal(was, now) is (number not in anew), (epoch, number)
            assert number not in anew or not torch.equal(now, first[number])


def test_the_last_networks_are_tested_where_the_last_are_kept(table: str, tmp_path: Path) -> None:
    for keep in ("latest", "total"):
        changes = {
            "generator": MULTI_SCALE,
            "classifier": {"backbone": "tiny", "weights": classifier_file(tmp_path)},
            "multi_scale": {"batch": 8, "critics": ["tiny-narrow"], "keep": keep},
        }
        stage, _ = ready(table, tmp_path, "multi_scale", **changes)
        assert stage.tests_last is (keep == "latest")
        validation = iter([{"total": value} for value in (0.1, 0.2)] + [{"total": 9.0}])
        shares = stage.networks["generator"].get_parameter("shares")
        found = []

        def evaluated(batches: Any, gather: Any) -> dict[str, float]:
            found.append(shares.tolist())  # noqa: B023
            return next(validation)  # noqa: B023

        def step(batch: Any, number: int) -> dict[str, float]:
            with torch.no_grad():
                shares.sub_(0.01)  # noqa: B023
            return {"total": 0.0}

        course = replace(stage.course, epochs=2)
        below_it = Checkpoints(below(Store(str(tmp_path)), keep))
        train_stage(replace(stage, step=step, evaluate=evaluated, course=course), World(), below_it, 5)
        assert found[2] == (found[1] if keep == "latest" else found[0])


def test_pairs_are_changed_where_the_settings_say_so(table: str, tmp_path: Path) -> None:
    settings = {**TINY["verifier"], "augmentation": 1.0}  # type: ignore[dict-item]
    changed = ready(table, tmp_path, "verifier", verifier=settings)[0]
    plain = ready(table, tmp_path, "verifier")[0]
    at = np.arange(4)
    assert plain.training.load(at).first.dtype == torch.uint8
    assert torch.equal(plain.training.in_epoch(0).load(at).first, plain.training.in_epoch(1).load(at).first)
    images = [changed.training.in_epoch(epoch).load(at).first for epoch in (0, 1, 1)]
    assert not torch.equal(images[0], images[1])
    assert torch.equal(images[1], images[2])
    assert changed.validation.load(at).first.dtype == torch.uint8  # only what is learned from is changed


def interrupted(step: Callable[[Any, int], dict[str, float]], at: int) -> Callable[[Any, int], dict[str, float]]:
    def until(batch: Any, number: int) -> dict[str, float]:
        if number == at:
            raise KeyboardInterrupt
        return step(batch, number)

    return until


@pytest.mark.parametrize("kept_bytes", [0, 10, -1])
def test_a_checkpoint_that_is_not_whole_is_left_out(table: str, tmp_path: Path, kept_bytes: int) -> None:
    undisturbed = trained(table, tmp_path / "a", "verifier")
    trained(table, tmp_path / "b", "verifier")
    latest = tmp_path / "b" / "verifier" / "epoch-00002.ckpt"
    whole = latest.read_bytes()
    latest.write_bytes(whole[:kept_bytes])
    checkpoints = Checkpoints(Store(str(tmp_path / "b" / "verifier")))
    found = checkpoints.latest()
    assert found is not None
    assert found[0] == 1
    assert trained(table, tmp_path / "b", "verifier") == undisturbed
    assert checkpoints.read(2) is not None


def test_only_the_last_two_checkpoints_are_kept(table: str, tmp_path: Path) -> None:
    trained(table, tmp_path, "pretraining", pretraining={**TINY["pretraining"], "epochs": 4})  # type: ignore[dict-item]
    assert Checkpoints(Store(str(tmp_path / "pretraining"))).epochs() == [4, 3]


def test_a_loss_that_is_no_number_stops_with_step_and_learning_rate(table: str, tmp_path: Path) -> None:
    stage, checkpoints = ready(table, tmp_path, "verifier", verifier={**TINY["verifier"], "learning_rate": 1e30})  # type: ignore[dict-item]
    with pytest.raises(
        NonFiniteLossError, match=r"the verifier loss is not finite at step \d+ \(learning rate 1e\+30\)"
    ):
        train_stage(stage, World(), checkpoints, 5)


def test_training_stops_early_where_validation_stalls(tmp_path: Path) -> None:
    values = iter([3.0, 2.0, 2.5, 2.5, 9.0, 9.0])
    network = torch.nn.Linear(1, 1)
    stage: Stage[Any] = Stage(
        "x",
        {"x": network},
        {"x": torch.optim.SGD(network.parameters(), lr=1.0)},
        Samples(4, lambda rows: rows),  # type: ignore[arg-type,return-value]
        Samples(4, lambda rows: rows),  # type: ignore[arg-type,return-value]
        None,
        lambda batch, step: {"x": 0.0},
        lambda batches, gather: {"x": next(values)},
        watched="x",
        kept=("x",),
        course=Course(epochs=6, batch=2, patience=2, decay_patience=0),
    )
    checkpoints = Checkpoints(Store(str(tmp_path)))
    train_stage(stage, World(), checkpoints, 0)
    history = checkpoints.read_history()
    assert [entry["validation/x"] for entry in history] == [3.0, 2.0, 2.5, 2.5]
    assert [entry["learning_rate/x"] for entry in history] == [1.0, 1.0, 1.0, 0.1]
    train_stage(stage, World(), checkpoints, 0)  # a stage that has stopped stays so
    assert len(checkpoints.read_history()) == 4


def test_two_gloo_workers_learn_what_one_does_from_the_joined_batch(table: str, tmp_path: Path) -> None:
    def command(rank: int, size: int) -> list[str]:
        places = [str(tmp_path / "meeting"), table, str(tmp_path / f"by-{size}")]
        return [sys.executable, "-m", "tests.training.gloo_workers", str(rank), str(size), *places]

    workers = [subprocess.Popen(command(rank, 2), cwd=ROOT) for rank in range(2)]
    assert [worker.wait(timeout=120) for worker in workers] == [0, 0]
    subprocess.run(command(0, 1), cwd=ROOT, check=True, timeout=120)
    one, two = (losses(Checkpoints(Store(str(tmp_path / f"by-{size}")))) for size in (1, 2))
    assert len(one) == 3
    for alone, shared in zip(one, two, strict=True):
        # Both sum the same terms in float32 (unit roundoff 6e-8) in another order: a few roundings in 12 steps; 6e-8
        # was measured.
        assert shared == pytest.approx(alone, rel=1e-6)
