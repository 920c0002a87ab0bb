"""Settings that several commands share."""

import os
import posixpath
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

SECRET_VARIABLE = "PRICHEXY_SECRET_FILE"


class Settings(BaseModel):
    """Base of all settings: unknown keys are errors and values don't change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class StorageConfig(Settings):
    """How object storage is reached; credentials come from the usual AWS variables, profile or instance role."""

    # Read here, at the edge: workers on other nodes don't have the submitter's environment.
    endpoint_url: str | None = Field(
        default_factory=lambda: os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"),
        description="S3 endpoint; AWS_ENDPOINT_URL when unset",
    )
    region: str | None = Field(
        default_factory=lambda: os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"),
        description="S3 region; AWS_DEFAULT_REGION when unset",
    )
    profile: str | None = Field(None, description="profile in the AWS credentials file")
    anonymous: bool = Field(False, description="read a public bucket without credentials")
    attempts: int = Field(5, ge=1, le=20, description="tries of one read or write before the job stops")
    connections: int = Field(16, ge=1, le=256, description="concurrent reads of one worker")


class RayConfig(Settings):
    """Where the job runs."""

    address: str | None = Field(
        None, description="Ray cluster; RAY_ADDRESS when unset, and a local Ray when there is neither"
    )
    num_cpus: int | None = Field(None, ge=1, description="cores of a local Ray; all of the machine's when unset")
    actors: int | None = Field(None, ge=1, description="generator actors; one a GPU, or one a core, when unset")
    wait_cpus: int | None = Field(
        None, ge=1, description="cores to ask a cluster that scales by itself for, and to wait for, before work begins"
    )
    wait_gpus: int | None = Field(None, ge=1, description="the same for GPUs, each with a core of its node")
    wait_seconds: int = Field(1800, ge=1, description="longest wait for them")


class LimitsConfig(Settings):
    """What is refused before it is decoded, and what decoding may take."""

    min_side: int = Field(64, ge=16, description="shortest side of an image, in pixels")
    max_pixels: int = Field(100_000_000, ge=65_536, description="pixels of one image (decompression bombs)")
    max_bytes: int = Field(1 << 30, ge=1024, description="bytes of one file")
    memory: int = Field(8 << 30, ge=1 << 28, description="bytes that `anonymize` may allocate for one file, on Linux")
    seconds: int = Field(300, ge=1, description="longest time that `anonymize` may take to decode one file")


class StoragePlace(Settings):
    """Commands that only read a destination."""

    storage: StorageConfig = Field(default_factory=StorageConfig)


def secret_file(configured: Path | None) -> Path | None:
    """The secret's file: as configured, or as the environment names it."""
    named = os.environ.get(SECRET_VARIABLE)
    return configured or (Path(named) if named else None)


def resolved(place: str) -> str:
    """A place in one spelling, ending in a slash, so that one place within another is seen."""
    scheme, separator, path = place.partition("://")
    if separator and scheme != "file":
        return f"{scheme}://{posixpath.normpath(path)}/"
    return os.path.realpath(path or place).rstrip("/") + "/"
