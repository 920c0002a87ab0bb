"""The project secret's file, and whether it or a credential got to where people can read it."""

import base64
import configparser
import json
import os
import re
import stat
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from prichexy.config import secret_file
from prichexy.deid import Pseudonyms, read_secret_file
from prichexy.deid.keys import SECRET_BYTES
from prichexy.doctor.finding import Finding, failed, ok
from prichexy.errors import UsageError

MOST_LOG_BYTES = 256 << 20
"""Of one node's logs, the newest."""

_CREDENTIALS = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
_TELLING_NAME = re.compile(r"(SECRET|PASSWORD|TOKEN|CREDENTIAL)(?!.*(FILE|PATH|MODE))", re.IGNORECASE)
_KEEP_OUT = (
    "give it as a mounted file or an instance role instead, never in a runtime environment or on a command line; "
    "then replace what was shown"
)


def check_secret(configured: Path | None) -> tuple[Finding, str | None]:
    """The project secret's file, and the id of its key (which reveals nothing) where there is one."""
    path = secret_file(configured)
    try:
        key_id = Pseudonyms.from_secret(read_secret_file(path)).key_id
    except UsageError as error:
        mend = (
            f"mount the {SECRET_BYTES} bytes that `prichexy keygen` made at this path on every node, readable by the "
            "job's user"
        )
        return failed("secret", str(error), mend), None
    assert path is not None  # read_secret_file refuses None
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & stat.S_IRWXO:
        return (
            failed(
                "secret",
                f"everybody on the machine can read the secret file (mode {mode:04o})",
                f"chmod 600 {path} (on Kubernetes: defaultMode 0400 and an fsGroup)",
            ),
            key_id,
        )
    return ok("secret", f"{SECRET_BYTES} bytes, key {key_id}, not open to others (mode {mode:04o})"), key_id


def needles(configured: Path | None) -> dict[bytes, str]:
    """What must not be found in logs or runtime environments, with its name; empty values are left out.

    The project secret as bytes, hexadecimal digits and base64, and the credentials that this process would use.
    """
    path, found = secret_file(configured), dict[bytes, str]()
    try:
        secret = read_secret_file(path)
    except UsageError:  # told by its own check
        secret = b""
    if secret:
        forms = (secret, secret.hex().encode(), secret.hex().upper().encode(), base64.b64encode(secret).rstrip(b"="))
        found |= dict.fromkeys((*forms, base64.urlsafe_b64encode(secret).rstrip(b"=")), "the project secret")
    values = [os.environ.get(name, "") for name in _CREDENTIALS]
    file = configparser.RawConfigParser()
    with suppress(configparser.Error, UnicodeDecodeError, RuntimeError):  # no home; the stores' checks tell of the rest
        file.read(os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or Path.home() / ".aws" / "credentials")
    values += [profile.get(name.lower(), "") for profile in file.values() for name in _CREDENTIALS]
    return found | {value.encode(): "a storage credential" for value in values if value}


def check_runtime_envs(jobs: Iterable[Mapping[str, Any]], unwanted: Mapping[bytes, str]) -> Finding:
    """Whether Ray keeps a secret with a job: its dashboard and its API show runtime environments and entrypoints.

    Args:
        jobs: each with ``runtime_env`` (or None), ``entrypoint`` and ``metadata``.
        unwanted: of `needles`.
    """
    count = 0
    for job in jobs:
        count += 1
        variables = (job.get("runtime_env") or {}).get("env_vars") or {}
        shown = json.dumps({key: job.get(key) for key in ("runtime_env", "entrypoint", "metadata")}, default=str)
        for value, what in unwanted.items():
            if value in shown.encode():
                return failed("exposure", f"{what} stands in a job's runtime environment or command line", _KEEP_OUT)
        for name, value in variables.items():
            if value and _TELLING_NAME.search(name):
                return failed("exposure", f"a job's runtime environment holds {name}", _KEEP_OUT)
    return ok("exposure", f"no secret in the runtime environments of {count} jobs")


def check_logs(folder: Path | None, unwanted: Mapping[bytes, str]) -> Finding:
    """Whether a secret got into a node's logs.

    Args:
        folder: Ray's logs on this node; None where no Ray runs yet.
        unwanted: of `needles`.
    """
    if folder is None:
        return ok("logs", "no cluster's logs yet: a local Ray starts with the job")
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    left = MOST_LOG_BYTES
    for path in sorted(files, key=_changed, reverse=True):
        try:
            text = path.read_bytes()[-left:]
        except OSError:  # rotated away, or another user's
            continue
        for value, what in unwanted.items():
            if value in text:
                return failed("logs", f"{what} stands in a log of Ray ({path.name})", f"delete the log; {_KEEP_OUT}")
        left -= len(text)
        if left <= 0:
            break
    return ok("logs", f"no secret in {(MOST_LOG_BYTES - left) >> 20:,} MiB of logs")


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
