"""Intake of layers that keep the shape of their input: arrays as flat memory, in one of the two orders, and back."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from fastconv import arrays
from fastconv.call import layout_is_channels_last
from fastconv.cpu.threads import get_num_threads

#: What each dtype is computed in.
COMPUTED: dict[np.dtype, np.dtype] = {
    np.dtype(np.float16): np.dtype(np.float32),
    np.dtype(np.float32): np.dtype(np.float32),
    np.dtype(np.float64): np.dtype(np.float64),
}
_FORMS_LIMIT = 1024  # shapes remembered


def as_float(name: str, value: Any) -> np.ndarray:
    """`value` as a plain array of float16, float32 or float64 in native byte order."""
    array = value if type(value) is np.ndarray and value.dtype in COMPUTED else arrays.as_array(name, value)
    if array.dtype not in COMPUTED:
        raise TypeError(f"{name} must have a dtype among {', '.join(map(str, COMPUTED))}, got {array.dtype}")
    return array


def number(name: str, value: Any, low: float = -np.inf, high: float = np.inf) -> float:
    """A real number from `low` to `high`."""
    if type(value) is float and low <= value <= high:
        return value
    expected = "a number" if low == -np.inf else f"a number of at least {low:g}"
    if high != np.inf:
        expected = f"a number from {low:g} to {high:g}"
    if isinstance(value, (bool, np.bool_, str)) or np.ndim(value):
        raise TypeError(f"{name} must be {expected}, got {value!r}")
    try:
        result = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be {expected}, got {value!r}") from None
    if not low <= result <= high:
        raise ValueError(f"{name} must be {expected}, got {value!r}")
    return result


def flag(name: str, value: Any) -> bool:
    """A bool and nothing else."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)


class Form:
    """How a batch of feature maps of one shape and order lies in memory, and how it is turned there and back."""

    __slots__ = ("C", "N", "S", "channels_axis", "channels_last", "from_memory", "memory_shape", "to_memory")

    def __init__(self, array: np.ndarray, layout: str) -> None:
        last = layout_is_channels_last(layout, max(array.ndim - 2, 1))
        logical = np.moveaxis(array, -1, 1) if last else array
        self.N, self.C, self.S = logical.shape[0], logical.shape[1], prod(logical.shape[2:])
        self.channels_last = self.S == 1 or arrays.is_channels_last(logical, prefer=last)
        axes = tuple(range(array.ndim))
        self.channels_axis = channel = axes[-1] if last else 1
        others = tuple(a for a in axes[1:] if a != channel)
        self.to_memory = (0, *others, channel) if self.channels_last else (0, channel, *others)
        self.from_memory = tuple(int(a) for a in np.argsort(self.to_memory))
        self.memory_shape = tuple(array.shape[a] for a in self.to_memory)


_forms: dict[Any, Form] = {}


class Features:
    """A batch of feature maps, (N, C, *spatial) to its user, flat in memory order to a kernel.

    Attributes
    ----------
    N, C, S : int
        Images, channels, cells of a channel.
    channels_last : bool
        Whether memory is (N, *spatial, C). Without cells to run along (S == 1) it is both, and counts as that.
    flat : numpy.ndarray
        The data, contiguous, in `dtype`, which the kernels compute in.
    """

    def __init__(self, name: str, x: Any, layout: str = "NCHW", *, least_axes: int = 2) -> None:
        array = as_float(name, x)
        if not least_axes <= array.ndim <= 5:
            axes = f"{least_axes} to 5 axes (N, C, {'0' if least_axes == 2 else '1'} to 3 spatial)"
            raise ValueError(f"{name} must have {axes}, got shape {array.shape}")
        key = array.shape, array.strides, layout
        form = _forms.get(key)
        if form is None:
            form = Form(array, layout)
            if len(_forms) >= _FORMS_LIMIT:
                _forms.clear()
            _forms[key] = form
        self.form, self.name, self.shape, self.result = form, name, array.shape, array.dtype
        self.dtype = COMPUTED[array.dtype]
        self.N, self.C, self.S, self.channels_last = form.N, form.C, form.S, form.channels_last
        self.channels_axis = form.channels_axis
        self.flat = self._flatten(array)

    def _flatten(self, array: np.ndarray) -> np.ndarray:
        return arrays.ready(array.transpose(self.form.to_memory), self.dtype).reshape(-1)

    def like(self, name: str, value: Any) -> np.ndarray:
        """Another array of this shape and dtype, flat in the same memory order."""
        array = as_float(name, value)
        if array.shape != self.shape:
            raise ValueError(f"{name} must have the shape of {self.name}, {self.shape}, got {array.shape}")
        if array.dtype != self.result:
            raise TypeError(f"{name} must have the dtype of {self.name}, {self.result}, got {array.dtype}")
        return self._flatten(array)

    def per_channel(self, name: str, value: Any) -> np.ndarray:
        """One number a channel, or an empty array for None."""
        return vector(name, value, (self.C,), self, f"one value for each of the {self.C} channels")

    def target(self, out: Any = None) -> np.ndarray:
        """Where a kernel writes its result: the memory of `out` if it can, a new array else."""
        if out is not None:
            out = arrays.check_out(out, self.shape, self.result)
            arrays.check_no_overlap(out, **{self.name: self.flat})
            view = out.transpose(self.form.to_memory)
            if view.flags.num & arrays.READY == arrays.READY and view.dtype == self.dtype:
                return view.reshape(-1)
        return np.empty(self.flat.size, self.dtype)

    def wrap(self, flat: np.ndarray) -> np.ndarray:
        """A result in memory order as the user sees it."""
        array = flat.reshape(self.form.memory_shape).transpose(self.form.from_memory)
        return array if self.result is self.dtype or self.result == self.dtype else array.astype(self.result)

    def deliver(self, flat: np.ndarray, out: np.ndarray | None) -> np.ndarray:
        """What `target` gave, as the user sees it, in `out` if there is one."""
        if out is None:
            return self.wrap(flat)
        if not np.may_share_memory(flat, out):
            np.copyto(out, self.wrap(flat))
        return out


def vector(name: str, value: Any, shape: tuple[int, ...], like: Any, meaning: str) -> np.ndarray:
    """A parameter of `shape` as a flat array of the dtype that `like` is computed in; empty for None."""
    if value is None:
        return np.empty(0, like.dtype)
    if type(value) is np.ndarray and value.shape == shape and value.dtype == like.result == like.dtype:
        return arrays.ready(value, like.dtype).reshape(-1)  # the usual case
    array = as_float(name, value)
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, {meaning}, got {array.shape}")
    if array.dtype != like.result:
        raise TypeError(f"{name} must have the dtype of {like.name}, {like.result}, got {array.dtype}")
    return arrays.ready(array, like.dtype).reshape(-1)


def threads_for(elements: int) -> int:
    """Threads worth waking for a kernel that passes once over so many elements: one does it in 20 us."""
    return get_num_threads() if elements >= 1 << 17 else 1
