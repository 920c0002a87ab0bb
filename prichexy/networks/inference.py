"""Networks made ready for inference: same outputs to rounding, less work."""

import copy
from contextlib import AbstractContextManager

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fold_batch_norm(network: nn.Module) -> nn.Module:
    """Copy of a network in eval mode whose batch norms are folded into the convolutions before them.

    Only a batch norm that directly follows its convolution inside one ``nn.Sequential`` is folded, which is all of
    them in the generators here. The outputs differ from the original's by float32 rounding (about 1e-6).
    """
    folded = copy.deepcopy(network).eval().requires_grad_(False)
    for block in [module for module in folded.modules() if isinstance(module, nn.Sequential)]:
        for index in range(1, len(block)):
            before, norm = block[index - 1], block[index]
            if isinstance(before, nn.Conv2d | nn.ConvTranspose2d) and isinstance(norm, nn.BatchNorm2d):
                block[index - 1] = fuse_conv_bn_eval(before, norm, transpose=isinstance(before, nn.ConvTranspose2d))
                block[index] = nn.Identity()
    return folded.requires_grad_(False)


def exact_convolutions() -> AbstractContextManager[None]:
    """Within it a GPU computes convolutions in the precision of their tensors, and the same again each time.

    Unless told not to, it rounds the factors of float32 tensors to TF32 (10 bits). What is recorded and audited as
    float32 must be float32, and an image must give the same result again. Nothing changes on a CPU.
    """
    flags: AbstractContextManager[None] = torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True, allow_tf32=False
    )
    return flags
