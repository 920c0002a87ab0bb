"""What a batch of images says about patients when each image is compared with every other one.

A step of P pairs compares P times; the 2P images of P patients can be compared P (2P - 1) times for the same
convolutions, nearly all with strangers. Where patients are few that is what a verifier learns most from.

Shape suffixes: N images of all workers, 2P or more images of this one, E embedding.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from prichexy.training.world import World


def contrast_loss(logits_NN: Tensor, patients_N: Tensor) -> Tensor:
    """Mean of two losses of a batch: of each pair's sign, and of finding each image's patient among the others.

    The first is the verifier's binary cross entropy, same-patient pairs and strangers weighted half each, so that the
    logits mean what they mean with balanced pairs. The second is the supervised contrastive loss (Khosla et al.,
    arXiv 2004.11362, equation 2) with the logits for similarities: the cross entropy of an image's own patient among
    all other images.

    Args:
        logits_NN: of each image with each; its diagonal is not looked at.
        patients_N: whose the images are.

    Returns:
        A scalar, at least 0, with gradients to the logits.
    """
    alike_NN = patients_N[:, None] == patients_N[None]
    itself_NN = torch.eye(len(patients_N), dtype=torch.bool, device=logits_NN.device)
    same_NN, strangers_NN = alike_NN & ~itself_NN, ~alike_NN
    signs = _mean(F.softplus(-logits_NN), same_NN) / 2 + _mean(F.softplus(logits_NN), strangers_NN) / 2
    others_NN = logits_NN.masked_fill(itself_NN, -torch.inf)
    found = -_mean(logits_NN - torch.logsumexp(others_NN, dim=1, keepdim=True), same_NN)
    return (signs + found) / 2


def _mean(values_NN: Tensor, chosen_NN: Tensor) -> Tensor:
    """Mean of the chosen values; 0 where none is."""
    return (values_NN * chosen_NN).sum() / chosen_NN.sum().clamp(min=1)


def joined(embeddings_NE: Tensor, world: World) -> Tensor:
    """Embeddings of all workers' images, rows as `World.gather` orders them; gradients flow to this worker's.

    Each worker computes the loss of the whole batch, and its embeddings get the gradient of that loss. Averaged by
    DDP, the parameters' gradients would be a worker's share of the sum: hence the factor. What the loss uses beside
    the embeddings (the head) has the whole gradient on every worker, whose average is the same.
    """
    if world.size == 1:
        return embeddings_NE
    own_NE = embeddings_NE.clone()
    own_NE.register_hook(lambda gradient: gradient * world.size)  # type: ignore[no-untyped-call]
    rows = torch.arange(len(own_NE), device=own_NE.device) * world.size + world.rank
    return world.gather(embeddings_NE.detach()).index_copy(0, rows, own_NE)
