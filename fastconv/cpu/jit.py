"""What a kernel is: a function that shares its tasks with the crew.

A kernel is written as ``f(thread, counter, tasks, *arrays)``. It takes task numbers from the counter until none is left
(`simd.claim`), so any number of threads may run it on one counter. It is called as ``f(threads, board, tasks,
*arrays)``: compiled around it is what makes the counter, offers the job on the crew's board and works on it too. Python
hands its arrays over once, whoever works on them.
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import Any

from numba import int64

from fastconv.cpu import crew
from fastconv.cpu.cached import cache_folder, cached, inline, outlined

__all__ = ["cache_folder", "inline", "kernel", "outlined"]

_CALL = """
def call(threads, board, tasks, {arrays}):
    counter = new_counter()
    if threads > 1 and enter(board):
        function, data = job(body, counter, tasks, ({arrays},))
        share(board, threads, function, data)
    else:
        body(int64(0), counter, tasks, {arrays})
"""


def kernel(function: Callable[..., Any]) -> Any:
    """Compile a kernel on its first call, without the GIL, cached on disk; with NumPy's division rules."""
    scope: dict[str, Any] = {name: getattr(crew, name) for name in ("new_counter", "enter", "job", "share")}
    scope |= {"body": outlined(function), "int64": int64}
    exec(_CALL.format(arrays=", ".join(list(signature(function).parameters)[3:])), scope)
    call = scope["call"]
    call.__module__, call.__name__, call.__qualname__ = function.__module__, function.__name__, function.__qualname__
    call.__doc__ = function.__doc__
    dispatcher = cached(call, function)
    dispatcher.body = scope["body"]
    return dispatcher
