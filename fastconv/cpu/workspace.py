"""Scratch memory: one arena per Python thread, reused from call to call, never allocated inside a kernel."""

from __future__ import annotations

import threading

import numpy as np

ALIGNMENT = 64  # bytes: a cache line, and the widest vector

_local = threading.local()


def aligned(elements: int, itemsize: int) -> int:
    """`elements` rounded up so that the next thread's part starts on a cache line."""
    step = ALIGNMENT // itemsize
    return -(-elements // step) * step


def scratch(dtype: str, per_thread: int, threads: int) -> np.ndarray:
    """Uninitialised flat array of ``per_thread * threads`` elements, valid until this thread's next call."""
    dt = np.dtype(dtype)
    size = per_thread * threads * dt.itemsize
    arena: np.ndarray | None = getattr(_local, "arena", None)
    if arena is None or arena.nbytes < size:
        raw = np.empty(size + ALIGNMENT, np.uint8)
        start = -raw.ctypes.data % ALIGNMENT
        arena = _local.arena = raw[start : start + size]
    return arena[:size].view(dt)


def release() -> None:
    """Give this thread's arena back to the system."""
    _local.arena = None
