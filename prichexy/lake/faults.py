"""What went wrong in a store: whether it is worth another try, and in which words a user hears of it.

Libraries' messages quote paths and URLs, so none of them is passed on.
"""

import errno
import os

_MENDABLE_ONLY_BY_PEOPLE = (PermissionError, IsADirectoryError, NotADirectoryError)
_BROKEN = ("CutShort", "ClientPayloadError", "IncompleteReadError", "ResponseStreamingError", "ConnectionClosedError")
_PEOPLE_ERRNO = {errno.EACCES, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENAMETOOLONG}


class CutShort(ConnectionError):  # noqa: N818 - what happened, as with the other faults of a store
    """The store sent another number of bytes than it listed under the same etag."""


def http_status(error: BaseException) -> int:
    """HTTP status of a botocore error (s3fs keeps it as the cause of the OSError it raises); 0 when there is none."""
    seen: BaseException | None = error
    while seen is not None:
        response = getattr(seen, "response", None)
        if isinstance(response, dict):
            return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) or 0)
        seen = seen.__cause__ or seen.__context__
    return 0


def _code(error: BaseException) -> str:
    """The store's own word for what is wrong; "" where it has none."""
    seen: BaseException | None = error
    while seen is not None:
        response = getattr(seen, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code", ""))
        seen = seen.__cause__ or seen.__context__
    return ""


def is_transient(error: Exception) -> bool:
    """Whether another try may help: not with what only people mend (rights, space, names) or a request refused."""
    if isinstance(error, _MENDABLE_ONLY_BY_PEOPLE) or type(error).__name__ in ("NoCredentialsError", "ProfileNotFound"):
        return False
    if isinstance(error, OSError) and error.errno in _PEOPLE_ERRNO and not http_status(error):
        return False
    status = http_status(error)
    return not status or status >= 500 or status in (408, 429)


def reason(error: Exception) -> str:
    """What is wrong, in our own words: library messages may quote paths."""
    name, status = type(error).__name__, http_status(error)
    if name in ("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound"):
        return "no credentials found (set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or a role)"
    if status == 403 and _code(error) == "RequestTimeTooSkewed":
        return "this machine's clock differs too much from the store's: set it by NTP"
    if status in (401, 403):
        return "the store refused the credentials, they lack the right, or there is no such bucket (HTTP 403)"
    if isinstance(error, PermissionError):
        return "permission denied"
    if name in _BROKEN:
        return "its answers break off"
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
