"""Where memory goes between two uses of it; in a process of its own, since the allocator's options are global."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
from prichexy.obfuscation.allocation import keep_memory
if sys.argv[1] == "kept":
    assert keep_memory()
bytearray(40 << 20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    bytearray(40 << 20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator than glibc's is left alone")
def test_memory_that_was_freed_is_found_mapped() -> None:
    def faults(how: str) -> int:
        done = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True)
        return int(done.stdout)

    assert faults("kept") < 100
    assert faults("as it comes") >= 200  # ten times 40 MiB, in pages of 2 MiB at most
