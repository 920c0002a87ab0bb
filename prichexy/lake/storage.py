"""Object storage and file systems behind one small interface: whole-object reads, atomic whole-object writes, listings.

A store either does what it was asked or raises `StorageFault` with a sentence that holds no object's path. Transient
faults (timeouts, resets, 5xx) are tried again with exponential backoff and jitter; refusals (403, no such bucket) are
not.
"""

import errno
import os
import random
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import fsspec
import pyarrow.fs

from prichexy.config import StorageConfig
from prichexy.errors import PrichexyError, StorageFault, UsageError

T = TypeVar("T")

TEMPORARY_PREFIX = ".tmp-"
"""Local writes go through a file of this prefix, which no listing shows."""

_MENDABLE_ONLY_BY_PEOPLE = (PermissionError, IsADirectoryError, NotADirectoryError)
_PEOPLE_ERRNO = {errno.EACCES, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENAMETOOLONG}


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One listed object: its path below the store's root, its bytes, and its etag ('' where the store has none)."""

    path: str
    size: int
    etag: str


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
        return self.retried("read from", lambda: bytes(self._fs.cat_file(self._full(path))))

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

    def delete(self, path: str) -> None:
        """Remove an object; one that is not there is no error."""
        try:
            self.retried("delete from", lambda: self._fs.rm_file(self._full(path)))
        except FileNotFoundError:
            return

    def list(self, below: str = "") -> Iterator[StoredObject]:
        """All objects below a path, in no particular order; a path that does not exist has none.

        Temporary files of unfinished local writes are left out.
        """
        prefix = self._full(below) if below else self.root
        found = self.retried("list", lambda: self._find(prefix))
        cut = len(self.root.rstrip("/")) + 1
        for path, info in found.items():
            name = path.rpartition("/")[2]
            # Some stores list folders as objects of their own: 'prefix' itself, or names that end in a slash.
            if info.get("type") == "file" and name and path[cut:] and not name.startswith(TEMPORARY_PREFIX):
                yield StoredObject(path[cut:], int(info["size"]), str(info.get("ETag", "")).strip('"'))

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

    def _find(self, prefix: str) -> dict[str, Any]:
        if self.is_local and not Path(prefix).exists():
            return {}
        found: dict[str, Any] = self._fs.find(prefix, detail=True)
        return found

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
                if attempt == self.options.attempts or not _is_transient(error):
                    raise StorageFault(f"can't {verb} {self.uri}: {_reason(error)}") from None
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
    return fsspec.filesystem(
        "s3",
        anon=options.anonymous,
        profile=options.profile,
        endpoint_url=options.endpoint_url,
        client_kwargs={"region_name": options.region} if options.region else {},
        config_kwargs={"connect_timeout": 10, "read_timeout": 60, "retries": {"max_attempts": 2, "mode": "standard"}},
        use_listings_cache=False,
        max_concurrency=4,
    )


def _write_local(target: Path, data: bytes) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    directory = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(directory)  # the rename itself survives a power cut only then
    finally:
        os.close(directory)


def _status(error: BaseException) -> int:
    """HTTP status of a botocore error (s3fs keeps it as the cause of the OSError it raises); 0 when there is none."""
    seen: BaseException | None = error
    while seen is not None:
        response = getattr(seen, "response", None)
        if isinstance(response, dict):
            return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) or 0)
        seen = seen.__cause__ or seen.__context__
    return 0


def _is_transient(error: Exception) -> bool:
    if isinstance(error, _MENDABLE_ONLY_BY_PEOPLE) or type(error).__name__ in ("NoCredentialsError", "ProfileNotFound"):
        return False
    if isinstance(error, OSError) and error.errno in _PEOPLE_ERRNO and not _status(error):
        return False
    status = _status(error)
    return not status or status >= 500 or status in (408, 429)


def _reason(error: Exception) -> str:
    """What is wrong, in our own words: library messages may quote paths."""
    name, status = type(error).__name__, _status(error)
    if name in ("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound"):
        return "no credentials found (set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or a role)"
    if status in (401, 403):
        return "the store refused the credentials, they lack the right, or there is no such bucket (HTTP 403)"
    if isinstance(error, PermissionError):
        return "permission denied"
    if name in ("EndpointConnectionError", "ConnectTimeoutError", "ConnectionError", "ClientConnectorError"):
        return "the endpoint does not answer"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "no space is left; make room and run the same command again"
    if isinstance(error, OSError) and error.errno == errno.EROFS:
        return "it is read-only"
    if isinstance(error, OSError) and error.errno in (errno.ENOTDIR, errno.EEXIST):
        return "a part of the path is a file, not a folder"
    if status:
        return f"the store answered HTTP {status}"
    return f"{name}{f' ({os.strerror(error.errno)})' if isinstance(error, OSError) and error.errno else ''}"
