"""Convolutions inside the user's own nopython code, also inside ``prange``.

After ``import fastconv.integrations.numba``, functions compiled by `numba.njit` may call `fastconv.conv1d`, `conv2d`
and `conv3d`::

    import fastconv
    import fastconv.integrations.numba
    from fastconv import conv2d

    @numba.njit(parallel=True)
    def blur_all(images, kernel):
        out = np.empty_like(images)
        for i in numba.prange(len(images)):
            out[i] = conv2d(images[i], kernel, padding=1)
        return out

Arguments are those of the functions themselves, all by position or keyword: arrays of any supported dtype, ints or
tuples of ints, strings, ``None``, and an activation by name or as a tuple ``(name, parameters...)``. `out` is not
taken: the result is a new C-contiguous array. Every call takes the GIL for some microseconds to find its plan and then
runs without it, on one thread where the caller is one of numba's workers.

A wrong argument raises what it raises from Python. Out of ``prange`` numba lets no exception: it is printed, and the
values of that iteration are undefined.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import objmode, types
from numba.core.errors import TypingError
from numba.extending import overload
from numba.np.numpy_support import as_dtype, from_dtype

import fastconv
from fastconv import arrays
from fastconv.cpu.threads import is_foreign


def _result(name: str, ndim: int, x: Any, weight: Any) -> types.Array:
    """The numba type of the result."""
    for argument, array, axes in (("x", x, (ndim + 1, ndim + 2)), ("weight", weight, (ndim + 2,))):
        if not isinstance(array, types.Array) or array.ndim not in axes:
            raise TypingError(f"{name}: {argument} must be an array of {' or '.join(map(str, axes))} axes, got {array}")
    try:
        dtypes = as_dtype(x.dtype), as_dtype(weight.dtype)
        for argument, dtype in zip(("x", "weight"), dtypes, strict=True):
            arrays.check_dtype(argument, dtype)
        result = arrays.numbers(*dtypes).result
    except (TypeError, NotImplementedError) as error:
        raise TypingError(f"{name}: {error}") from None
    return types.Array(from_dtype(result), x.ndim, "C")


def _provide(function: Callable[..., np.ndarray], ndim: int) -> None:
    """Teach numba one of the functions."""

    def call(x: Any, weight: Any, bias: Any, residual: Any, options: tuple[Any, ...]) -> np.ndarray:
        stride, padding, dilation, groups, mode, activation, layout, flip, algorithm, accuracy, limit = options
        try:
            result = function(
                x, weight, bias, stride=stride, padding=padding, dilation=dilation, groups=groups, padding_mode=mode,
                activation=activation, residual=residual, layout=layout, flip=flip, algorithm=algorithm,
                accuracy=accuracy, workspace_limit=limit,
            )  # fmt: skip
        except Exception:
            if is_foreign():
                traceback.print_exc()
            raise
        return np.ascontiguousarray(result)

    @overload(function, strict=False)
    def compiled(
        x: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
        groups: Any = 1, padding_mode: Any = "zeros", activation: Any = None, residual: Any = None,
        layout: Any = "NCHW", flip: Any = False, algorithm: Any = "auto", accuracy: Any = "default",
        workspace_limit: Any = None,
    ) -> Any:  # fmt: skip
        result_type = _result(function.__name__, ndim, x, weight)

        def implementation(
            x: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
            groups: Any = 1, padding_mode: Any = "zeros", activation: Any = None, residual: Any = None,
            layout: Any = "NCHW", flip: Any = False, algorithm: Any = "auto", accuracy: Any = "default",
            workspace_limit: Any = None,
        ) -> Any:  # fmt: skip
            with objmode(out=result_type):
                out = call(
                    x, weight, bias, residual,
                    (stride, padding, dilation, groups, padding_mode, activation, layout, flip, algorithm, accuracy,
                     workspace_limit),
                )  # fmt: skip
            return out  # noqa: RET504

        return implementation


for _ndim, _function in enumerate((fastconv.conv1d, fastconv.conv2d, fastconv.conv3d), start=1):
    _provide(_function, _ndim)
