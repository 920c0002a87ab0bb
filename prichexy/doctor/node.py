"""What is looked at on every node of a cluster, in one task; on one machine, in this process."""

import os
import platform
import shutil
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from prichexy.config import AnonymizeConfig
from prichexy.doctor.finding import Finding, failed, ok, warning
from prichexy.doctor.places import check_source, check_writable_places
from prichexy.doctor.secret import check_logs, check_secret, needles
from prichexy.errors import UsageError

SPILLING_STOPS = 0.95
"""Share of a disk in use at which Ray stops spilling to it (its setting local_fs_capacity_threshold)."""

LITTLE_DISK, LITTLE_SHARED = 10 << 30, 1 << 30
"""Bytes. A container without further ado has 64 MiB of shared memory."""


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """One node, as it sees itself.

    Attributes:
        versions: of Python, Ray and prichexy.
        key_id: of the project secret there; None without one.
        clock: seconds since 1970.
        findings: the checks that are made on every node.
    """

    versions: tuple[str, str, str]
    key_id: str | None
    clock: float
    findings: tuple[Finding, ...]


def look_at_node(config: AnonymizeConfig, session: Path | None) -> NodeFacts:
    """Look at the machine that this runs on.

    Args:
        config: the job's.
        session: Ray's folder for this session, for spilled objects and logs; None where no Ray runs yet.
    """
    secret, key_id = check_secret(config.secret_file)
    spilling = session or Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir())
    findings = (
        secret,
        check_logs(session / "logs" if session else None, needles(config.secret_file)),
        check_source(config),
        *check_writable_places(config),
        check_disk(spilling),
        check_shared_memory(Path("/dev/shm")),
        check_text_networks(config),
    )
    return NodeFacts(versions(), key_id, time.time(), findings)


def versions() -> tuple[str, str, str]:
    """Of Python, Ray and prichexy, here."""
    return platform.python_version(), _version("ray"), _version("prichexy")


def check_disk(folder: Path) -> Finding:
    """Room for what Ray spills."""
    try:
        usage = shutil.disk_usage(folder)
    except OSError:
        return failed("disk", "Ray's temporary folder is not there", "make it, or set RAY_TMPDIR")
    found = f"{usage.free / 2**30:.1f} GiB of {usage.total / 2**30:.1f} GiB are free for what Ray spills"
    mend = "make room, or give Ray a larger, encrypted disk (`ray start --temp-dir`; RAY_TMPDIR for a local Ray)"
    if usage.total and 1 - usage.free / usage.total >= SPILLING_STOPS:
        return failed("disk", f"{found}; Ray stops spilling at {SPILLING_STOPS:.0%}", mend)
    return warning("disk", found, mend) if usage.free < LITTLE_DISK else ok("disk", found)


def check_shared_memory(place: Path) -> Finding:
    """Room for Ray's object store, which is far slower on a disk."""
    try:
        total = shutil.disk_usage(place).total
    except OSError:
        return ok("shared memory", "this system has none to look at")
    found = f"{total / 2**30:.1f} GiB for Ray's object store"
    if total < LITTLE_SHARED:
        mend = "give the container more (shm_size, --shm-size; on Kubernetes an emptyDir of medium Memory at /dev/shm)"
        return warning("shared memory", found, mend)
    return ok("shared memory", found)


def check_text_networks(config: AnonymizeConfig) -> Finding:
    """The networks that find burned-in text."""
    from prichexy.deid.burned_in import require_networks

    name = "text networks"
    if config.deid.burned_in_text == "off":
        return ok(name, "not needed: deid.burned_in_text is off")
    try:
        require_networks()
    except UsageError as error:
        return failed(name, str(error), "install prichexy with its constraints on every node, or use its image")
    return ok(name, "installed and unchanged")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"
