"""Adaptive pools: the number of windows is given, their sizes follow.

Output o of n along an axis of `size` cells sees the cells from floor(o*size/n) up to, not with, ceil((o + 1)*size/n).
Where n divides the size these are windows like any others.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from fastconv import arrays, pool_window
from fastconv.cpu.reduce import MAX, SUM
from fastconv.cpu.threads import get_num_threads
from fastconv.kernels import pool as kernels
from fastconv.kernels import unpool as scalar
from fastconv.pool_call import FLOATS, NUMBERS, Frame, bound
from fastconv.pool_spec import PoolSpec, adaptive_windows, check_bool
from fastconv.resample import map_call, means
from fastconv.spec import per_axis

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = [
    "adaptive_avg_pool1d",
    "adaptive_avg_pool1d_backward",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool2d_backward",
    "adaptive_avg_pool3d",
    "adaptive_avg_pool3d_backward",
    "adaptive_max_pool1d",
    "adaptive_max_pool1d_backward",
    "adaptive_max_pool2d",
    "adaptive_max_pool2d_backward",
    "adaptive_max_pool3d",
    "adaptive_max_pool3d_backward",
]

OutputSize = int | None | Sequence[int | None]


def output_sizes(value: Any, sizes: tuple[int, ...]) -> tuple[int, ...]:
    """`output_size` checked; None keeps an axis as it is."""
    if isinstance(value, (tuple, list)) and len(value) == len(sizes):
        value = tuple(size if v is None else v for v, size in zip(value, sizes, strict=True))
    elif value is None:
        value = sizes
    return per_axis("output_size", value, len(sizes))


def window_spec(frame: Frame, sizes: tuple[int, ...], outputs: tuple[int, ...]) -> tuple[PoolSpec, kernels.Windows]:
    """The pool's spec, and the windows of the axes where they are irregular (none if all are regular)."""
    windows = tuple(
        None if size % count == 0 else tuple(adaptive_windows(size, count))
        for size, count in zip(sizes, outputs, strict=True)
    )
    kernel = tuple(
        size // count if axis is None else max(cells for _, cells in axis)
        for size, count, axis in zip(sizes, outputs, windows, strict=True)
    )
    spec = PoolSpec(
        ndim=frame.ndim,
        N=frame.N,
        C=frame.C,
        input=sizes,
        kernel=kernel,
        stride=tuple(k if n > 1 else 1 for k, n in zip(kernel, outputs, strict=True)),
        dilation=(1,) * frame.ndim,
        padding=((0, 0),) * frame.ndim,
        output=outputs,
        dtype=frame.kernel.name,
        channels_last=frame.channels_last,
    )
    return spec, windows if any(axis is not None for axis in windows) else ()


def _build_avg(ndim: int, x: np.ndarray, output_size: Any, layout: Any) -> pool_window.Call:
    frame = Frame(f"adaptive_avg_pool{ndim}d", ndim, x, layout)
    spec, windows = window_spec(frame, frame.sizes, output_sizes(output_size, frame.sizes))
    plan = kernels.plan(spec, SUM, kernels.EXCLUDE, 1, False, get_num_threads(), windows)
    return pool_window.planned(frame, spec, plan)


def _build_avg_backward(ndim: int, grad: np.ndarray, input_shape: Any, layout: Any) -> pool_window.Call:
    frame = Frame(f"adaptive_avg_pool{ndim}d_backward", ndim, grad, layout, FLOATS, "grad_output")
    sizes = frame.parse_shape("input_shape", input_shape)
    spec, windows = window_spec(frame, sizes, frame.sizes)
    if windows:
        return map_call(frame, [means(n, o).adjoint for n, o in zip(sizes, frame.sizes, strict=True)])
    return pool_window.spread_call(frame, spec, kernels.DIVIDE, prod(spec.kernel))


def _picked(frame: Frame, spec: PoolSpec) -> pool_window.Call:
    """Maxima with indices of irregular windows, channels first."""
    frame.channels_first()
    missing = 3 - frame.ndim
    pairs = [(0, 1)] * missing
    for size, count in zip(spec.input, spec.output, strict=True):
        pairs += adaptive_windows(size, count)
    tables = np.array(pairs, np.int64).reshape(-1)
    sizes, outputs = ((1,) * missing + s for s in (spec.input, spec.output))

    def call(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        flat, result, indices = frame.flat(x), frame.empty(spec.output), frame.empty(spec.output, np.int64)
        scalar.pick(
            scalar.LARGEST, frame.N * frame.C, sizes, outputs, tables, 0, flat[:0], flat, result.reshape(-1),
            indices.reshape(-1), get_num_threads(),
        )  # fmt: skip
        places = indices if frame.from_memory is None else indices.transpose(frame.from_memory)
        return frame.result(result), places

    return call


def _build_max(ndim: int, x: np.ndarray, output_size: Any, indexed: Any, layout: Any) -> pool_window.Call:
    frame = Frame(f"adaptive_max_pool{ndim}d", ndim, x, layout, NUMBERS)
    spec, windows = window_spec(frame, frame.sizes, output_sizes(output_size, frame.sizes))
    indexed = check_bool("return_indices", indexed)
    if indexed:
        pool_window.check_window(spec)
        if windows and not frame.channels_last:
            return _picked(frame, spec)
    plan = kernels.plan(spec, MAX, kernels.PLAIN, 1, indexed, get_num_threads(), windows)
    return (pool_window.ranked if indexed else pool_window.planned)(frame, spec, plan)


def _build_max_backward(ndim: int, x: np.ndarray, outputs: tuple[int, ...], layout: Any) -> pool_window.Call:
    frame = Frame(f"adaptive_max_pool{ndim}d_backward", ndim, x, layout)
    sizes = frame.parse_shape("grad_output.shape", outputs)
    forward = _build_max(ndim, x, sizes, True, layout)
    scatter = pool_window.scatter_call(frame, sizes, frame.sizes)

    def call(grad: Any, x: np.ndarray, indices: Any) -> np.ndarray:
        places = forward(x)[1] if indices is None else indices
        return scatter(frame.take("grad_output", grad, sizes), frame.take("indices", places, sizes, np.int64))

    return call


def avg_pool(ndim: int, x: Any, output_size: Any, layout: Any) -> np.ndarray:
    x = arrays.as_array("x", x)
    return bound(_build_avg, ndim, x, output_size, layout)(x)


def avg_pool_backward(ndim: int, grad: Any, input_shape: Any, layout: Any) -> np.ndarray:
    grad = arrays.as_array("grad_output", grad)
    return bound(_build_avg_backward, ndim, grad, input_shape, layout)(grad)


def max_pool(ndim: int, x: Any, output_size: Any, indexed: Any, layout: Any) -> Any:
    x = arrays.as_array("x", x)
    return bound(_build_max, ndim, x, output_size, indexed, layout)(x)


def max_pool_backward(ndim: int, grad: Any, x: Any, indices: Any, layout: Any) -> np.ndarray:
    grad, x = arrays.as_array("grad_output", grad), arrays.as_array("x", x)
    return bound(_build_max_backward, ndim, x, grad.shape, layout)(grad, x, indices)


def adaptive_avg_pool1d(x: ArrayLike, output_size: OutputSize, *, layout: str = "NCHW") -> np.ndarray:
    """Averages over a given number of windows of a batch of signals.

    Parameters
    ----------
    x : array_like
        (N, C, L), or without the batch: float16, float32 or float64.
    output_size : int
        Windows along each spatial axis; None keeps an axis as it is.
    layout : {"NCL", "NLC"}
        Order of the axes ("NCHW" and "NHWC" name the same two).

    Returns
    -------
    numpy.ndarray
        The averages, of the dtype of `x`.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> fastconv.adaptive_avg_pool1d(np.array([[3.0, 1, 2, 5, 4]]), 2)
    array([[2.        , 3.66666667]])
    """
    return avg_pool(1, x, output_size, layout)


def adaptive_avg_pool1d_backward(grad_output: ArrayLike, input_shape: Any, *, layout: str = "NCHW") -> np.ndarray:
    """Gradient of `adaptive_avg_pool1d`: the adjoint of its linear map.

    Parameters
    ----------
    grad_output : array_like
        Gradient of the averages.
    input_shape : tuple of int
        Shape of what was pooled.
    layout : {"NCL", "NLC"}
        Order of the axes ("NCHW" and "NHWC" name the same two).

    Returns
    -------
    numpy.ndarray
        Gradient of the input.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> fastconv.adaptive_avg_pool1d_backward(np.ones((1, 2)), (1, 4))
    array([[0.5, 0.5, 0.5, 0.5]])
    """
    return avg_pool_backward(1, grad_output, input_shape, layout)


def adaptive_max_pool1d(
    x: ArrayLike, output_size: OutputSize, return_indices: bool = False, *, layout: str = "NCHW"
) -> Any:
    """Maxima over a given number of windows of a batch of signals.

    Parameters
    ----------
    x : array_like
        (N, C, L), or without the batch: of the dtypes that `max_pool1d` takes.
    output_size : int
        Windows along each spatial axis; None keeps an axis as it is.
    return_indices : bool
        Return (maxima, indices), as `max_pool1d` does.
    layout : {"NCL", "NLC"}
        Order of the axes ("NCHW" and "NHWC" name the same two).

    Returns
    -------
    numpy.ndarray, or a tuple of two
        The maxima, of the dtype of `x`.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> fastconv.adaptive_max_pool1d(np.array([[3.0, 1, 2, 5, 4]]), 2, return_indices=True)
    (array([[3., 5.]]), array([[0, 3]]))
    """
    return max_pool(1, x, output_size, return_indices, layout)


def adaptive_max_pool1d_backward(
    grad_output: ArrayLike, x: ArrayLike, indices: ArrayLike | None = None, *, layout: str = "NCHW"
) -> np.ndarray:
    """Gradient of `adaptive_max_pool1d`: each value goes to the cell that was its window's maximum.

    Parameters
    ----------
    grad_output : array_like
        Gradient of the maxima; its shape says how many there are.
    x : array_like
        What was pooled; with `indices` only its shape counts.
    indices : array_like, optional
        What ``return_indices=True`` returned; found again if None.
    layout : {"NCL", "NLC"}
        Order of the axes ("NCHW" and "NHWC" name the same two).

    Returns
    -------
    numpy.ndarray
        Gradient of `x`.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> fastconv.adaptive_max_pool1d_backward(np.ones((1, 2)), np.array([[3.0, 1, 2, 5, 4]]))
    array([[1., 0., 0., 1., 0.]])
    """
    return max_pool_backward(1, grad_output, x, indices, layout)


def adaptive_avg_pool2d(x: ArrayLike, output_size: OutputSize, *, layout: str = "NCHW") -> np.ndarray:
    """Averages over a given number of windows of a batch of images.

    Parameters
    ----------
    x : array_like
        (N, C, H, W), or without the batch: float16, float32 or float64.
    output_size : int or (int, int)
        Windows along each spatial axis; None keeps an axis as it is.
    layout : {"NCHW", "NHWC"}
        Order of the axes.

    Returns
    -------
    numpy.ndarray
        The averages, of the dtype of `x`.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> fastconv.adaptive_avg_pool2d(np.array([[[3.0, 1, 2, 5, 4]]]), (1, 2))
    array([[[2.        , 3.66666667]]])
    """
    return avg_pool(2, x, output_size, layout)


def adaptive_avg_pool2d_backward(grad_output: ArrayLike, input_shape: Any, *, layout: str = "NCHW") -> np.ndarray:
    """Gradient of `adaptive_avg_pool2d`: the adjoint of its linear map.

    Parameters
    ----------
    grad_output : array_like
        Gradient of the averages.
    input_shape : tuple of int
        Shape of what was pooled.
    layout : {"NCHW", "NHWC"}
        Order of the axes.

    Returns
    -------
    numpy.ndarray
        Gradient of the input.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> fastconv.adaptive_avg_pool2d_backward(np.ones((1, 1, 2)), (1, 1, 4))
    array([[[0.5, 0.5, 0.5, 0.5]]])
    """
    return avg_pool_backward(2, grad_output, input_shape, layout)


def adaptive_max_pool2d(
    x: ArrayLike, output_size: OutputSize, return_indices: bool = False, *, layout: str = "NCHW"
) -> Any:
    """Maxima over a given number of windows of a batch of images.

    Parameters
    ----------
    x : array_like
        (N, C, H, W), or without the batch: of the dtypes that `max_pool2d` takes.
    output_size : int or (int, int)
        Windows along each spatial axis; None keeps an axis as it is.
    return_indices : bool
        Return (maxima, indices), as `max_pool2d` does.
    layout : {"NCHW", "NHWC"}
        Order of the axes.

    Returns
    -------
    numpy.ndarray, or a tuple of two
        The maxima, of the dtype of `x`.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> fastconv.adaptive_max_pool2d(np.array([[[3.0, 1, 2, 5, 4]]]), (1, 2), return_indices=True)
    (array([[[3., 5.]]]), array([[[0, 3]]]))
    """
    return max_pool(2, x, output_size, return_indices, layout)


def adaptive_max_pool2d_backward(
    grad_output: ArrayLike, x: ArrayLike, indices: ArrayLike | None = None, *, layout: str = "NCHW"
) -> np.ndarray:
    """Gradient of `adaptive_max_pool2d`: each value goes to the cell that was its window's maximum.

    Parameters
    ----------
    grad_output : array_like
        Gradient of the maxima; its shape says how many there are.
    x : array_like
        What was pooled; with `indices` only its shape counts.
    indices : array_like, optional
        What ``return_indices=True`` returned; found again if None.
    layout : {"NCHW", "NHWC"}
        Order of the axes.

    Returns
    -------
    numpy.ndarray
        Gradient of `x`.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> fastconv.adaptive_max_pool2d_backward(np.ones((1, 1, 2)), np.array([[[3.0, 1, 2, 5, 4]]]))
    array([[[1., 0., 0., 1., 0.]]])
    """
    return max_pool_backward(2, grad_output, x, indices, layout)


def adaptive_avg_pool3d(x: ArrayLike, output_size: OutputSize, *, layout: str = "NCHW") -> np.ndarray:
    """Averages over a given number of windows of a batch of volumes.

    Parameters
    ----------
    x : array_like
        (N, C, D, H, W), or without the batch: float16, float32 or float64.
    output_size : int or (int, int, int)
        Windows along each spatial axis; None keeps an axis as it is.
    layout : {"NCDHW", "NDHWC"}
        Order of the axes ("NCHW" and "NHWC" name the same two).

    Returns
    -------
    numpy.ndarray
        The averages, of the dtype of `x`.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> fastconv.adaptive_avg_pool3d(np.array([[[[3.0, 1, 2, 5, 4]]]]), (1, 1, 2))
    array([[[[2.        , 3.66666667]]]])
    """
    return avg_pool(3, x, output_size, layout)


def adaptive_avg_pool3d_backward(grad_output: ArrayLike, input_shape: Any, *, layout: str = "NCHW") -> np.ndarray:
    """Gradient of `adaptive_avg_pool3d`: the adjoint of its linear map.

    Parameters
    ----------
    grad_output : array_like
        Gradient of the averages.
    input_shape : tuple of int
        Shape of what was pooled.
    layout : {"NCDHW", "NDHWC"}
        Order of the axes ("NCHW" and "NHWC" name the same two).

    Returns
    -------
    numpy.ndarray
        Gradient of the input.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> fastconv.adaptive_avg_pool3d_backward(np.ones((1, 1, 1, 2)), (1, 1, 1, 4))
    array([[[[0.5, 0.5, 0.5, 0.5]]]])
    """
    return avg_pool_backward(3, grad_output, input_shape, layout)


def adaptive_max_pool3d(
    x: ArrayLike, output_size: OutputSize, return_indices: bool = False, *, layout: str = "NCHW"
) -> Any:
    """Maxima over a given number of windows of a batch of volumes.

    Parameters
    ----------
    x : array_like
        (N, C, D, H, W), or without the batch: of the dtypes that `max_pool3d` takes.
    output_size : int or (int, int, int)
        Windows along each spatial axis; None keeps an axis as it is.
    return_indices : bool
        Return (maxima, indices), as `max_pool3d` does.
    layout : {"NCDHW", "NDHWC"}
        Order of the axes ("NCHW" and "NHWC" name the same two).

    Returns
    -------
    numpy.ndarray, or a tuple of two
        The maxima, of the dtype of `x`.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> fastconv.adaptive_max_pool3d(np.array([[[[3.0, 1, 2, 5, 4]]]]), (1, 1, 2), return_indices=True)
    (array([[[[3., 5.]]]]), array([[[[0, 3]]]]))
    """
    return max_pool(3, x, output_size, return_indices, layout)


def adaptive_max_pool3d_backward(
    grad_output: ArrayLike, x: ArrayLike, indices: ArrayLike | None = None, *, layout: str = "NCHW"
) -> np.ndarray:
    """Gradient of `adaptive_max_pool3d`: each value goes to the cell that was its window's maximum.

    Parameters
    ----------
    grad_output : array_like
        Gradient of the maxima; its shape says how many there are.
    x : array_like
        What was pooled; with `indices` only its shape counts.
    indices : array_like, optional
        What ``return_indices=True`` returned; found again if None.
    layout : {"NCDHW", "NDHWC"}
        Order of the axes ("NCHW" and "NHWC" name the same two).

    Returns
    -------
    numpy.ndarray
        Gradient of `x`.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> fastconv.adaptive_max_pool3d_backward(np.ones((1, 1, 1, 2)), np.array([[[[3.0, 1, 2, 5, 4]]]]))
    array([[[[1., 0., 0., 1., 0.]]]])
    """
    return max_pool_backward(3, grad_output, x, indices, layout)
