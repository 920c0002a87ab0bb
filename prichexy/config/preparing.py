"""Settings of `prepare`, which makes the training table."""

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from prichexy.config.shared import LimitsConfig, RayConfig, Settings, StorageConfig, resolved


class LabelColumns(Settings):
    """What the columns of a labels file are called; the defaults are NIH's."""

    image: str = Field("Image Index", description="file name of the image, without folders")
    findings: str = Field("Finding Labels", description="'|'-joined names of the 14 findings, or No Finding")
    patient: str = Field("Patient ID", description="whose image it is")
    follow_up: str = Field("Follow-up #", description="its number among the patient's images; may be absent")


class SplitConfig(Settings):
    """How patients are split: by a hash of seed and patient, or by official lists."""

    seed: int = Field(42, description="with the patient, decides the patient's split")
    train: float = Field(0.7, ge=0, le=1, description="share of the patients for training")
    validation: float = Field(0.1, ge=0, le=1, description="share of the patients for validation")
    test: float = Field(0.2, ge=0, le=1, description="share of the patients for the test; with lists, theirs")
    train_val_list: str | None = Field(None, description="official list of training and validation images, one a line")
    test_list: str | None = Field(None, description="official list of test images, one a line")

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        if abs(self.train + self.validation + self.test - 1) > 1e-6:
            raise ValueError("train, validation and test must add up to 1")
        if not self.train:
            raise ValueError("train must be above 0")
        if (self.train_val_list is None) != (self.test_list is None):
            raise ValueError("train_val_list and test_list are given together, or neither")
        return self


class PrepareConfig(Settings):
    """`prichexy prepare`: decodes a labelled lake into the training table."""

    catalog: str = Field(description="a catalog made by `prichexy catalog`")
    out: str = Field(description="folder or s3:// prefix for the table; private: it holds real radiographs")
    labels: str | None = Field(None, description="CSV of labels; the catalog's own when unset")
    columns: LabelColumns = LabelColumns()
    splits: SplitConfig = SplitConfig()
    size: int = Field(256, ge=64, le=1024, multiple_of=16, description="edge of the table's images, in pixels")
    allow_absent: bool = Field(False, description="go on when labels name images that the lake does not hold")
    secret_file: Path | None = Field(
        None, description="replace names and patients by pseudonyms under this secret; kept as they are when unset"
    )
    rows_per_part: int = Field(256, ge=1, le=16_384, description="images of one file of the table")
    limits: LimitsConfig = LimitsConfig()
    storage: StorageConfig = Field(default_factory=StorageConfig)
    ray: RayConfig = RayConfig()

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.rows_per_part * self.size**2 >= 1 << 31:  # a Parquet page's length is a signed 32-bit number
            raise ValueError(f"rows_per_part must be below {(1 << 31) // self.size**2} at size {self.size}")
        inner, outer = resolved(self.catalog), resolved(self.out)
        if inner.startswith(outer) or outer.startswith(inner):
            raise ValueError("catalog and out must not lie within each other")
        return self
