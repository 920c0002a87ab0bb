"""Settings of the commands that publish: `catalog` and `anonymize`."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from prichexy.config.deidentification import DeidConfig, TransferSyntax
from prichexy.config.shared import SECRET_VARIABLE, LimitsConfig, RayConfig, Settings, StorageConfig, resolved

DEFAULT_MODEL = "models:/prichexy-net@champion"


class CatalogConfig(Settings):
    """`prichexy catalog`: lists a lake."""

    source: str = Field(description="folder or s3:// prefix of radiographs")
    out: str = Field(description="folder or prefix for the catalog; private: it names source files")
    labels: str | None = Field(None, description="CSV with NIH's columns (Image Index, Finding Labels, Patient ID)")
    exclude: tuple[str, ...] = Field((), description="glob patterns of paths to leave out, such as '*.csv'")
    since: str | None = Field(None, description="earlier catalog of this lake: list only what is new or changed since")
    storage: StorageConfig = Field(default_factory=StorageConfig)


class AnonymizeConfig(Settings):
    """`prichexy anonymize`: the main job."""

    source: str = Field(description="a lake (folder or s3:// prefix), or a catalog made by `prichexy catalog`")
    destination: str = Field(description="folder or s3:// prefix for the published shards")
    model: str = Field(DEFAULT_MODEL, description="models:/NAME/VERSION, models:/NAME@ALIAS, or a model folder")
    secret_file: Path | None = Field(None, description=f"file with the project secret; {SECRET_VARIABLE} when unset")
    resolution: Literal["native", "256"] = Field("native", description="publish at native size, or at 256 x 256")
    encoding: Literal["png", "jpeg-xl"] = Field(
        "png", description="of the published images, lossless: png, or jpeg-xl where its readers have that"
    )
    allow_unaudited: bool = Field(False, description="publish with a model that has no passing audit; is stamped")
    deid: DeidConfig = DeidConfig()
    also_dicom: bool = Field(False, description="write a de-identified DICOM file beside each row that comes from one")
    transfer_syntax: TransferSyntax = Field("uncompressed", description="of these files; each is lossless")
    link_table: str | None = Field(
        None, description="private place for the link table (source, old and new ids), encrypted; none when unset"
    )
    link_recipient: Path | None = Field(
        None, description="public key for it (`prichexy link keygen`); only its owner's secret key reads the table"
    )
    work_dir: str | None = Field(
        None, description="private place for the job's catalog; DESTINATION.private for a local destination"
    )
    increment: bool = Field(
        False, description="publish what is new or changed in the lake since the last snapshot, as a new one"
    )
    labels: str | None = Field(None, description="as in `prichexy catalog`, when SOURCE is a lake")
    exclude: tuple[str, ...] = Field((), description="as in `prichexy catalog`, when SOURCE is a lake")
    allow_missing: bool = Field(
        False, description="quarantine files that vanish after listing, instead of stopping (an unmounted lake?)"
    )
    rows_per_shard: int | None = Field(
        None, ge=1, le=65_536, description="images a shard: 128 at native size, 1,024 at 256, when unset"
    )
    chunk: int | None = Field(
        None, ge=1, le=1024, description="images that travel together between stages: 16, or 64 at 256, when unset"
    )
    tracking_uri: str | None = Field(None, description="MLflow; MLFLOW_TRACKING_URI or sqlite:///mlflow.db when unset")
    price_per_hour: float | None = Field(
        None, ge=0, description="of the whole cluster, in any currency: for the cost told in plan and report"
    )
    limits: LimitsConfig = LimitsConfig()
    storage: StorageConfig = Field(default_factory=StorageConfig)
    ray: RayConfig = RayConfig()

    @model_validator(mode="after")
    def _places_differ(self) -> Self:
        inner, outer = resolved(self.source), resolved(self.destination)
        if inner.startswith(outer) or outer.startswith(inner):
            raise ValueError("source and destination must not lie within each other")
        if self.work_dir is not None and resolved(self.work_dir).startswith(outer):
            raise ValueError("work_dir names source files and must not lie within destination")
        if self.link_table is not None:
            link = resolved(self.link_table)
            if any(link.startswith(place) or place.startswith(link) for place in (inner, outer)):
                raise ValueError("link_table leads back to patients: keep it apart from source and destination")
        if (self.link_table is None) != (self.link_recipient is None):
            raise ValueError("link_table and link_recipient belong together: where to, and for whom")
        return self

    @property
    def shard_rows(self) -> int:
        """Rows of a full shard."""
        return self.rows_per_shard or (128 if self.resolution == "native" else 1024)

    def chunk_of(self, images: int) -> int:
        """How many images travel together in a job of so many.

        Each chunk costs Ray and the driver the same, so small images go in larger ones, unless they are too few to
        keep all actors busy.
        """
        small = self.resolution == "256" and images >= 1024
        return self.chunk or (64 if small else 16)
