"""Memory that tensors give back stays with the process, where the C library asks: glibc on Linux.

By default it hands large pieces back to the kernel at once, and every forward pass on a CPU has their pages cleared and
mapped anew, which can take longer than what is computed in them (docs/benchmarks.md).
"""

from __future__ import annotations

import ctypes
import os

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # malloc.h
_LARGEST_KEPT = 256 << 20  # bytes of one piece; larger ones are returned. Arbitrary: above a layer's hidden states
_MOST_KEPT = 512 << 20  # bytes at the heap's end that nobody uses; arbitrary


def keep() -> bool:
    """For the whole process, before it starts threads that compute: whether the C library does so from now on. It is
    not asked where somebody has set `MALLOC_…` variables: they know better.

    One heap for all threads, because those that glibc gives to others than the first hold 64 MiB each.
    """
    if any(name.startswith("MALLOC_") for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    wishes = ((_ARENA_MAX, 1), (_MMAP_THRESHOLD, _LARGEST_KEPT), (_TRIM_THRESHOLD, _MOST_KEPT))
    return all(bool(mallopt(ctypes.c_int(name), ctypes.c_int(value))) for name, value in wishes)
