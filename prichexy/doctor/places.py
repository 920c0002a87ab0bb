"""Stores and the clock: whether the job can list and read its source, and write and delete at its destination."""

import secrets
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from email.utils import parsedate_to_datetime
from pathlib import Path

from prichexy.cohort.catalog import open_catalog
from prichexy.config import AnonymizeConfig, StorageConfig
from prichexy.doctor.finding import Finding, failed, ok, warning
from prichexy.errors import PrichexyError
from prichexy.lake.listing import TEMPORARY_PREFIX
from prichexy.lake.storage import Store

ATTEMPTS = 2
"""Tries of one request: a check shall be quick, a job patient."""

MOST_SKEW, BAD_SKEW = 30.0, 300.0
"""Seconds. S3 refuses requests that are 15 minutes off; Ray and leases want less."""

_MENDS = (
    ("the endpoint does not answer", "check storage.endpoint_url (or AWS_ENDPOINT_URL), and the network from here"),
    ("no credentials found", "mount a credentials file (AWS_SHARED_CREDENTIALS_FILE), or give the node a role"),
    (
        "HTTP 403",
        "check this node's credentials, the bucket's name, and that their policy lets them {rights} (infra/aws/iam)",
    ),
    ("read-only", "mount it for writing, or choose another place"),
    ("permission denied", "let the job's user {rights}, or choose another place"),
    ("no space is left", "make room, or choose another place"),
    ("there is no such place", "make the bucket, or correct its name"),
    ("nothing found", "correct the path, or the endpoint"),
)


def check_source(config: AnonymizeConfig) -> Finding:
    """Lists the source's beginning and reads its smallest file there."""
    storage, rights = _quick(config.storage), "list and read"
    try:
        catalog = open_catalog(config.source, storage)
        store = Store(catalog.root if catalog else config.source, storage)
        store.check_readable()
        page = next((page for page in store.pages() if page.objects), None)
        if page is None:
            return failed("source", "it holds no file", "check the path: is the lake mounted?")
        smallest = min(page.objects, key=lambda listed: listed.size)
        store.read(smallest.path)
    except FileNotFoundError:
        return warning("source", "a file vanished between listing and reading", "let nobody write there meanwhile")
    except PrichexyError as error:
        return failed("source", str(error), _mend(str(error), rights))
    rows = f"a catalog of {catalog.rows:,} files; " if catalog else ""
    return ok("source", f"{rows}can be listed and read")


def check_writable_places(config: AnonymizeConfig) -> Iterator[Finding]:
    """Writes, reads and deletes a probe at each place that the job writes to; the link table is only written to."""
    places = {"destination": config.destination, "work_dir": config.work_dir, "link_table": config.link_table}
    for name, place in places.items():
        if place is not None:
            yield _check_writable(name, Store(place, _quick(config.storage)), read=name != "link_table")


def _check_writable(name: str, store: Store, read: bool) -> Finding:
    """No listing of prichexy shows the probe, should we die before deleting it."""
    probe, content = f"{TEMPORARY_PREFIX}doctor-{secrets.token_hex(8)}", secrets.token_bytes(16)
    made = _missing_folders(store)
    doing = "write"
    try:
        store.write(probe, content)
        same = True
        if read:
            doing = "read"
            same = store.read(probe) == content
            doing = "list"
            next(iter(store.pages(deep=False)), None)
        doing = "delete"
        store.delete(probe)
    except (PrichexyError, FileNotFoundError) as error:
        with suppress(PrichexyError, FileNotFoundError):
            store.delete(probe)
        rights = "list, read, write and delete" if read else "write and delete"
        return failed(name, f"can't {doing}: {error}", _mend(str(error), rights))
    finally:
        with suppress(OSError):
            for folder in made:
                folder.rmdir()
    if not same:
        return failed(name, "what was written is not what was read", "use a store that is consistent after a write")
    return ok(name, "can be written, read, listed and deleted" if read else "can be written and deleted")


def _missing_folders(store: Store) -> list[Path]:
    """A local place's folders that the probe will make, innermost first."""
    root = Path(store.root)
    return [folder for folder in (root, *root.parents) if not folder.exists()] if store.is_local else []


def _quick(storage: StorageConfig) -> StorageConfig:
    return storage.model_copy(update={"attempts": ATTEMPTS})


def _mend(sentence: str, rights: str) -> str:
    for phrase, mend in _MENDS:
        if phrase in sentence:
            return mend.format(rights=rights)
    return f"this place must let the job {rights}"


def check_clock(config: AnonymizeConfig, tracking_uri: str) -> Finding:
    """Whether this machine's clock agrees with the S3 server's and MLflow's, by the Date header of their answers.

    Args:
        config: the job's.
        tracking_uri: MLflow's address; one that is no web address has no clock.
    """
    storage, servers = config.storage, dict[str, str]()
    if any(place and place.startswith(("s3://", "s3a://")) for place in (config.source, config.destination)):
        servers["the S3 server"] = storage.endpoint_url or f"https://s3.{storage.region or 'us-east-1'}.amazonaws.com"
    if tracking_uri.startswith(("http://", "https://")):
        servers["MLflow"] = tracking_uri
    skews = {name: skew for name, address in servers.items() if (skew := clock_skew(address)) is not None}
    if not skews:
        return ok("clock", "no server's clock to compare with")
    name, skew = max(skews.items(), key=lambda item: abs(item[1]))
    found = f"{abs(skew):.0f} s {'behind' if skew > 0 else 'ahead of'} {name}"
    mend = "let both machines keep their time by NTP"
    if abs(skew) > BAD_SKEW:
        return failed("clock", f"{found}: S3 refuses requests that are 15 minutes off", mend)
    if abs(skew) > MOST_SKEW:
        return warning("clock", found, mend)
    return ok("clock", f"within {MOST_SKEW:.0f} s of {' and '.join(skews)}")


def clock_skew(address: str) -> float | None:
    """Seconds by which a web server's clock is ahead of ours, to half a second; None where it does not tell."""
    began = time.time()
    try:
        with urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=10) as answer:
            date = answer.headers.get("Date")
    except urllib.error.HTTPError as refusal:  # a refusal has a date too
        date = refusal.headers.get("Date")
    except (OSError, ValueError):  # the places' own checks tell that nobody answers
        return None
    try:
        told = parsedate_to_datetime(date or "").timestamp() + 0.5  # it is cut to whole seconds
    except ValueError:
        return None
    return told - (began + time.time()) / 2
