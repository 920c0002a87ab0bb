"""Attackers, each kind in a small file, behind the one interface of `prichexy.audit.attackers.protocol`."""

from collections.abc import Mapping

from prichexy.audit.attackers.components import WhitenedComponents
from prichexy.audit.attackers.correlation import Correlation, HighPass
from prichexy.audit.attackers.findings import Findings
from prichexy.audit.attackers.fusion import fused
from prichexy.audit.attackers.inversion import Inversion
from prichexy.audit.attackers.linear_metric import LinearMetric
from prichexy.audit.attackers.protocol import Attacker, Comparer
from prichexy.audit.attackers.retrieval import Retrieval, retrieval
from prichexy.audit.attackers.turned import turned
from prichexy.audit.attackers.verifier import TrainedVerifier, VerifierAsTrained
from prichexy.audit.attackers.verifier_training import PUBLISHED, VerifierRecipe

__all__ = [
    "ATTACKERS",
    "Attacker",
    "Comparer",
    "Retrieval",
    "VerifierRecipe",
    "attackers_with",
    "fused",
    "retrieval",
    "turned",
]


def attackers_with(recipe: VerifierRecipe) -> Mapping[str, Attacker]:
    """All attackers by name, in the order of reports; `fused` is what combines their scores.

    Args:
        recipe: how the verifiers are trained.
    """
    everyone: tuple[Attacker, ...] = (
        Correlation(16),
        Correlation(64),
        Correlation(16, less_mean=True),
        Correlation(64, less_mean=True),
        WhitenedComponents(),
        HighPass(),
        HighPass(less_mean=True),
        Findings(),
        LinearMetric(),
        VerifierAsTrained(),
        TrainedVerifier("retrained", recipe),
        TrainedVerifier("adaptive", recipe),
        Inversion(),
    )
    return {attacker.name: attacker for attacker in everyone}


ATTACKERS = attackers_with(PUBLISHED)
"""All attackers by name, with the paper's recipe."""
