"""Which code made something: recorded with models, audits and data."""

import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path


@cache
def commit() -> str:
    """The git commit of this code; ``unknown`` where it was installed without its history."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.strip() if done.returncode == 0 else "unknown"


def code_version() -> str:
    """The package's version, and the commit where it is known."""
    return f"{version('prichexy')}, commit {commit()}"
