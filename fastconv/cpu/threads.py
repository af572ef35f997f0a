"""The task runner: every kernel is run by several threads here, or by the caller alone where that is not safe.

A kernel's tasks are numbers taken from a shared counter, so any number of threads may work on them. Tasks never share
an output element: a result is bitwise the same for any number of threads.

Helpers are daemon threads of Python's that live in compiled code (`crew.attend`): after a job they watch for the next
one for a while, then they sleep. The caller never waits for a helper that has not begun: it rings those asleep and goes
on. Ringing takes a short call's time, so short calls do without those who sleep, until many follow each other.

===================================================  ===========================================================
who runs the tasks                                   when
===================================================  ===========================================================
the caller and up to ``threads - 1`` helpers         the usual case, under any threading layer of numba's
the caller alone                                     one thread or one task; a call while another thread's call
                                                     is using the crew; a call from a thread Python did not start,
                                                     such as numba's own worker inside a user's prange
===================================================  ===========================================================
"""

from __future__ import annotations

import atexit
import ctypes
import os
import threading
import time
from _thread import get_ident
from collections.abc import Set
from contextlib import nullcontext, suppress
from typing import Any

import numba
import numpy as np
from llvmlite.binding import ffi
from numba.core import types
from numba.core.compiler_lock import global_compiler_lock

from fastconv.cpu import crew

#: Threads a call may use: for reading, by what asks at every call.
count: int = numba.config.NUMBA_NUM_THREADS

#: Seconds for which a helper watches for the next job: about what waking it would cost.
PATIENCE = 200e-6

#: Brief calls that follow each other before a helper is woken for them all the same: that costs 50 to 100 us, with its
#: cold caches, and saves 5 to 30 in each call from then on.
IN_A_ROW = 16


def get_num_threads() -> int:
    """Threads a call may use.

    Unless `set_num_threads` said otherwise this is ``numba.config.NUMBA_NUM_THREADS``: the number of CPUs this process
    may run on, or the environment variable of that name. Fewer threads run where there are fewer tasks. The number
    never changes a result.
    """
    return count


def set_num_threads(n: int) -> None:
    """Set how many threads a call may use, in all Python threads from their next call on.

    Parameters
    ----------
    n : int
        Number of threads, 1 to ``numba.config.NUMBA_NUM_THREADS``. With 1 no pool is ever started.

    Raises
    ------
    TypeError, ValueError
        If `n` is not an integer from 1 to ``numba.config.NUMBA_NUM_THREADS``.
    """
    global count
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)):
        raise TypeError(f"n must be an int, got {n!r}")
    most = numba.config.NUMBA_NUM_THREADS
    if not 1 <= n <= most:
        raise ValueError(f"n must be from 1 to {most} (the CPUs numba may use), got {n}")
    count = int(n)


def run(kernel: Any, tasks: int, arrays: tuple[np.ndarray, ...], threads: int, brief: bool = False) -> None:
    """Run `tasks` tasks of a kernel on up to `threads` threads, and return when all are done.

    A `brief` call takes one thread less than some 75 us: helpers that sleep are left asleep (see `IN_A_ROW`).
    """
    if threads > tasks:
        threads = tasks
    if threads > 1:
        threads = _gather(threads, brief)
    try:
        status = _launch(kernel.table, id(arrays), tasks, threads, _board)
    finally:
        if threads > 1:
            _crew.calling.pop(get_ident(), None)
    if status:
        if status != crew.UNKNOWN:  # the only error of kernels, looked for under NUMBA_BOUNDSCHECK=1
            raise IndexError(f"index is out of bounds, in {kernel.name}")
        run(kernel, tasks, kernel.admit(arrays), threads, brief)


def _first_launch(*arguments: int) -> int:
    """Load the compiled one, which takes its place from now on: calling it costs half of what numba's dispatch does."""
    global _launch
    _launch = crew.launch.compile((types.int64,) * len(arguments))
    return _launch(*arguments)


_launch = _first_launch


def _gather(threads: int, brief: bool) -> int:
    """Call helpers if this thread may have some; how many threads there are now at most."""
    if is_foreign():
        return 1
    _crew.gather(threads - 1, brief)
    return threads


def is_foreign() -> bool:
    """Whether this thread was not started by Python: it may be a pool's worker in the middle of a parallel region."""
    known = threading._active.get(get_ident())  # type: ignore[attr-defined]
    return known is None or type(known) is threading._DummyThread  # type: ignore[attr-defined]


class _Helper(threading.Thread):
    """A thread that works on what its crew's board offers."""

    def __init__(self, crew: _Crew, number: int) -> None:
        super().__init__(name=f"fastconv-{number}", daemon=True)
        self.crew = crew
        self.bell = threading.Lock()  # released to wake this helper
        self.others = 0  # helpers that it must wake then
        self.taken: Set[int] = frozenset()  # cores of those who are awake already
        self.cores: set[int] = set()  # those it may run on; none where the system cannot tell
        self.bound: set[int] = set()  # those of them where it was made to wake up

    def run(self) -> None:
        rounds = _rounds(PATIENCE)
        self.bell.acquire()
        while not self.crew.dismissed:
            crew.attend(_board, rounds)
            if _current_core is not None:
                self.cores = os.sched_getaffinity(0)
            self.crew.asleep.append(self)
            expecting = True
            while expecting and self.bell.locked():
                expecting = self.crew.is_expecting()
                crew.attend(_board, rounds // 4)  # also a job that was opened before this question
            self.bell.acquire()
            if self.bound and os.sched_getaffinity(0) == self.bound:  # else somebody else has bound it
                with suppress(OSError):
                    os.sched_setaffinity(0, self.cores)
            self.crew.ring(self.others, self.taken)

    def wake(self, others: int, taken: Set[int]) -> None:
        """Wake this helper, on a core that is not taken.

        Linux may wake a thread on the core of the thread that wakes it, to run when that one pauses, milliseconds
        later: in virtual machines an idle core is often taken for a busy one.
        """
        self.others, self.taken, self.bound = others, taken, set()
        elsewhere = self.cores - taken
        if elsewhere and elsewhere != self.cores and self.native_id is not None:
            with suppress(OSError):
                os.sched_setaffinity(self.native_id, elsewhere)
                self.bound = elsewhere
        self.bell.release()


class _Crew:
    """Helpers, who watch the board."""

    def __init__(self) -> None:
        clear(_words)
        self.helpers: list[_Helper] = []
        self.asleep: list[_Helper] = []
        self.calling: dict[int, int] = {}  # by thread: the last job when it looked for sleepers
        self.briefly = 0  # brief calls that followed each other
        self.last_brief = 0.0
        self.dismissed = False

    def gather(self, helpers: int, brief: bool) -> None:
        """Start helpers that are missing, and wake those asleep; nobody waits for them."""
        if brief and (self.asleep or len(self.helpers) < helpers) and not self.is_busy():
            return
        while len(self.helpers) < helpers and not self.dismissed:
            crew.attend.compile((types.int64,) * 2)  # so that a helper is there when the first kernel is compiled
            helper = _Helper(self, len(self.helpers) + 1)
            self.helpers.append(helper)
            helper.start()
        self.calling[get_ident()] = _last_job()
        if self.asleep:
            self.ring(helpers)

    def is_busy(self) -> bool:
        """Whether this brief call is one of many that follow each other."""
        now = time.perf_counter()
        self.briefly = self.briefly + 1 if now - self.last_brief < PATIENCE else 0
        self.last_brief = now
        return self.briefly >= IN_A_ROW

    def is_expecting(self) -> bool:
        """Whether a caller that may have seen nobody asleep has not opened its job yet: it may have lost its core."""
        return _last_job() in list(self.calling.values())

    def ring(self, most: int, taken: Set[int] = frozenset()) -> None:
        """Wake up to so many helpers: two at once, and these the others, as waking one takes some 10 us."""
        if _current_core is not None:
            taken = {*taken, _current_core()}
        for share in (most + 1) // 2, most // 2:
            if share:
                try:
                    helper = self.asleep.pop()
                except IndexError:
                    return
                helper.wake(share - 1, taken)

    def dismiss(self) -> None:
        """End all helpers."""
        self.dismissed = True
        while self.asleep:
            self.ring(len(self.helpers))
        for helper in self.helpers:
            helper.join(1)


_current_core = getattr(ctypes.CDLL(None), "sched_getcpu", None) if hasattr(os, "sched_setaffinity") else None


def _last_job() -> int:
    return _words.item(crew.STATE) // crew.GENERATION


def clear(board: np.ndarray) -> None:
    """A board on which there is no job."""
    board[:] = 0
    board[crew.STATE] = crew.CLOSED
    board[crew.YIELD] = _yielding()


def _yielding() -> int:
    """Address of the C library's function that lets other threads run; 0 if there is none."""
    try:
        function = ctypes.CDLL(None).sched_yield if os.name == "posix" else ctypes.WinDLL("kernel32").SwitchToThread
    except (AttributeError, OSError):
        return 0
    return ctypes.cast(function, ctypes.c_void_p).value or 0


def _rounds(seconds: float) -> int:
    """Rounds of waiting that take about so long."""
    words = np.empty(crew.WORDS, np.int64)
    clear(words)
    board = words.ctypes.data
    best = 1.0
    for _ in range(3):
        start = time.perf_counter()
        crew.attend(board, 500)
        best = min(best, time.perf_counter() - start)
    return int(500 * seconds / best)


_words = np.empty(crew.WORDS, np.int64)
_board: int = _words.ctypes.data  # the one of this process, also after a fork
_crew = _Crew()


@atexit.register
def _dismiss() -> None:
    """No helper is in compiled code when the interpreter goes down."""
    _crew.dismiss()


# A child forked while another thread compiles would wait for that thread's locks for ever: numba's, then LLVM's.
_compiler_locks = (global_compiler_lock, getattr(ffi.lib, "_lock", nullcontext()))


def _before_fork() -> None:
    for lock in _compiler_locks:
        lock.__enter__()


def _after_fork() -> None:
    for lock in reversed(_compiler_locks):
        lock.__exit__(None, None, None)


def _after_fork_in_child() -> None:
    """In the child only the forking thread lives."""
    global _crew
    _after_fork()
    _crew = _Crew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)
