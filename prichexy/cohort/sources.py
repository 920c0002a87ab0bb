"""Which source files published images come from, found with the secret and the private catalogs."""

from collections.abc import Collection

from prichexy.cohort.catalog import Catalog, iterate_rows, open_catalog
from prichexy.config import StorageConfig
from prichexy.deid import Pseudonyms
from prichexy.errors import UsageError


def sources_of(
    uri: str, storage: StorageConfig, keys: Pseudonyms, images: Collection[str], patients: Collection[str]
) -> list[str]:
    """The files of some images, and all that the labels give to some patients, also those never published; private.

    Args:
        uri: a catalog; those that it follows are read as well.
        storage: how it is reached.
        keys: of the project.
        images: published ids.
        patients: published ids.

    Returns:
        Places of the files, sorted, each once.

    Raises:
        UsageError: there is no catalog, or one that it follows is gone.
        StorageFault: a store failed.
    """
    newest = _opened(uri, storage)
    found = set[str]()
    for catalog in (*(_opened(before, storage) for before in newest.since), newest):
        for table in iterate_rows(catalog, storage):
            for row in table.select(["uri", "patient_id"]).to_pylist():
                patient = row["patient_id"]
                if keys.image_id(row["uri"]) in images or (patient and keys.patient_id("", patient) in patients):
                    found.add(f"{catalog.root.rstrip('/')}/{row['uri']}")
    return sorted(found)


def _opened(uri: str, storage: StorageConfig) -> Catalog:
    catalog = open_catalog(uri, storage)
    if catalog is None:
        raise UsageError(f"there is no catalog at {uri}")
    return catalog
