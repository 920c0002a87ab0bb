"""Whether a verdict allows a model: the gate's question, asked by promotion and again before publishing."""

from typing import Literal

from prichexy.errors import PrichexyError
from prichexy.verdict.record import AuditRecord, ModelUnderAudit

RefusalKind = Literal[
    "missing", "altered", "key", "schema", "version", "kind", "operator", "precision", "settings", "weights", "failed"
]


class VerdictError(PrichexyError):
    """There is no verdict that allows what was asked for (exit code 1).

    Attributes:
        kind: what is wrong with the verdict, in a word.
    """

    def __init__(self, kind: RefusalKind, sentence: str) -> None:
        super().__init__(kind, sentence)  # both, so that it survives pickling
        self.kind = kind
        self.sentence = sentence

    def __str__(self) -> str:
        return self.sentence


def require_passing(record: AuditRecord, model: ModelUnderAudit) -> None:
    """Refuse a verdict that is of another model, or is no.

    Args:
        record: as `prichexy.verdict.opened` gave it.
        model: what is to be promoted or published with, as it was fetched.

    Raises:
        VerdictError: one sentence on the first thing that differs, or on why the verdict is no.
    """
    there, again = record.model, f"run `prichexy audit {model.uri}`"
    if (there.name, there.version) != (model.name, model.version):
        raise VerdictError("version", f"the verdict on record for {model.uri} is that of {there.uri}: {again}")
    if there.kind != model.kind:
        raise VerdictError("kind", f"{model.uri} is a {model.kind}, but was audited as a {there.kind}: {again}")
    named: tuple[tuple[RefusalKind, str], ...] = (("operator", "operator"), ("precision", "precision"))
    for kind, setting in named:
        if there.settings.get(setting) != model.settings.get(setting):
            raise VerdictError(
                kind,
                f"{model.uri} was audited with {setting} {there.settings.get(setting)}, "
                f"but has {setting} {model.settings.get(setting)}: {again}",
            )
    if there.settings != model.settings:
        every = there.settings.keys() | model.settings.keys()
        differing = sorted(name for name in every if there.settings.get(name) != model.settings.get(name))
        raise VerdictError(
            "settings", f"{model.uri} was audited with other settings (differing: {', '.join(differing)}): {again}"
        )
    if there.fingerprint != model.fingerprint:
        raise VerdictError("weights", f"the weights of {model.uri} are not those that were audited: {again}")
    if not record.verdict.passed:
        raise VerdictError(
            "failed",
            f"{model.uri} failed its audit: {record.verdict.reasons[0].removesuffix('.')}; choose another",
        )
