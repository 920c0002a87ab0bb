"""Training in one process, at once and without checkpoints: how an audit's own networks learn."""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.optim import Optimizer

from prichexy.config import StageConfig
from prichexy.training.batches import Batches
from prichexy.training.samples import Reader, Samples, epoch_order, training_shares, validation_shares
from prichexy.training.schedule import EarlyStopping, learning_rate_decay


class Ended(NamedTuple):
    """How a training ended.

    Attributes:
        epochs: trained, the last ones in vain where it stopped early.
        loss: the lowest of validation, whose weights the network has.
    """

    epochs: int
    loss: float


def train_in_process(
    network: nn.Module,
    optimiser: Optimizer,
    training: Samples[Any],
    validation: Samples[Any],
    step: Callable[[Any, int], object],
    evaluate: Callable[[Batches[Any]], float],
    settings: StageConfig,
    seed: int,
) -> Ended:
    """Train until the validation loss stalls, or the epochs are over; the network gets the weights of the lowest.

    Args:
        network: on its device.
        optimiser: of its parameters.
        training: samples to learn from.
        validation: samples to choose by.
        step: one update with a batch; its second argument is the step's number.
        evaluate: the validation loss of batches.
        settings: epochs, batch, patience and decay.
        seed: of the order of samples.

    Raises:
        NonFiniteLossError: a loss became NaN or infinite.
    """
    decay = learning_rate_decay(optimiser, settings.epochs, settings.cosine_decay, settings.decay_patience)
    stopping = EarlyStopping(settings.patience or settings.epochs)
    best: dict[str, Tensor] = {}
    epoch = 0
    while epoch < settings.epochs and not stopping.stop:
        samples = training.in_epoch(epoch)
        shares = training_shares(epoch_order(samples.count, seed, epoch), settings.batch, rank=0, workers=1)
        for number, batch in enumerate(Reader(samples, shares)):
            step(batch, epoch * len(shares) + number)
        epoch += 1
        held_out = validation_shares(validation.count, settings.batch, rank=0, workers=1)
        loss = evaluate(Reader(validation, held_out))
        if loss < stopping.lowest:
            best = {name: value.detach().clone() for name, value in network.state_dict().items()}
        stopping.update(loss)
        if decay is not None:
            decay.step(loss)
    network.load_state_dict(best)
    return Ended(epoch, stopping.lowest)
