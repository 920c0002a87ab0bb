"""Attackers that compare two images by a verifier: the generator's own adversary, or one trained anew.

Shape suffixes: N image, U different image, P pair, Q query, G gallery image, E embedding, H height, W width.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from prichexy.audit.attackers.draws import fresh_draws
from prichexy.audit.attackers.embedding import once_each
from prichexy.audit.attackers.protocol import AnyEvidence, Scores
from prichexy.audit.attackers.verifier_training import PUBLISHED, VerifierRecipe, trained_verifier
from prichexy.audit.evidence import Evidence, Images
from prichexy.errors import UsageError
from prichexy.networks.verifier import Verifier
from prichexy.training.batches import grey
from prichexy.training.compute import device_of, evaluating

_BATCH = 64
_CELLS = 16_000_000
"""Numbers in memory at a time when all queries meet all of the gallery: 64 MB."""


@dataclass(frozen=True, eq=False)
class VerifierComparer:
    """A `Comparer` by a verifier's logits; each image is embedded once, on the verifier's device.

    Attributes:
        verifier: evaluated in eval mode, left in the mode that it was in.
        details: see `Comparer`.
    """

    verifier: Verifier
    details: Mapping[str, float] = field(default_factory=dict)

    def pair_scores(self, first_PHW: Images, second_PHW: Images) -> Scores:
        """Logit of each pair, (P,)."""
        first_UHW, first_P = once_each(first_PHW)
        second_UHW, second_P = once_each(second_PHW)
        with evaluating(self.verifier):
            first_UE, second_UE = self._embedded(first_UHW), self._embedded(second_UHW)
            return _numbers(self.verifier.compare(first_UE[first_P], second_UE[second_P])[:, 0])

    def similarity(self, queries_QHW: Images, gallery_GHW: Images) -> Scores:
        """Logit of each query with each gallery image, (Q, G)."""
        with evaluating(self.verifier):
            queries_QE, gallery_GE = self._embedded(queries_QHW), self._embedded(gallery_GHW)
            block = max(1, _CELLS // gallery_GE.numel())
            parts = torch.split(queries_QE, block)
            return np.concatenate([_numbers(self.verifier.compare_all(part_QE, gallery_GE)) for part_QE in parts])

    def _embedded(self, images_NHW: Images) -> Tensor:
        device = device_of(self.verifier)
        starts = range(0, len(images_NHW), _BATCH)
        blocks = (torch.from_numpy(np.array(images_NHW[start : start + _BATCH]))[:, None] for start in starts)
        return torch.cat([self.verifier.embed(grey(block, device)) for block in blocks])


def _numbers(logits: Tensor) -> Scores:
    return np.asarray(logits.double().cpu().numpy())


class VerifierAsTrained:
    """The verifier that the generator was trained against, as it is: it has never seen a published image."""

    name = "verifier-as-trained"
    description = "Uses the network that the anonymizer was trained to deceive, without training it further."
    seeded = False

    def applies(self, evidence: Evidence) -> bool:
        """Whether there is such a verifier."""
        return evidence.verifier is not None

    def fit(self, evidence: Evidence, seed: int, training_pairs: int | None = None) -> VerifierComparer:
        """A comparer by the evidence's verifier.

        Raises:
            UsageError: there is none.
        """
        if evidence.verifier is None:
            raise UsageError("verifier-as-trained needs the verifier that the model was trained against: give it")
        return VerifierComparer(evidence.verifier)


Geometry = Literal["retrained", "adaptive"]

_SEES: dict[Geometry, str] = {
    "retrained": "pairs of published images, as in the paper, then compares published images with originals",
    "adaptive": "pairs of a published image and an original, which is just what it is then asked about",
}


@dataclass(frozen=True)
class TrainedVerifier(AnyEvidence):
    """A verifier trained from its start on the training patients' published images.

    Of a keyed model it sees each of them as published with another key in every epoch (`DRAWS` in turn): whoever
    holds the model makes as many as he likes, and one key a picture could be learnt by heart.

    Attributes:
        geometry: what its training and validation pairs are made of; it is always tested published against original.
            ``retrained``: both published (the paper's attacker). ``adaptive``: published and original.
        recipe: how it is trained.
    """

    geometry: Geometry
    recipe: VerifierRecipe = PUBLISHED
    seeded = True

    @property
    def name(self) -> str:
        """``verifier-retrained`` or ``verifier-adaptive``."""
        return f"verifier-{self.geometry}"

    @property
    def description(self) -> str:
        """In plain words."""
        return f"Trains a network on {_SEES[self.geometry]}."

    def fit(self, evidence: Evidence, seed: int, training_pairs: int | None = None) -> VerifierComparer:
        """A comparer by a verifier trained on the training split, stopped by the validation split.

        Its details are ``training_pairs`` (fewer than asked for where the split has no more), ``epochs``,
        ``validation_loss`` (the lowest, whose weights are used) and ``versions`` of each training image.

        Raises:
            UsageError: the training split has no pairs, or the validation split's are of one kind or none.
            NonFiniteLossError: the training diverged.
        """
        draws = fresh_draws(evidence, seed, self.recipe.device)
        trained = trained_verifier(
            evidence.train,
            evidence.validation,
            self.geometry == "adaptive",
            self.recipe,
            seed,
            training_pairs,
            None if draws is None else draws.of_epoch,
        )
        details = {
            "training_pairs": float(trained.pairs),
            "epochs": float(trained.epochs),
            "validation_loss": trained.validation_loss,
            "versions": float(1 if draws is None else min(draws.count, trained.epochs)),
        }
        return VerifierComparer(trained.verifier, details)
