"""What an obfuscator is made of, beside its weights; recorded with every model and in every manifest."""

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from prichexy.errors import UsageError
from prichexy.findings import FINDINGS
from prichexy.networks import flow_generator, privacy_net
from prichexy.networks.classifier import ClassifierBackbone
from prichexy.networks.deformation import Operator

Kind = Literal["flow-field", "privacy-net", "multi-scale-field", "dp-pix", "identity"]
Precision = Literal["float32", "bfloat16"]
Engine = Literal["torch", "winograd", "openvino", "cuda-graph"]

# The settings that each kind has, beside `image_size`, and their defaults: the published values, but for the
# operator, whose published form has a border artefact.
DEFAULTS: dict[str, dict[str, Any]] = {
    "flow-field": {"mu": 0.01, "operator": "corrected", "features": 32, "precision": "float32", "engine": "torch"},
    "privacy-net": {"features": 16, "precision": "float32", "engine": "torch"},
    "multi-scale-field": {
        "backbone": "densenet121",
        "coarse_px": 8.0,
        "detail": 1.0,
        "kept": 2,
        "code_noise": 0.0,
        "fields_px": (6.0, 3.0, 1.0),
        "exposure": 0.03,
        "contrast": 0.05,
    },
    "dp-pix": {"cell": 8, "epsilon": 0.1, "m": 1},
    "identity": {},
}

PIXELS = 256
"""Bounds of multi-scale-field are in pixels of an image of this side."""

KNOTS_PX = (64, 24, 8)
"""Pixels of 256 between the knots of multi-scale-field's three splines, the coarsest first."""

_SIDE_MULTIPLE = {"flow-field": flow_generator.SIDE_MULTIPLE, "privacy-net": privacy_net.SIDE_MULTIPLE}


class ObfuscationSettings(BaseModel):
    """Settings of one obfuscator. Those that its kind doesn't have are None, and an error when given.

    Attributes:
        kind: ``flow-field`` (PriCheXy-Net), ``privacy-net``, ``multi-scale-field``, ``dp-pix`` or ``identity``.
        image_size: side in pixels of the square images that the obfuscator works on; from 64, and a multiple of 16
            for flow-field, of 8 for privacy-net.
        mu: flow-field's degree of deformation, 0 < mu <= 0.1; the paper uses 0.001, 0.005 and 0.01.
        operator: how flow-field makes a sampling grid, ``corrected`` or ``reference`` (the published one).
        features: filters of the network's first block; 32 (flow-field) and 16 (privacy-net) as published.
        precision: what the network computes in; images are deformed in float32 in any case.
        engine: what computes the network: ``torch``, on any machine; ``winograd`` (float32) and ``openvino``, on CPUs
            only; or ``cuda-graph``, on NVIDIA GPUs only, which no GPU has run yet. Part of what an audit is valid for,
            as the precision is.
        backbone: multi-scale-field's classifier of findings, which decides on the coarse appearance.
        coarse_px: sigma of the Gaussian that tells multi-scale-field's coarse appearance from detail, in pixels of
            256; 0 leaves the coarse appearance as it is.
        detail: share of the fine detail that multi-scale-field keeps, 0 to 1; where shares of frequency bands were
            learned, those are among its weights, and this is what they began at.
        kept: in how many numbers the classifier's outputs decide on the coarse appearance; 0: the cohort's mean.
        code_noise: standard deviation of the noise on them, in theirs.
        fields_px: largest velocity along an axis of multi-scale-field's three splines, in pixels of 256, the coarsest
            first; each at most a quarter of its knots' distance.
        exposure: largest change of multi-scale-field's smooth exposure field, of a grey range of 1, at most 0.5.
        contrast: largest relative change of its smooth contrast field, at most 0.5.
        cell: side b of dp-pix's cells in pixels, 1 to 256; the paper uses 1 to 8.
        epsilon: dp-pix's privacy budget, above 0; the paper uses 0.1.
        m: dp-pix's number of pixels by which neighbouring images differ; the paper uses 1.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind
    image_size: int = Field(default=256, ge=64, le=4096)
    mu: float | None = Field(default=None, gt=0, le=0.1, allow_inf_nan=False)
    operator: Operator | None = None
    features: int | None = Field(default=None, ge=1, le=256)
    precision: Precision | None = None
    engine: Engine | None = None
    backbone: ClassifierBackbone | None = None
    coarse_px: float | None = Field(default=None, ge=0, le=64, allow_inf_nan=False)
    detail: float | None = Field(default=None, ge=0, le=1, allow_inf_nan=False)
    kept: int | None = Field(default=None, ge=0, le=len(FINDINGS))
    code_noise: float | None = Field(default=None, ge=0, le=10, allow_inf_nan=False)
    fields_px: tuple[float, float, float] | None = None
    exposure: float | None = Field(default=None, ge=0, le=0.5, allow_inf_nan=False)
    contrast: float | None = Field(default=None, ge=0, le=0.5, allow_inf_nan=False)
    cell: int | None = Field(default=None, ge=1, le=256)
    epsilon: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    m: int | None = Field(default=None, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, given: Any) -> Any:
        """The kind's defaults filled in, and no setting of another kind."""
        if not isinstance(given, Mapping) or given.get("kind") not in DEFAULTS:
            return given  # the fields' own checks say what is wrong
        kind = given["kind"]
        stated = {name: value for name, value in given.items() if value is not None}
        others = {name for defaults in DEFAULTS.values() for name in defaults} - set(DEFAULTS[kind])
        irrelevant = sorted(others & set(stated))
        if irrelevant:
            raise ValueError(f"{', '.join(irrelevant)}: not a setting of kind '{kind}'; leave it out")
        return {**DEFAULTS[kind], **stated}

    @field_validator("fields_px", mode="before")
    @classmethod
    def _from_text(cls, given: Any) -> Any:
        """A registry's tags are text: "[6.0, 3.0, 1.0]"."""
        return given.strip("[]() ").split(",") if isinstance(given, str) else given

    @model_validator(mode="after")
    def _size_fits(self) -> Self:
        multiple = _SIDE_MULTIPLE.get(self.kind, 1)
        if self.image_size % multiple:
            raise ValueError(f"image_size: must be a multiple of {multiple} for kind '{self.kind}'")
        return self

    @model_validator(mode="after")
    def _precision_fits(self) -> Self:
        if self.engine == "winograd" and self.precision != "float32":
            raise ValueError("engine: winograd computes in float32 only")
        return self

    @model_validator(mode="after")
    def _fields_fit(self) -> Self:
        for bound, knots in zip(self.fields_px or (), KNOTS_PX, strict=False):
            if not 0 <= bound <= knots / 4:
                raise ValueError(f"fields_px: from 0 to {', '.join(str(knots // 4) for knots in KNOTS_PX)}, in order")
        if self.coarse_px == 0 and (self.kept or self.detail != 1):
            raise ValueError("coarse_px: 0 standardizes nothing, so detail must be 1 and kept 0")
        return self

    def recorded(self) -> dict[str, Any]:
        """The settings that this kind has, as JSON values; `parse_settings` takes them back.

        The engine is named where it is not torch: so models and verdicts from before there was another stay valid.
        """
        recorded = self.model_dump(mode="json", exclude_none=True)
        if recorded.get("engine") == "torch":
            del recorded["engine"]
        return recorded


def parse_settings(given: Mapping[str, Any]) -> ObfuscationSettings:
    """Settings out of names and values, as a configuration or a model's file gives them.

    Raises:
        UsageError: one sentence naming the first setting that is wrong, and why.
    """
    try:
        return ObfuscationSettings.model_validate(dict(given))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        reason = first["msg"].removeprefix("Value error, ")
        raise UsageError(f"obfuscation setting {where + ': ' if where else ''}{reason}") from None
