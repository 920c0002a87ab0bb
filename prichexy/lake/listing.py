"""Lists folders and buckets a page at a time, so that memory does not grow with what lies there."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec.asyn

TEMPORARY_PREFIX = ".tmp-"
"""Local writes go through a file of this prefix, which no listing shows."""

_PAGE = 1000


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One listed object.

    Attributes:
        path: below the store's root.
        size: in bytes.
        etag: another one after each change. On S3 the store's own, without quotes; in a folder "MTIME-SIZE", the time
            of the last change in nanoseconds since 1970 and the bytes. '' where nothing is known: never compared.
    """

    path: str
    size: int
    etag: str


@dataclass(frozen=True, slots=True)
class Page:
    """Some of a folder's objects.

    Attributes:
        objects: in the store's order, which may be any.
        folders: right below the listed one, where only its own objects were asked for.
        token: begins the next page, in this process or another; '' after the last page, and where a store has no such
            thing.
    """

    objects: list[StoredObject]
    folders: list[str]
    token: str = ""


def s3_page(s3: Any, root: str, below: str, deep: bool, token: str) -> Page:
    """One answer to ListObjectsV2: up to 1,000 keys.

    Args:
        s3: the s3fs file system.
        root: the store's root, "bucket" or "bucket/prefix".
        below: folder below the root; '' for the root itself.
        deep: whether to go into subfolders.
        token: of the page before; '' for the first.
    """
    bucket, _, prefix = root.partition("/")
    base = f"{prefix}/" if prefix else ""
    words = {"Bucket": bucket, "Prefix": f"{base}{below}/" if below else base}
    if not deep:
        words["Delimiter"] = "/"
    if token:
        words["ContinuationToken"] = token
    answer = fsspec.asyn.sync(s3.loop, s3._call_s3, "list_objects_v2", **words)
    objects = [
        StoredObject(item["Key"][len(base) :], int(item["Size"]), bare_etag(item.get("ETag")))
        for item in answer.get("Contents", ())
        if _is_shown(item["Key"].rpartition("/")[2])  # some stores list folders as objects whose names end in a slash
    ]
    folders = [item["Prefix"][len(base) :].rstrip("/") for item in answer.get("CommonPrefixes", ())]
    return Page(objects, folders, answer.get("NextContinuationToken", "") if answer.get("IsTruncated") else "")


def local_pages(root: Path, below: str, deep: bool) -> Iterator[Page]:
    """A folder's files. Links to files count as files; a link that leads back to a folder above it is not followed.

    Raises:
        OSError: a folder can't be read: leaving it out would lose its images silently.
    """
    start = root / below if below else root
    waiting = [(start, frozenset[tuple[int, int]]())]
    while waiting:
        folder, above = waiting.pop()
        facts = folder.stat()
        if (facts.st_dev, facts.st_ino) in above:
            continue
        above |= {(facts.st_dev, facts.st_ino)}
        objects, folders = [], []
        try:
            entries = os.scandir(folder)
        except FileNotFoundError:
            continue  # removed since its own folder was read
        with entries:
            for entry in entries:
                if entry.is_dir():
                    folders.append(entry.path)
                elif _is_shown(entry.name):
                    objects += _local_object(entry, root)
                if len(objects) == _PAGE:
                    yield Page(objects, [])
                    objects = []
        yield Page(objects, [] if deep else [os.path.relpath(path, root) for path in folders])
        if deep:
            waiting += [(Path(path), above) for path in folders]


def other_page(file_system: Any, root: str, below: str, deep: bool) -> Page:
    """All of a folder of another file system at once, as fsspec finds it; its subfolders are not told."""
    cut = len(root.rstrip("/")) + 1
    found = file_system.find(f"{root}/{below}" if below else root, detail=True, maxdepth=None if deep else 1)
    objects = [
        StoredObject(path[cut:], int(info["size"]), bare_etag(info.get("ETag")))
        for path, info in found.items()
        if info.get("type") == "file" and path[cut:] and _is_shown(path.rpartition("/")[2])
    ]
    return Page(objects, [])


def file_etag(facts: os.stat_result) -> str:
    """What `StoredObject.etag` is for a file."""
    return f"{facts.st_mtime_ns}-{facts.st_size}"


def bare_etag(etag: Any) -> str:
    """An etag without its quotes, and without the mark of a weak one, which proxies add."""
    return str(etag or "").removeprefix("W/").strip('"')


def _is_shown(name: str) -> bool:
    return bool(name) and not name.startswith(TEMPORARY_PREFIX)


def _local_object(entry: "os.DirEntry[str]", root: Path) -> list[StoredObject]:
    """The file, or nothing where it vanished, or is a pipe, a device, a link to nowhere."""
    try:
        if not entry.is_file():
            return []
        facts = entry.stat()
    except FileNotFoundError:
        return []
    return [StoredObject(entry.path[len(str(root).rstrip("/")) + 1 :], facts.st_size, file_etag(facts))]
