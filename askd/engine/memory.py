"""Freed memory on a CPU: kept for the next step, not handed back to the system and fetched again page by page."""
from __future__ import annotations

import ctypes
import platform

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # glibc's malloc.h
MOST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Have glibc keep what this process frees from now on; whether it will. Any other C library is left as it is.

    By default glibc maps every large tensor afresh, and the kernel clears each of its pages at every step. Kept, memory may be more
    fragmented; it is given back when the process ends.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, MOST))
