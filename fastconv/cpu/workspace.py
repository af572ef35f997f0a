"""Scratch memory: one arena per Python thread, reused from call to call, never allocated inside a kernel.

An arena grows to the largest request and is bounded by what is in use: when the largest of 64 requests in a row was
less than half of it, it shrinks to that. It is freed with its thread, or by `release`. A plan's `workspace_limit`
bounds each request before it is made.
"""

from __future__ import annotations

import threading

import numpy as np

ALIGNMENT = 64  # bytes: a cache line, and the widest vector
_WINDOW = 64  # requests between two looks at whether the arena is too large


def _allocate(size: int) -> np.ndarray:
    raw = np.empty(size + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size]


class _Arena:
    """One thread's memory, and the view that its last request got."""

    def __init__(self) -> None:
        self.memory = _allocate(0)
        self.key: tuple[str, int] | None = None
        self.view = self.memory
        self.calls = 0
        self.largest = 0  # bytes asked for at most since the window began

    def resize(self, size: int) -> None:
        self.memory = self.view = _allocate(0)  # the old memory goes first: the two never add up
        self.memory = _allocate(size)

    def take(self, key: tuple[str, int]) -> np.ndarray:
        dtype = np.dtype(key[0])
        size = key[1] * dtype.itemsize
        self.largest = max(self.largest, size)
        self.calls += 1
        if size > self.memory.nbytes:
            self.resize(size)
        elif self.calls >= _WINDOW:
            if 2 * self.largest < self.memory.nbytes:
                self.resize(self.largest)
            self.calls, self.largest = 0, size
        self.key, self.view = key, self.memory[:size].view(dtype)
        return self.view


_local = threading.local()


def _arena() -> _Arena:
    try:
        return _local.arena
    except AttributeError:
        arena = _local.arena = _Arena()
        return arena


def aligned(elements: int, itemsize: int) -> int:
    """`elements` rounded up so that the next thread's part starts on a cache line."""
    step = ALIGNMENT // itemsize
    return -(-elements // step) * step


def scratch(dtype: str, per_thread: int, threads: int) -> np.ndarray:
    """Uninitialised flat array of ``per_thread * threads`` elements of any dtype, aligned to 64 bytes.

    It is valid until this Python thread's next request: an algorithm that needs two buffers takes one and splits it.
    """
    key = (dtype, per_thread * threads)
    arena = _arena()
    if key == arena.key and arena.calls < _WINDOW:
        arena.calls += 1  # the usual case, a layer called again and again
        return arena.view
    return arena.take(key)


def held() -> int:
    """Bytes that this thread's arena holds."""
    return _arena().memory.nbytes


def release() -> None:
    """Give this thread's arena back to the system."""
    _local.arena = _Arena()


def empty_aligned(dtype: str, elements: int) -> np.ndarray:
    """Uninitialised flat array that starts on a cache line, for weights that are packed once and kept."""
    return _allocate(elements * np.dtype(dtype).itemsize).view(dtype)
