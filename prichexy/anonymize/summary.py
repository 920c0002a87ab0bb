"""What a run tells at its end."""

import time
from dataclasses import dataclass, field
from typing import Any

from prichexy.anonymize.report import Report
from prichexy.cohort.catalog import Catalog
from prichexy.lake.snapshots import jobs_of


@dataclass(frozen=True)
class Summary:
    """What a run of the job did, and what the destination holds.

    Attributes:
        destination: where the shards are.
        snapshot: which one readers see now; the figures below are of all that it holds.
        model: name/version, of its own job.
        audited: whether the model had a passing audit.
        audit_id: which; ``unaudited`` where there is none.
        new: source files of the snapshot's own catalog.
        rows: these, and those of earlier snapshots' catalogs.
        published: of them in shards.
        quarantined: of them in quarantine.
        replaced: of them published once and anew since, from a source file that changed.
        withdrawn: of them published once and taken out since.
        reasons: quarantined, by reason.
        shards: shards in the destination.
        resumed: shards that earlier runs had committed.
        seconds: of this run, planning and Ray's start included.
        images_per_second: of this run's images, from the first fetch to the last commit.
        bytes: of all data shards.
        text_covered: published images in which burned-in text was covered.
        dicom_files: written beside the shards.
        skipped: files of the lake that the catalog leaves out.
        gone: files published or quarantined earlier that the lake does not hold any more.
        catalog: the private catalog, which `prichexy quarantine` takes.
        report: where this run's time went; None where it had no image to do.
    """

    destination: str
    snapshot: int
    model: str
    audited: bool
    audit_id: str
    new: int
    rows: int
    published: int
    quarantined: int
    replaced: int
    withdrawn: int
    shards: int
    resumed: int
    seconds: float
    images_per_second: float
    bytes: int
    text_covered: int
    dicom_files: int
    skipped: int
    gone: int
    catalog: str
    reasons: dict[str, int] = field(default_factory=dict)
    report: Report | None = None


def summed_up(
    destination: str,
    manifest: dict[str, Any],
    catalog: Catalog,
    began: float,
    *,
    new: int,
    resumed: int,
    rate: float,
    report: Report | None = None,
) -> Summary:
    """The summary of a run.

    Args:
        destination: where the shards are.
        manifest: of the snapshot that readers see.
        catalog: of the job.
        began: on the monotonic clock.
        new: source files of the snapshot's own catalog.
        resumed: shards that earlier runs had committed.
        rate: images a second of this run.
        report: where its time went.
    """
    counts, job = manifest["counts"], jobs_of(manifest)[-1]
    return Summary(
        destination=destination,
        snapshot=manifest["snapshot"],
        model=job.model_version,
        audited=job.audited,
        audit_id=job.audit_id,
        new=new,
        rows=counts["rows"],
        published=counts["published"],
        quarantined=counts["quarantined"],
        replaced=counts["replaced"],
        withdrawn=counts.get("withdrawn", 0),
        reasons=manifest["quarantined"],
        shards=len(manifest["shards"]),
        resumed=resumed,
        seconds=round(time.monotonic() - began, 2),
        images_per_second=rate,
        bytes=counts["bytes"],
        text_covered=counts["text_covered"],
        dicom_files=counts["dicom_files"],
        skipped=catalog.skipped,
        gone=catalog.gone,
        catalog=catalog.uri,
        report=report,
    )
