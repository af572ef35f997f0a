"""Scratch memory: an arena per Python thread, reused from call to call, never allocated inside a kernel.

A call has its arena to itself until it gives it back. A signal handler that computes in the middle of another
computation of the same thread, whose helpers may still be at work, therefore gets a second one.

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
    """Memory of one thread, and the view that its last request got: what the ``with`` statement gives."""

    __slots__ = ("calls", "dtype", "elements", "home", "largest", "memory", "view")

    def __init__(self, home: list[_Arena]) -> None:
        self.home = home  # the thread's arenas that no call is using
        self.memory = _allocate(0)
        self.dtype, self.elements = "", -1
        self.view = self.memory
        self.calls = 0
        self.largest = 0  # bytes asked for at most since the window began

    def __enter__(self) -> np.ndarray:
        return self.view

    def __exit__(self, *error: object) -> None:
        self.home.append(self)

    def give_back(self) -> None:
        """What the end of a ``with`` block does, in half the time; an arena that an error keeps from it is freed."""
        self.home.append(self)

    def resize(self, size: int) -> None:
        self.memory = self.view = _allocate(0)  # the old memory goes first: the two never add up
        self.memory = _allocate(size)

    def take(self, dtype: str, elements: int) -> None:
        kind = np.dtype(dtype)
        size = elements * kind.itemsize
        self.largest = max(self.largest, size)
        self.calls += 1
        if size > self.memory.nbytes:
            self.resize(size)
        elif self.calls >= _WINDOW:
            if 2 * self.largest < self.memory.nbytes:
                self.resize(self.largest)
            self.calls, self.largest = 0, size
        self.dtype, self.elements, self.view = dtype, elements, self.memory[:size].view(kind)


class _Local(threading.local):
    def __init__(self) -> None:
        self.arenas: list[_Arena] = []  # this thread's, that no call is using


_local = _Local()


def aligned(elements: int, itemsize: int) -> int:
    """`elements` rounded up so that the next thread's part starts on a cache line."""
    step = ALIGNMENT // itemsize
    return -(-elements // step) * step


def scratch(dtype: str, per_thread: int, threads: int) -> _Arena:
    """Uninitialised flat array of ``per_thread * threads`` elements of any dtype, aligned to 64 bytes, for a while.

    Used as ``with scratch("float32", 1000, 2) as array:``; the array must not be used after the block.
    """
    home = _local.arenas
    arena = home.pop() if home else _Arena(home)
    elements = per_thread * threads
    if elements == arena.elements and dtype == arena.dtype and arena.calls < _WINDOW:
        arena.calls += 1  # the usual case, a layer called again and again
    else:
        arena.take(dtype, elements)
    return arena


def held() -> int:
    """Bytes that this thread's arenas hold between calls."""
    return sum(arena.memory.nbytes for arena in _local.arenas)


def release() -> None:
    """Give this thread's arenas back to the system."""
    _local.arenas.clear()


def empty_aligned(dtype: str, elements: int) -> np.ndarray:
    """Uninitialised flat array that starts on a cache line, for weights that are packed once and kept."""
    return _allocate(elements * np.dtype(dtype).itemsize).view(dtype)
