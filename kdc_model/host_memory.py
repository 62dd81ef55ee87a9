"""The CPU's memory between one training step and the next."""

from __future__ import annotations

import ctypes

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> bool:
    """Let this process keep the memory that it frees, from now to its end; False where the C library is not glibc.

    By itself glibc maps every block above 32 MB anew and gives it back when it is freed (mallopt(3), M_MMAP_THRESHOLD):
    with large windows, each training step would have the kernel hand out and clear gigabytes again, page by page.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    never = -1
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, never) and mallopt(_M_TOP_PAD, 2**28))
