"""The task runner: every kernel is run by several threads here, or by the caller alone where that is not safe.

A kernel is ``kernel(thread, counter, tasks, *arrays)``: nogil, it takes task numbers from the shared counter until
none is left, so any number of threads may run it on one counter. Tasks never share an output element: a result is
bitwise the same for any number of threads.

Who runs the tasks:

===================================================  ===========================================================
numba's pool under omp or tbb                        the usual case: one prange driver for all kernels, ~2 us
a crew of plain Python threads, ~30 us               after a fork (omp kills a child that uses its parent's pool)
                                                     and under workqueue, which aborts the process on concurrent
                                                     or nested launches, our own or the user's, and costs 100 us
the calling thread alone                             one thread or one task; a call while another thread's call
                                                     is using the pool; a call from a thread Python did not start,
                                                     such as numba's own worker inside a user's prange
===================================================  ===========================================================

libgomp's threads spin for a moment after each launch, which is what makes the next one cheap. Where other pools (torch,
BLAS) want the same cores in between, ``OMP_WAIT_POLICY=passive`` makes them sleep at once, for some 20 us a launch.
"""

from __future__ import annotations

import os
import threading
from _thread import get_ident
from contextlib import nullcontext
from queue import SimpleQueue
from typing import Any

import numba
import numpy as np
from llvmlite.binding import ffi
from numba import prange, typeof
from numba.core import types
from numba.core.compiler_lock import global_compiler_lock
from numba.core.errors import TypingError
from numba.extending import intrinsic

from fastconv.cpu.jit import kernel

_threads: int | None = None  # what set_num_threads said
_launcher: Any = None  # which engine runs the tasks; chosen at the first parallel call of the process
_crew: _Crew | None = None
_pool = threading.Lock()  # held by the thread whose call is using the pool
_counters: list[np.ndarray] = []  # counters not in use; taken out while used, so signal handlers may call run() too
_addresses: dict[Any, int] = {}


def get_num_threads() -> int:
    """Threads a call may use.

    Unless `set_num_threads` said otherwise this is ``numba.config.NUMBA_NUM_THREADS``: the number of CPUs this process
    may run on, or the environment variable of that name. A smaller ``numba.set_num_threads`` in the calling thread also
    holds, as it does for any numba function. Fewer threads run where there are fewer tasks. The number never changes
    a result.
    """
    return numba.config.NUMBA_NUM_THREADS if _threads is None else _threads


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
    global _threads
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)):
        raise TypeError(f"n must be an int, got {n!r}")
    most = numba.config.NUMBA_NUM_THREADS
    if not 1 <= n <= most:
        raise ValueError(f"n must be from 1 to {most} (the CPUs numba may use), got {n}")
    _threads = int(n)


def engine() -> str:
    """Which engine runs parallel calls, for people: ``"numba omp"``, ``"numba tbb"`` or ``"Python threads"``."""
    return f"numba {numba.threading_layer()}" if (_launcher or _choose_launcher()) is _launch_pool else "Python threads"


def run(kernel: Any, tasks: int, arrays: tuple[Any, ...], threads: int) -> None:
    """Run `tasks` tasks of a kernel on up to `threads` threads, and return when all are done."""
    try:
        counter = _counters.pop()
    except IndexError:
        counter = np.zeros(16, np.int64)  # two cache lines: no other thread's data beside the contended word
    counter[0] = 0
    if threads > tasks:
        threads = tasks
    if threads <= 1 or is_foreign() or not (pool := _pool).acquire(False):
        kernel(0, counter, tasks, *arrays)
    else:
        try:
            (_launcher or _choose_launcher())(_address(kernel, arrays), threads, counter, tasks, arrays)
        finally:
            pool.release()
    _counters.append(counter)


def is_foreign() -> bool:
    """Whether this thread was not started by Python: it may be a pool's worker in the middle of a parallel region."""
    known = threading._active.get(get_ident())  # type: ignore[attr-defined]
    return known is None or type(known) is threading._DummyThread  # type: ignore[attr-defined]


def _choose_launcher() -> Any:
    global _launcher
    layer = "workqueue"
    if numba.config.THREADING_LAYER != "workqueue":
        try:
            numba.get_num_threads()  # starts numba's pool, which decides the layer
            layer = numba.threading_layer()
        except ValueError:  # numba was told to use a layer that it cannot load
            pass
    _launcher = _launch_crew if layer == "workqueue" else _launch_pool
    return _launcher


# A child forked while another thread compiles would wait for that thread's locks for ever: numba's, then LLVM's.
_compiler_locks = (global_compiler_lock, getattr(ffi.lib, "_lock", nullcontext()))


def _before_fork() -> None:
    for lock in _compiler_locks:
        lock.__enter__()


def _after_fork() -> None:
    for lock in reversed(_compiler_locks):
        lock.__exit__(None, None, None)


def _after_fork_in_child() -> None:
    """In the child only the forking thread lives: no pool, no crew, and nobody to release the lock."""
    global _launcher, _crew, _pool
    _after_fork()
    _launcher, _crew, _pool = _launch_crew, None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)


# ---- numba's pool -------------------------------------------------------------------------------------------------


@intrinsic
def _call(typingctx: Any, address: Any, thread: Any, counter: Any, tasks: Any, arrays: Any) -> Any:
    """Call a compiled kernel by its address, with the tuple's arrays as its arguments."""
    if not isinstance(arrays, types.BaseTuple):
        raise TypingError("arrays must be a tuple")
    signature = types.void(types.intp, types.int64, counter, types.int64, arrays)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        kinds = (types.int64, sig.args[2], types.int64, *sig.args[4].types)
        values = [args[1], args[2], args[3]]
        values += [builder.extract_value(args[4], i) for i in range(len(sig.args[4].types))]
        convention = context.call_conv
        function_type = convention.get_function_type(types.none, kinds)
        function = builder.inttoptr(args[0], function_type.as_pointer())
        convention.call_function(builder, function, types.none, kinds, values)
        return context.get_dummy_value()

    return signature, codegen


@kernel(parallel=True, _nrt=True)
def _launch(address, threads, counter, tasks, arrays):  # type: ignore[no-untyped-def]
    for thread in prange(threads):
        _call(address, thread, counter, tasks, arrays)


def _launch_pool(address: int, threads: int, counter: np.ndarray, tasks: int, arrays: tuple[Any, ...]) -> None:
    if threads >= numba.config.NUMBA_NUM_THREADS:
        _launch(address, threads, counter, tasks, arrays)
        return
    # Numba wakes every worker for any prange unless told otherwise; a lower limit set by the user stays.
    limit = numba.get_num_threads()
    numba.set_num_threads(min(threads, limit))
    try:
        _launch(address, threads, counter, tasks, arrays)
    finally:
        numba.set_num_threads(limit)


@kernel
def _run_here(address, thread, counter, tasks, arrays):  # type: ignore[no-untyped-def]
    _call(address, thread, counter, tasks, arrays)


def _address(dispatcher: Any, arrays: tuple[Any, ...]) -> int:
    """Address of the compiled specialisation of `dispatcher` for these arrays."""
    key = (dispatcher, arrays[-1].dtype.num)
    address = _addresses.get(key)
    if address is None:
        kinds = (types.int64, types.int64[::1], types.int64, *(typeof(a) for a in arrays))
        dispatcher.compile(kinds)
        compiled = dispatcher.overloads[kinds]
        address = compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name)
        _addresses[key] = address
    return address


# ---- plain Python threads -----------------------------------------------------------------------------------------


class _Job:
    """One run of a kernel. The caller works too, and does not wait for helpers that wake up after the last task."""

    def __init__(self, *call: Any) -> None:
        self.call = call
        self.lock = threading.Lock()
        self.idle = threading.Lock()  # acquired by the caller, released by the last helper
        self.joined = 0
        self.working = 0
        self.closed = False

    def help(self) -> None:
        with self.lock:
            if self.closed:
                return
            self.joined += 1
            self.working += 1
            thread = self.joined
        address, counter, tasks, arrays = self.call
        try:
            _run_here(address, thread, counter, tasks, arrays)
        finally:
            with self.lock:
                self.working -= 1
                if self.closed and not self.working:
                    self.idle.release()

    def finish(self) -> None:
        with self.lock:
            self.closed = True
            if not self.working:
                return
            self.idle.acquire()
        self.idle.acquire()


class _Crew:
    """Daemon threads that wait for jobs in a queue."""

    def __init__(self) -> None:
        self.jobs: SimpleQueue[_Job] = SimpleQueue()
        self.size = 0

    def launch(self, threads: int, job: _Job) -> None:
        while self.size < threads - 1:
            self.size += 1
            threading.Thread(target=self._work, name=f"fastconv-{self.size}", daemon=True).start()
        for _ in range(threads - 1):
            self.jobs.put(job)

    def _work(self) -> None:
        while True:
            self.jobs.get().help()


def _launch_crew(address: int, threads: int, counter: np.ndarray, tasks: int, arrays: tuple[Any, ...]) -> None:
    global _crew
    if _crew is None:
        _crew = _Crew()
    job = _Job(address, counter, tasks, arrays)
    _crew.launch(threads, job)
    try:
        _run_here(address, 0, counter, tasks, arrays)
    finally:
        job.finish()  # the arrays may be freed or reused by the caller only when no helper works on them
