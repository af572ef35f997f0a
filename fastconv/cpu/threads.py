"""The task runner: one prange driver for all kernels, and the serial way for when a pool must not be used.

A kernel is ``kernel(thread, counter, tasks, *arrays)`` and takes task numbers from the shared counter until none is
left. Tasks never share an output element, so a result is bitwise the same for any number of threads.
"""

from __future__ import annotations

import os
import threading
from typing import Any

import numba
import numpy as np
from numba import prange, typeof
from numba.core import types
from numba.core.errors import TypingError
from numba.extending import intrinsic

from fastconv.cpu.jit import kernel

_pool = threading.Lock()
_threads: int | None = None
_forked = False
_addresses: dict[Any, int] = {}


def _after_fork() -> None:
    global _forked, _pool
    _forked = True  # numba's pool did not survive the fork: omp would kill this process
    _pool = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def get_num_threads() -> int:
    """Threads a call may use."""
    return numba.config.NUMBA_NUM_THREADS if _threads is None else _threads


def set_num_threads(n: int) -> None:
    """Set how many threads a call may use, 1 to the number of CPUs.

    Parameters
    ----------
    n : int
        Number of threads.

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


@kernel(parallel=True)
def _launch(address, threads, counter, tasks, arrays):  # type: ignore[no-untyped-def]
    for thread in prange(threads):
        _call(address, thread, counter, tasks, arrays)


def _address(dispatcher: Any, arrays: tuple[Any, ...]) -> int:
    """Address of the compiled specialisation of `dispatcher` for these arrays."""
    key = (dispatcher, arrays[-1].dtype)
    address = _addresses.get(key)
    if address is None:
        kinds = (types.int64, types.int64[::1], types.int64, *(typeof(a) for a in arrays))
        dispatcher.compile(kinds)
        compiled = dispatcher.overloads[kinds]
        address = compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name)
        _addresses[key] = address
    return address


def run(kernel: Any, tasks: int, arrays: tuple[Any, ...], threads: int) -> None:
    """Run `tasks` tasks of a kernel on up to `threads` threads.

    The calling thread works alone when it is given one thread, when another Python thread is using the pool, and
    in a forked child.
    """
    counter = np.zeros(1, np.int64)
    if threads <= 1 or tasks <= 1 or _forked or not _pool.acquire(blocking=False):
        kernel(0, counter, tasks, *arrays)
        return
    try:
        _launch(_address(kernel, arrays), threads, counter, tasks, arrays)
    finally:
        _pool.release()
