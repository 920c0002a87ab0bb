"""One step of the generator's pretraining: its images shall be the originals (arXiv 2209.11531, section 2.3).

Shape suffixes: N batch, 1 the grey channel.
"""

from torch import Tensor, nn
from torch.optim import Optimizer

from prichexy.obfuscation.settings import ObfuscationSettings
from prichexy.training.batches import Batches, LabelledImages, grey
from prichexy.training.compute import Compute, descend, device_of
from prichexy.training.evaluation import Gather, alone, collect, finite_metrics
from prichexy.training.generation import obfuscated
from prichexy.training.losses import squared_error

Losses = dict[str, float]


def pretraining_step(
    images_N1HW: Tensor,
    generator: nn.Module,
    optimiser: Optimizer,
    settings: ObfuscationSettings,
    compute: Compute,
    step: int = 0,
) -> Losses:
    """Mean squared error of a batch, ``pretraining``, after which the generator has been updated once.

    Args:
        images_N1HW: float32 in [0, 1] or uint8, shape (N, 1, H, W), on any device.
        generator: flow-field or Privacy-Net generator; it is put into train mode.
        optimiser: of its parameters.
        settings: kind, mu and operator.
        compute: precision and clipping.
        step: number of the step, for the error.

    Raises:
        NonFiniteLossError: if the loss is NaN or infinite; nothing has been updated.
    """
    images_N1HW = grey(images_N1HW, device_of(generator))
    generator.train()
    loss = squared_error(obfuscated(generator, images_N1HW, settings, compute), images_N1HW).mean()
    return {"pretraining": descend(loss, "pretraining", generator, optimiser, compute, step)}


def evaluate_pretraining(
    generator: nn.Module,
    batches: Batches[LabelledImages],
    settings: ObfuscationSettings,
    compute: Compute,
    gather: Gather = alone,
) -> Losses:
    """``pretraining``, the mean squared error on validation images; arguments as in `pretraining_step`.

    Raises:
        NonFiniteLossError: if the loss is NaN or infinite.
        UsageError: if there are no batches.
    """
    device = device_of(generator)

    def outputs(batch: LabelledImages) -> tuple[Tensor]:
        images_N1HW = grey(batch.images, device)
        return (squared_error(obfuscated(generator, images_N1HW, settings, compute), images_N1HW),)

    (errors_N,) = collect(batches, outputs, (generator,), gather)
    return finite_metrics({"pretraining": errors_N.mean()})
