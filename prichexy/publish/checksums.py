"""SHA256SUMS: a line for each public file, as `sha256sum -c` reads it.

Public is what a reader of the newest snapshot needs: its shards and quarantine files, DICOM files, manifest,
`_SUCCESS`, and the card's files. Hashes of shards and quarantine files are the manifest's, taken when they were
written; DICOM files, of which the manifest holds one hash a folder, are read and hashed here. Job and commit records
are for the job alone.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from prichexy.errors import StorageFault
from prichexy.lake.shards import digest
from prichexy.publish.source import Publication


def sha256sums(publication: Publication, card_files: Mapping[str, bytes]) -> str:
    """The file's text, sorted by path.

    Args:
        publication: whose files.
        card_files: path and bytes of what `publish` writes beside them, SHA256SUMS itself left out.

    Raises:
        StorageFault: a DICOM file can't be read.
    """
    hashes = manifest_hashes(publication)
    paths = publication.dicom
    with ThreadPoolExecutor(publication.store.options.connections) as pool:
        hashes |= dict(zip(paths, pool.map(lambda path: _hashed(publication, path), paths), strict=True))
    hashes |= {path: digest(data) for path, data in card_files.items()}
    return "".join(f"{hashes[path]}  {path}\n" for path in sorted(hashes))


def parse(text: str) -> dict[str, str]:
    """Path and hash of each line; lines of another form are left out."""
    lines = (line.split("  ", 1) for line in text.splitlines())
    return {parts[1]: parts[0] for parts in lines if len(parts) == 2}


def manifest_hashes(publication: Publication) -> dict[str, str]:
    """Path and hash of all files that the manifest names singly, of the manifest and of what makes it valid."""
    files = (*publication.data, *publication.quarantine, publication.manifest, publication.success)
    return {file.path: file.sha256 for file in files}


def _hashed(publication: Publication, path: str) -> str:
    try:
        return digest(publication.store.read(path))
    except FileNotFoundError:
        raise StorageFault(f"{publication.store.uri} lost a DICOM file: run `prichexy verify`") from None
