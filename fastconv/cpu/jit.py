"""What a kernel is: a function that any number of threads may run at the same time, each taking tasks.

A kernel is written as ``f(thread, counter, tasks, *arrays)``. It takes task numbers from the counter until none is left
(`simd.claim`). It is run by `threads.run`, which hands it a tuple of arrays of any shapes: kernels see them flat.
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import Any

import numpy as np
from numba.core import types
from numba.core.compiler_lock import global_compiler_lock
from numba.np.numpy_support import from_dtype

from fastconv.cpu import frame
from fastconv.cpu.cached import cache_folder, inline, native, outlined

__all__ = ["Kernel", "cache_folder", "inline", "kernel", "outlined"]

# What threads call. The body is a global of its scope: numba's cache finds no function with free variables again.
_ENTRY = "def entry(thread, frame): body(thread, *unframe(frame))"


class Kernel:
    """A kernel and what has been compiled of it so far: one function for each combination of dtypes."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.name, self.arrays = function.__qualname__, len(signature(function).parameters) - 3
        if self.arrays > frame.MOST_ARRAYS:
            raise TypeError(f"{self.name} takes {self.arrays} arrays, more than {frame.MOST_ARRAYS}")
        self.body = outlined(function)
        scope: dict[str, Any] = {"body": self.body, "unframe": frame.unframe}
        exec(_ENTRY, scope)
        entry = scope["entry"]
        entry.__module__, entry.__name__, entry.__qualname__ = (
            function.__module__, function.__name__, function.__qualname__
        )  # fmt: skip
        self.entry = native(entry, function)
        self.__module__, self.__doc__ = function.__module__, function.__doc__
        self._functions: dict[tuple[np.dtype, ...], int] = {}
        self._tables: list[np.ndarray] = []
        self._publish()

    @property
    def signatures(self) -> list[tuple[np.dtype, ...]]:
        """The dtypes of the arrays, for each function."""
        return list(self._functions)

    def _publish(self) -> None:
        """A new table; the old ones stay, for threads that are reading them."""
        rows = [word for kinds, address in self._functions.items() for word in (address, *map(id, kinds))]
        table = np.array([self.arrays, id(tuple), id(np.ndarray), len(self._functions), *rows], np.int64)
        self._tables.append(table)
        self.table: int = table.ctypes.data

    def admit(self, arrays: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
        """The same arrays as `launch` takes them, now that there is a function for them: compiled here, or loaded."""
        if type(arrays) is not tuple or len(arrays) != self.arrays:
            raise TypeError(f"{self.name} takes a tuple of {self.arrays} arrays, got {arrays!r}")
        for array in arrays:
            usable = type(array) is np.ndarray and array.flags.num & frame.USABLE == frame.USABLE
            if not usable or not array.dtype.isnative:
                raise TypeError(f"{self.name} takes contiguous arrays, got {array!r}")
        # NumPy has one object for each dtype, and may make others that are equal to it.
        usual = tuple([np.dtype(array.dtype.name) for array in arrays])
        with global_compiler_lock:
            if usual not in self._functions:
                self._functions[usual] = self._compile(usual)
                self._publish()
        return tuple([array.view(kind) for array, kind in zip(arrays, usual, strict=True)])

    def _compile(self, kinds: tuple[np.dtype, ...]) -> int:
        arrays = tuple(types.Array(from_dtype(kind), 1, "C") for kind in kinds)
        wanted = (types.int64, frame.frame_type(arrays))
        self.entry.compile(wanted)
        compiled = self.entry.overloads[wanted]
        return int(compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name))


def kernel(function: Callable[..., Any]) -> Kernel:
    """A kernel, compiled on its first call, without the GIL, cached on disk; with NumPy's division rules."""
    return Kernel(function)
