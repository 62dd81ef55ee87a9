"""The CPU's memory between one training step and the next."""

from __future__ import annotations

import ctypes

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> bool:
    """Let this process keep the memory that it frees, from now to its end; False where the C library is not glibc.

    By itself glibc maps blocks above 32 MB on their own where its heap has no room, and gives them back when they are
    freed, and the free end of its heap as well (mallopt(3): M_MMAP_THRESHOLD, M_TRIM_THRESHOLD). With large windows
    each training step would then have the kernel hand out and clear gigabytes again, page by page.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    never = -1
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, never) and mallopt(_M_TOP_PAD, 2**28))
