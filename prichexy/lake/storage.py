"""Object storage and file systems behind one small interface: whole-object reads, atomic whole-object writes, listings.

A store either does what it was asked or raises `StorageFault` with a sentence that holds no object's path. Transient
faults (timeouts, resets, 5xx, answers cut short) are tried again with exponential backoff and jitter; refusals (403, no
such bucket) are not.
"""

import os
import random
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TypeVar

import fsspec
import fsspec.asyn
import pyarrow
import pyarrow.fs

from prichexy.config import StorageConfig
from prichexy.errors import PrichexyError, StorageFault, UsageError
from prichexy.lake.faults import CutShort, http_status, is_transient, reason
from prichexy.lake.listing import (
    TEMPORARY_PREFIX,
    Page,
    StoredObject,
    bare_etag,
    file_etag,
    local_pages,
    other_page,
    s3_page,
)

T = TypeVar("T")


class ObjectChanged(PrichexyError):  # noqa: N818 - what happened to the object, no fault of the store
    """An object is another one than when it was listed."""


@dataclass(frozen=True)
class Store:
    """A folder, or a prefix in a bucket.

    Attributes:
        uri: the root as the user named it, without a trailing slash.
        options: endpoint, region and retries; never credentials.
    """

    uri: str
    options: StorageConfig = field(default_factory=StorageConfig)

    @property
    def is_local(self) -> bool:
        """Whether the root is a folder of this machine (or one mounted on it)."""
        return "://" not in self.uri or self.uri.startswith("file://")

    @property
    def _fs(self) -> Any:
        return _filesystem(self.uri.partition("://")[0] if "://" in self.uri else "file", self.options)

    @property
    def _is_s3(self) -> bool:
        return self.uri.startswith(("s3://", "s3a://"))

    @property
    def root(self) -> str:
        """The root as the file system spells it."""
        path = self.uri.partition("://")[2] if "://" in self.uri else self.uri
        return str(Path(path).absolute()) if self.is_local else path.strip("/")

    @property
    def place(self) -> str:
        """The root so that it means the same on every worker and in every working folder."""
        return self.root if self.is_local else f"{self.uri.partition('://')[0]}://{self.root}"

    def arrow(self) -> tuple[pyarrow.fs.FileSystem, str]:
        """The same root for pyarrow: a file system and a path in it."""
        if self.is_local:
            return pyarrow.fs.LocalFileSystem(), self.root
        return pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(self._fs)), self.root

    def read(self, path: str) -> bytes:
        """All bytes of an object.

        Raises:
            FileNotFoundError: there is none (without its path).
            StorageFault: the store failed, after all attempts.
        """
        return self.retried("read from", lambda: self._get(path))

    def read_listed(self, listed: StoredObject) -> bytes:
        """All bytes of a listed object, if it is still the one that was listed.

        On S3 this is one request on condition of the etag (If-Match, RFC 9110, 13.1.1). In a folder the opened file is
        looked at after it was read, so a change while reading is noticed too. Where the etag is '', or the storage is
        another, only a change of size is noticed.

        Raises:
            ObjectChanged: it was written to, or replaced.
            FileNotFoundError: it is gone (without its path).
            StorageFault: the store failed, after all attempts; or sent another number of bytes than it listed under
                the same etag, each time.
        """
        compared = bool(listed.etag) and (self.is_local or self._is_s3)

        def get() -> bytes:
            data = self._get(listed.path, listed.etag)
            if len(data) != listed.size:
                raise CutShort if compared else _changed()
            return data

        return self.retried("read from", get)

    def write(self, path: str, data: bytes) -> None:
        """Create or replace an object so that a reader sees all of it or nothing, and it survives a crash.

        Raises:
            StorageFault: the store failed, after all attempts.
        """
        target = self._full(path)
        put = (
            (lambda: _write_local(Path(target), data)) if self.is_local else (lambda: self._fs.pipe_file(target, data))
        )
        try:
            self.retried("write to", put)
        except FileNotFoundError:  # a bucket that is not there, or a folder that can't be made
            raise StorageFault(f"can't write to {self.uri}: there is no such place") from None

    def create(self, path: str, data: bytes) -> bool:
        """Write an object only if there is none yet; of several writers exactly one succeeds.

        On S3 by a conditional write (If-None-Match), which a retry after a lost answer may find refused by itself.

        Returns:
            Whether this call made it.

        Raises:
            StorageFault: the store failed, after all attempts.
        """
        target = self._full(path)

        def put() -> bool:
            try:
                if self.is_local:
                    _write_local(Path(target), data, exclusive=True)
                else:
                    self._fs.pipe_file(target, data, mode="create")
            except FileExistsError:
                return False
            except Exception as error:
                if http_status(error) in (409, 412):  # somebody else's write, at the same moment or before
                    return False
                raise
            return True

        try:
            return self.retried("write to", put)
        except FileNotFoundError:
            raise StorageFault(f"can't write to {self.uri}: there is no such place") from None

    def delete(self, path: str) -> None:
        """Remove an object; one that is not there is no error."""
        try:
            self.retried("delete from", lambda: self._fs.rm_file(self._full(path)))
        except FileNotFoundError:
            return

    def pages(self, below: str = "", deep: bool = True, token: str = "") -> Iterator[Page]:
        """All objects below a folder, a page at a time, in the store's own order; a folder that is not there has none.

        Temporary files of unfinished local writes are left out.

        Args:
            below: the folder, below the root.
            deep: whether to go into subfolders; if not, pages name them.
            token: of an earlier page, to go on behind it.

        Raises:
            StorageFault: the store failed, after all attempts, or a folder can't be read.
        """
        try:
            if self.is_local:
                yield from self._local_pages(below, deep)
            elif self._is_s3:
                yield from self._s3_pages(below, deep, token)
            else:
                yield self.retried("list", lambda: other_page(self._fs, self.root, below, deep))
        except FileNotFoundError:
            return

    def list(self, below: str = "") -> Iterator[StoredObject]:
        """All objects below a folder, in no particular order; see `pages`."""
        for page in self.pages(below):
            yield from page.objects

    def check_readable(self) -> None:
        """Fail early when the root can't be listed.

        Raises:
            StorageFault: no such place, wrong credentials or endpoint; one sentence.
        """

        def look() -> None:
            if not self._fs.exists(self.root):
                raise FileNotFoundError

        try:
            self.retried("read from", look)
        except FileNotFoundError:
            raise StorageFault(f"nothing found at {self.uri}: check the path, endpoint and credentials") from None

    def check_writable(self) -> None:
        """Fail early when the root can't be written: writes and removes a probe."""
        # No listing shows a file of this prefix, should we die before deleting it.
        probe = f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}"
        self.write(probe, b"")
        self.delete(probe)

    def remove_temporaries(self) -> None:
        """Remove what killed writes left behind; only for a root that nobody writes to any more."""
        if self.is_local:
            for left in Path(self.root).rglob(f"{TEMPORARY_PREFIX}*"):
                left.unlink(missing_ok=True)

    def _full(self, path: str) -> str:
        return f"{self.root.rstrip('/')}/{path}"

    def _local_pages(self, below: str, deep: bool) -> Iterator[Page]:
        try:
            yield from local_pages(Path(self.root), below, deep)
        except FileNotFoundError:
            return
        except OSError as error:
            raise StorageFault(f"can't list {self.uri}: {reason(error)}") from None

    def _s3_pages(self, below: str, deep: bool, token: str) -> Iterator[Page]:
        while True:
            page = self.retried("list", partial(s3_page, self._fs, self.root, below, deep, token))
            yield page
            token = page.token
            if not token:
                return

    def _get(self, path: str, etag: str = "") -> bytes:
        """All bytes of an object, by one request (fsspec's own way asks an S3 store for the size first)."""
        target = self._full(path)
        if self.is_local:
            return _read_local(Path(target), etag)
        if self._is_s3:
            data: bytes = fsspec.asyn.sync(self._fs.loop, _get_object, self._fs, target, etag)
            return data
        return bytes(self._fs.cat_file(target))

    def opened(self, path: str) -> Any:
        """An object for reading in parts, as pyarrow's native file; nothing is read ahead, and nothing retried.

        Raises:
            Exception: the library's own; call it within `retried`.
        """
        file_system, root = self.arrow()
        full = f"{root.rstrip('/')}/{path}"
        if self.is_local:
            return file_system.open_input_file(full)
        return pyarrow.PythonFile(self._fs.open(full, "rb", cache_type="none"), mode="r")

    def retried(self, verb: str, work: Callable[[], T]) -> T:
        """What `work` returns, tried again after a transient fault; other faults become a `StorageFault`.

        Raises:
            FileNotFoundError: no such object (without its path).
            StorageFault: "can't VERB ROOT: reason".
        """
        for attempt in range(1, self.options.attempts + 1):
            try:
                return work()
            except FileNotFoundError:
                raise FileNotFoundError("no such object") from None
            except PrichexyError:
                raise
            except Exception as error:
                if attempt == self.options.attempts or not is_transient(error):
                    raise StorageFault(f"can't {verb} {self.uri}: {reason(error)}") from None
            time.sleep(min(20.0, 0.25 * 2**attempt) * (0.5 + random.random()))
        raise AssertionError("unreachable")


@lru_cache(maxsize=8)
def _filesystem(scheme: str, options: StorageConfig) -> Any:
    """One file system a process and configuration, so that connections are reused."""
    if scheme == "file":
        return fsspec.filesystem("file")
    if scheme != "s3":
        try:
            return fsspec.filesystem(scheme, use_listings_cache=False)
        except (ImportError, ValueError):
            raise UsageError(
                f"storage {scheme}:// is not supported: use a path, s3://, or install its fsspec driver"
            ) from None
    s3 = fsspec.filesystem(
        "s3",
        anon=options.anonymous,
        profile=options.profile,
        endpoint_url=options.endpoint_url,
        client_kwargs={"region_name": options.region} if options.region else {},
        config_kwargs={"connect_timeout": 10, "read_timeout": 60, "retries": {"max_attempts": 2, "mode": "standard"}},
        use_listings_cache=False,
        max_concurrency=4,
    )
    # Attempts within attempts would multiply: a store that hangs would hold a job for an hour.
    s3.retries = 1
    return s3


def _read_local(source: Path, etag: str) -> bytes:
    with source.open("rb") as file:
        data = file.read()
        if etag and file_etag(os.fstat(file.fileno())) != etag:
            raise _changed()
    return data


async def _get_object(s3: Any, target: str, etag: str) -> bytes:
    bucket, key, _ = s3.split_path(target)
    condition = {"IfMatch": f'"{etag}"'} if etag else {}
    try:
        answer = await s3._call_s3("get_object", Bucket=bucket, Key=key, **condition)
    except Exception as error:
        if etag and http_status(error) == 412:
            raise _changed() from None
        raise
    async with answer["Body"] as body:
        if etag and bare_etag(answer.get("ETag")) not in ("", etag):  # a store that does not know conditions
            raise _changed()
        return bytes(await body.read())


def _changed() -> ObjectChanged:
    return ObjectChanged("an object changed since it was listed")


def _write_local(target: Path, data: bytes, exclusive: bool = False) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if exclusive:
            os.link(temporary, target)  # unlike a rename it fails where something is
            temporary.unlink()
        else:
            temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    directory = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(directory)  # the rename itself survives a power cut only then
    finally:
        os.close(directory)
