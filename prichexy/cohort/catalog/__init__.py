"""The catalog of a lake: one Parquet row a source file, frozen, private.

A catalog names source files, so it belongs in a private place, never beside what is published. Its rows stand in the
order of a salted hash of their paths: a shard is a range of rows, and a range of a *listing* would tell which
hospital folder, patient or month an image came from. The salt is random and stays in the catalog.

Each row holds what tells the file's next change (its etag; in a folder, time and size), and whoever reads the file
compares it: an image that was replaced after the listing is never taken for the one that was listed.

A lake that grows is catalogued again with `since`: the new catalog holds only files that are new or changed, in the
same order of hashes, and names the catalogs that it follows.

- `listing`: the lake's files, listed side by side, in pieces that outlive a crash.
- `building`: pieces to parts, a range of hashes at a time: memory does not grow with the lake.
- `reading`: a finished catalog.
"""

from prichexy.cohort.catalog.building import build_catalog
from prichexy.cohort.catalog.reading import (
    Catalog,
    count_formats,
    iterate_rows,
    open_catalog,
    read_rows,
    replacing,
    source_of,
)

__all__ = [
    "Catalog",
    "build_catalog",
    "count_formats",
    "iterate_rows",
    "open_catalog",
    "read_rows",
    "replacing",
    "source_of",
]
