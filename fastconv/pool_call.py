"""What pools, unpools and resampling share: reading arrays, their two memory orders, and calls that are remembered.

A `Frame` says how one array lies: with or without a batch, channels first or last by its axes, channels first or last
by its memory. Kernels see flat arrays in memory order; results come back in the caller's axes with the memory order of
the input. Results of the same call with the same shapes, dtypes and options skip all of that: see `bound`.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import is_
from typing import Any

import numpy as np

from fastconv import arrays
from fastconv.arrays import C_CONTIGUOUS, READY
from fastconv.call import layout_is_channels_last, remember
from fastconv.cpu import threads
from fastconv.pool_spec import check_shape
from fastconv.spec import shape_tuple

AXES = {1: "L", 2: "H, W", 3: "D, H, W"}

#: dtype -> the dtype that kernels compute in.
FLOATS = {"float16": "float32", "float32": "float32", "float64": "float64"}
NUMBERS = FLOATS | {"int8": "int32", "uint8": "int32", "int16": "int32", "int32": "int32", "int64": "int64"}

_calls: dict[Any, Callable[..., Any]] = {}

# By builder and shape, what the last such call came to, with which array and options: with the very same objects as
# options nothing has to be hashed or validated.
_latest: dict[Any, tuple[Callable[..., Any], tuple[Any, ...], tuple[Any, ...]]] = {}


def _kinds(options: tuple[Any, ...]) -> tuple[Any, ...]:
    """The types of options: 1, True and 1.0 are equal keys, but not equally valid."""
    return tuple([tuple(map(type, o)) if type(o) is tuple else type(o) for o in options])


def _same(one: Any, other: Any) -> bool:
    """Whether an option is the very same object, an equal int, or a tuple of such."""
    if one is other:
        return True
    kind = type(one)
    if kind is not type(other):
        return False
    if kind is tuple:
        return len(one) == len(other) and all(map(_same, one, other))
    return kind is int and one == other


def bound(build: Callable[..., Callable[..., Any]], ndim: int, x: np.ndarray, *options: Any) -> Callable[..., Any]:
    """``build(ndim, x, *options)``, remembered for arrays like `x`: validation and planning happen once."""
    flags = x.flags.num & READY
    array = (ndim, x.dtype, flags, None if flags & C_CONTIGUOUS else x.strides, threads.count)
    near = (build, x.shape)
    latest = _latest.get(near)
    if latest is not None and latest[1] == array:
        call, _, given = latest
        if all(map(is_, given, options)) or all(map(_same, given, options)):
            return call
    key = (*near, *array, options, _kinds(options))
    try:
        found = _calls.get(key)
    except TypeError:  # a list among the options: such calls are bound anew each time
        return build(ndim, x, *options)
    if found is None:
        found = build(ndim, x, *options)
        remember(_calls, key, found)
    remember(_latest, near, (found, array, options))
    return found


class Frame:
    """How an array of `ndim` spatial axes lies, and how others like it shall."""

    def __init__(
        self, function: str, ndim: int, x: np.ndarray, layout: Any, kinds: dict[str, str] = FLOATS, name: str = "x"
    ) -> None:
        last = layout_is_channels_last(layout, ndim)
        if x.ndim not in (ndim + 1, ndim + 2):
            axes = f"{AXES[ndim]}, C" if last else f"C, {AXES[ndim]}"
            raise ValueError(
                f"{function}: {name} must have {ndim + 2} axes (N, {axes}) or {ndim + 1} ({axes}), got shape {x.shape}"
            )
        if x.dtype.name not in kinds:
            raise TypeError(f"{function}: {name} must have a dtype among {', '.join(kinds)}, got {x.dtype}")
        self.function, self.ndim, self.last, self.batched = function, ndim, last, x.ndim == ndim + 2
        logical = x if self.batched else x[None]
        logical = np.moveaxis(logical, -1, 1) if last else logical
        self.N, self.C, *sizes = check_shape(logical.shape)
        self.sizes = tuple(sizes)
        self.dtype, self.kernel = x.dtype, np.dtype(kinds[x.dtype.name])
        self.native = self.dtype == self.kernel
        self._order(arrays.is_channels_last(logical, prefer=last))
        view = x if self.to_memory is None else x.transpose(self.to_memory)
        self.x_ready = self.native and view.flags.num & READY == READY

    def _order(self, channels_last: bool) -> None:
        """x.transpose(to_memory) and result.transpose(from_memory) switch between the axes and the memory order."""
        self.channels_last = channels_last
        axes = self.ndim + 1 + self.batched
        channel, spatial = axes - self.ndim - 1, tuple(range(axes - self.ndim, axes))
        front = tuple(range(channel))
        self.to_memory: tuple[int, ...] | None = None
        self.from_memory: tuple[int, ...] | None = None
        if channels_last and not self.last:
            self.to_memory, self.from_memory = (
                (*front, *spatial, channel),
                (*front, axes - 1, *range(channel, axes - 1)),
            )
        elif self.last and not channels_last:
            self.to_memory, self.from_memory = (
                (*front, axes - 1, *range(channel, axes - 1)),
                (*front, *spatial, channel),
            )

    def channels_first(self) -> Frame:
        """This frame, for kernels that know channels first only."""
        self._order(False)
        self.x_ready = False
        return self

    def shape(self, sizes: tuple[int, ...], C: int | None = None) -> tuple[int, ...]:
        """The caller's shape of an array with these spatial sizes."""
        C = self.C if C is None else C
        outer = (self.N,) if self.batched else ()
        return (*outer, *sizes, C) if self.last else (*outer, C, *sizes)

    def memory_shape(self, sizes: tuple[int, ...]) -> tuple[int, ...]:
        """The same in memory order."""
        outer = (self.N,) if self.batched else ()
        return (*outer, *sizes, self.C) if self.channels_last else (*outer, self.C, *sizes)

    def parse_shape(self, name: str, shape: Any) -> tuple[int, ...]:
        """The spatial sizes of a caller's shape whose batch and channels are this frame's."""
        given = shape_tuple(name, shape)
        sizes = given[-self.ndim - 1 : -1] if self.last else given[-self.ndim :]
        if len(given) != self.ndim + 1 + self.batched or given != self.shape(sizes) or 0 in sizes:
            channels = f"{self.N} images of {self.C} channels" if self.batched else f"{self.C} channels"
            raise ValueError(
                f"{self.function}: {name} must have {self.ndim + 1 + self.batched} axes for {channels}, got {given}"
            )
        return sizes

    def flat(self, x: np.ndarray) -> np.ndarray:
        """An array as kernels read it: flat, in memory order, in their dtype."""
        if self.to_memory is not None:
            x = x.transpose(self.to_memory)
        return x.ravel() if self.x_ready else arrays.ready(x, self.kernel).ravel()  # half the time of reshape(-1)

    def take(self, name: str, value: Any, sizes: tuple[int, ...], dtype: Any = None) -> np.ndarray:
        """Another array of the call, checked, as kernels read it."""
        array = arrays.as_array(name, value)
        if array.shape != (expected := self.shape(sizes)):
            raise ValueError(f"{self.function}: {name} must have shape {expected}, got {array.shape}")
        wanted = self.dtype if dtype is None else np.dtype(dtype)
        if array.dtype != wanted:
            raise TypeError(f"{self.function}: {name} must have dtype {wanted}, got {array.dtype}")
        if self.to_memory is not None:
            array = array.transpose(self.to_memory)
        return arrays.ready(array, self.kernel if dtype is None else wanted).reshape(-1)

    def empty(self, sizes: tuple[int, ...], dtype: Any = None) -> np.ndarray:
        """A result in memory order, for kernels to fill."""
        return np.empty(self.memory_shape(sizes), self.kernel if dtype is None else dtype)

    def result(self, array: np.ndarray) -> np.ndarray:
        """A filled result in the caller's axes and dtype."""
        if not self.native and array.dtype == self.kernel:
            with np.errstate(over="ignore"):
                array = array.astype(self.dtype)
        return array if self.from_memory is None else array.transpose(self.from_memory)

    def target(self, sizes: tuple[int, ...], out: Any, **inputs: np.ndarray) -> np.ndarray:
        """Where kernels write a result: the memory of the caller's `out`, which is checked first, or a new array."""
        if out is None:
            return self.empty(sizes)
        array = arrays.check_out(out, self.shape(sizes), self.dtype)
        arrays.check_no_overlap(array, **inputs)
        if self.to_memory is not None:
            array = array.transpose(self.to_memory)
        return array if self.native and array.flags.num & READY == READY else self.empty(sizes)

    def deliver(self, target: np.ndarray, out: Any) -> np.ndarray:
        """What `target` gave, filled, as the caller sees it: in `out` if there is one."""
        if out is None and self.native and self.from_memory is None:
            return target
        result = self.result(target)
        if out is None:
            return result
        if not np.may_share_memory(target, out):
            np.copyto(out, result)
        return out

    def into(self, out: Any, result: np.ndarray, **inputs: np.ndarray) -> np.ndarray:
        """`result` written to the caller's `out`, which is checked first."""
        target = arrays.check_out(out, result.shape, result.dtype)
        arrays.check_no_overlap(target, **inputs)
        np.copyto(target, result)
        return out


def plain(value: Any) -> Any:
    """A list as a tuple, so that an option can be part of a key."""
    return tuple(value) if isinstance(value, list) else value
