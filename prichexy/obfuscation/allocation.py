"""How a process on a CPU keeps its memory between images."""

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of glibc's malloc.h
_KEPT = 1 << 29


def keep_memory() -> bool:
    """Let this process keep up to 512 MiB of freed memory, so that the next image's layers find it mapped.

    Left to itself, glibc may give a layer's memory back after each image and have it mapped and zeroed again, page by
    page: 8,160 page faults, 19 ms of the 260 ms that an image takes in float32. Whether it does depends on what was
    allocated before. Call it once, in a process that computes networks by torch on a CPU.

    Returns:
        Whether the allocator took it; False where it is not glibc's, which is left alone.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return all(set_option(option, _KEPT) == 1 for option in (_MMAP_THRESHOLD, _TRIM_THRESHOLD))
