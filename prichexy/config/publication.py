"""Settings of `publish`, which writes what stands beside the shards: card, metadata, checksums, page."""

import re
from pathlib import Path
from typing import Self

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression
from pydantic import Field, field_validator, model_validator

from prichexy.config.shared import SECRET_VARIABLE, Settings, StorageConfig

_PSEUDONYM = re.compile(r"[0-9a-f]{32}")
_VERSION = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?")


class SplitShares(Settings):
    """Shares of the patients, not of the images."""

    seed: int = Field(42, description="with the patient's pseudonym, decides the patient's split")
    train: float = Field(0.7, gt=0, le=1, description="share of the patients for training")
    validation: float = Field(0.1, ge=0, le=1, description="share of the patients for validation")
    test: float = Field(0.2, ge=0, le=1, description="share of the patients for the test")

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        if abs(self.train + self.validation + self.test - 1) > 1e-6:
            raise ValueError("train, validation and test must add up to 1")
        return self


class PublishConfig(Settings):
    """`prichexy publish`: dataset card, Croissant metadata, checksums, splits and a page, beside the shards."""

    destination: str = Field(description="folder or s3:// prefix of a finished publication")
    title: str | None = Field(None, description="what the data set is called")
    description: str | None = Field(None, description="what it is, in a paragraph")
    version: str | None = Field(None, description="MAJOR.MINOR.PATCH; SNAPSHOT.0.0 when unset")
    license: str | None = Field(None, description="SPDX identifier, such as CC-BY-4.0")
    license_file: Path | None = Field(None, description="text file of the licence, published as LICENSE")
    creators: tuple[str, ...] = Field((), description="who made it: people or institutions")
    contact: str | None = Field(None, description="whom to write to: an e-mail or web address")
    url: str | None = Field(None, description="web page of the data set")
    origin: str | None = Field(None, description="where and when the radiographs were taken, who labelled them and how")
    approval: str | None = Field(None, description="what allows the publication: ethics vote, consent, law")
    citation: str | None = Field(None, description="how to cite it; made of creators, title and version when unset")
    tags: tuple[str, ...] = Field((), description="further tags of the card")
    splits: bool = Field(False, description="write splits.parquet: train, validation and test, by patient")
    shares: SplitShares = SplitShares()
    small_cell: int = Field(
        5, ge=1, le=1000, description="counts of fewer patients than this are withheld; 1 withholds none"
    )
    show: tuple[str, ...] = Field((), description="ids of published images that the page may show")
    check: bool = Field(False, description="write nothing: say what is missing before going public")
    verify: bool = Field(True, description="with check: read every published byte, as `prichexy verify` does")
    secret_file: Path | None = Field(
        None, description=f"project secret, which proves the audit's seal; {SECRET_VARIABLE} when unset"
    )
    tracking_uri: str | None = Field(None, description="MLflow; MLFLOW_TRACKING_URI or sqlite:///mlflow.db when unset")
    storage: StorageConfig = Field(default_factory=StorageConfig)

    @field_validator("version", mode="before")
    @classmethod
    def _is_a_version(cls, given: object) -> object:
        if given is not None and not _VERSION.fullmatch(str(given)):
            raise ValueError("a version is MAJOR.MINOR.PATCH, such as 1.0.0")
        return given if given is None else str(given)

    @field_validator("license")
    @classmethod
    def _is_spdx(cls, given: str | None) -> str | None:
        try:
            return None if given is None else str(canonicalize_license_expression(given))
        except InvalidLicenseExpression:
            raise ValueError(
                "not an SPDX identifier (spdx.org/licenses); name a text as license_file instead"
            ) from None

    @field_validator("show")
    @classmethod
    def _names_images(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        if any(not _PSEUDONYM.fullmatch(image) for image in given):
            raise ValueError("images are named by their image_id, 32 hexadecimal digits")
        return tuple(dict.fromkeys(given))

    @field_validator("title", "description", "contact", "url", "origin", "approval", "citation")
    @classmethod
    def _says_something(cls, given: str | None) -> str | None:
        return (given.strip() or None) if given is not None else None
