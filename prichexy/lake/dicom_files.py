"""De-identified DICOM files beside the shards: one an image, named by its pseudonym, in a folder a shard.

They are written before their shard's commit record, which sums them up in one hash; a crash before it leaves files that
the next run replaces by equal ones.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from prichexy.lake.layout import dicom_path
from prichexy.lake.shards import digest
from prichexy.lake.storage import Store


@dataclass(frozen=True, slots=True)
class DicomFile:
    """Path below the destination, bytes and SHA-256 of one file."""

    path: str
    bytes: int
    sha256: str


def write_dicom(store: Store, snapshot: int, shard: int, image_id: str, data: bytes) -> DicomFile:
    """Put a file in place.

    Raises:
        StorageFault: the destination failed.
    """
    path = dicom_path(snapshot, shard, image_id)
    store.write(path, data)
    return DicomFile(path, len(data), digest(data))


def digest_of_all(files: Iterable[tuple[str, str]]) -> str:
    """One SHA-256 over the (path, SHA-256) of some files, whatever their order."""
    return digest("".join(f"{sha256}  {path}\n" for path, sha256 in sorted(files)).encode())
