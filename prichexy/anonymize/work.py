"""What travels between the stages of the job, and what each of its workers knows."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np
import pyarrow as pa

from prichexy.anonymize.spent import SPENT
from prichexy.cohort.catalog import Catalog
from prichexy.config import DeidConfig, StorageConfig, TransferSyntax
from prichexy.deid import LinkRecipient, ProfileOptions, Pseudonyms
from prichexy.errors import PrichexyError, Quarantined
from prichexy.imaging import DecodeLimits
from prichexy.lake.identifiers import profile_options
from prichexy.lake.job import Job
from prichexy.lake.shards import DICOM_FILE, HEADER_COLUMNS, PUBLISHED, QUARANTINE

P = ParamSpec("P")
R = TypeVar("R")

SMALL = 256
"""Side of the images published with ``--resolution 256``, in pixels."""

FACTS = pa.schema(
    [
        *(PUBLISHED.field(name) for name in ("image_id", "patient_id", "view", "laterality", "findings")),
        *HEADER_COLUMNS,
        *(QUARANTINE.field(name).with_nullable(True) for name in QUARANTINE.names),
        pa.field("height", pa.int32()),
        pa.field("width", pa.int32()),
        pa.field("bit_depth", pa.int8()),
        pa.field("covered", pa.bool_()),
        pa.field("link", pa.binary()),
    ]
)
"""`covered`: whether burned-in text was covered; `link`: the row's entry in the link table, sealed."""
_HEADER = pa.field("header", pa.binary())
INGESTED = pa.schema(
    [*FACTS, _HEADER, pa.field("pixels", pa.large_binary()), pa.field("thumbnail", pa.binary()), SPENT]
)
"""`header`: the de-identified one, for a DICOM file; `pixels`: H x W grey levels at publishing resolution, without
burned-in text; `thumbnail`: the same at the network's, null where that is equal."""
OBFUSCATED = pa.schema([*FACTS, _HEADER, pa.field("pixels", pa.large_binary()), SPENT])
ENCODED = pa.schema(
    [
        *FACTS,
        PUBLISHED.field("image").with_nullable(True),
        PUBLISHED.field("model_version"),
        DICOM_FILE,
        pa.field("dicom_sha256", pa.string()),
        pa.field("dicom_bytes", pa.int64()),
        SPENT,
    ]
)

Row = dict[str, Any]


@dataclass(frozen=True)
class Work:
    """What every worker needs to know; it holds the secret's place, never the secret."""

    catalog: Catalog
    storage: StorageConfig
    secret_file: Path
    limits: DecodeLimits
    allow_missing: bool
    network_size: int
    destination: str
    job: Job
    deid: DeidConfig
    transfer_syntax: TransferSyntax
    link_table: str | None
    link_recipient: LinkRecipient | None
    withdrawn: frozenset[str] = frozenset()
    """Keyed marks of patients and images that must not be published again (`prichexy.lake.withdrawal`)."""

    @property
    def model_version(self) -> str:
        """As each published row names it: name/version."""
        return self.job.model_version

    @property
    def needs_thumbnail(self) -> bool:
        """Whether the network sees another size than the one that is published."""
        return self.job.resolution == "native" or self.network_size != SMALL

    @property
    def needs_header(self) -> bool:
        """Whether anything of a DICOM header is published or linked."""
        return bool(self.job.columns or self.job.transfer_syntax or self.link_table)

    @property
    def profile(self) -> ProfileOptions:
        """The options of the header profile."""
        return profile_options(self.deid)


def guarded(stage: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Errors of a stage reach logs and driver without a library's message, which may quote a value or a path."""

    def decorate(work: Callable[P, R]) -> Callable[P, R]:
        @wraps(work)
        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                return work(*args, **kwargs)
            except PrichexyError as error:
                raise error from None
            except Exception as error:
                trace, place = error.__traceback__, "?"
                while trace is not None:
                    file = Path(trace.tb_frame.f_code.co_filename)
                    if "prichexy" in file.parts:
                        place = f"{file.name}:{trace.tb_lineno}"
                    trace = trace.tb_next
                raise PrichexyError(f"stage {stage} failed with {type(error).__name__} at {place}") from None

        return run

    return decorate


def set_aside(row: Row, error: Quarantined) -> Row:
    """All that is left of a row that is not published: its ids, and why."""
    why = {"stage": error.stage, "reason": error.reason, "message": error.message}
    return {"row_id": row["row_id"], "image_id": row["image_id"], **why}


def grey_levels(data: pa.Buffer, row: Row, height: int, width: int) -> "np.ndarray[Any, Any]":
    """The pixels of a row from their bytes: (H, W), uint8 at depth 8, else uint16; read-only."""
    return np.frombuffer(data, np.uint8 if row["bit_depth"] == 8 else np.uint16).reshape(height, width)


@lru_cache(maxsize=1)
def pseudonyms(secret_file: Path) -> Pseudonyms:
    """Of the project's secret, which each worker reads once."""
    return Pseudonyms.from_file(secret_file)
