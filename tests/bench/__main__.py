"""Runs every benchmark of this folder, each in a process of its own, so that none inherits another's memory."""

import pkgutil
import subprocess
import sys

import tests.bench


def main() -> int:
    names = [found.name for found in pkgutil.iter_modules(tests.bench.__path__) if not found.name.startswith("_")]
    failed = [name for name in names if subprocess.run([sys.executable, "-m", f"tests.bench.{name}"]).returncode]
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
