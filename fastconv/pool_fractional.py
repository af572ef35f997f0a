"""Fractional maximum pools (Graham 2014)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fastconv import arrays
from fastconv.kernels import unpool as scalar
from fastconv.pool_call import FLOATS, Frame
from fastconv.pool_random import chosen_backward, generator, pick
from fastconv.pool_spec import check_bool
from fastconv.spec import IntOrTuple, per_axis

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = [
    "fractional_max_pool1d",
    "fractional_max_pool1d_backward",
    "fractional_max_pool2d",
    "fractional_max_pool2d_backward",
    "fractional_max_pool3d",
    "fractional_max_pool3d_backward",
]


def _fractional_sizes(sizes: tuple[int, ...], kernel: tuple[int, ...], size: Any, ratio: Any) -> tuple[int, ...]:
    if (size is None) == (ratio is None):
        raise ValueError(f"give one of output_size and output_ratio, got {size!r} and {ratio!r}")
    if size is not None:
        outputs = per_axis("output_size", size, len(sizes))
    else:
        ratios = ratio if isinstance(ratio, (tuple, list)) else (ratio,) * len(sizes)
        if len(ratios) != len(sizes) or not all(isinstance(r, (int, float)) and 0 < r < 1 for r in ratios):
            raise ValueError(f"output_ratio must be a number between 0 and 1, or {len(sizes)} of them, got {ratio!r}")
        outputs = tuple(int(n * r) for n, r in zip(sizes, ratios, strict=True))
    for n, k, m in zip(sizes, kernel, outputs, strict=True):
        if m < 1 or m + k - 1 > n:
            raise ValueError(f"{m} windows of {k} cells (kernel_size) do not fit into {n}, or are none")
    return outputs


def _starts(u: np.ndarray, size: int, kernel: int, outputs: int) -> np.ndarray:
    """(planes, outputs): where windows begin. Rounded in the dtype of u, as PyTorch does."""
    last = np.full((len(u), 1), size - kernel)
    if outputs == 1:
        return last
    a = u.dtype.type(size - kernel) / u.dtype.type(outputs - 1)
    i = np.arange(outputs - 1, dtype=u.dtype)
    starts = ((i + u[:, None]) * a).astype(np.int64) - (u * a).astype(np.int64)[:, None]
    return np.concatenate([starts, last], 1)


def _fractional(
    ndim: int, x: Any, kernel_size: Any, output_size: Any, output_ratio: Any, indexed: Any, samples: Any, rng: Any,
    layout: Any,
) -> Any:  # fmt: skip
    x = arrays.as_array("x", x)
    frame = Frame(f"fractional_max_pool{ndim}d", ndim, x, layout, FLOATS).channels_first()
    kernel = per_axis("kernel_size", kernel_size, ndim)
    outputs = _fractional_sizes(frame.sizes, kernel, output_size, output_ratio)
    indexed = check_bool("return_indices", indexed)
    shape = (frame.N, frame.C, ndim)
    if samples is None:
        u = generator(rng).random(shape, dtype=frame.kernel.type)
    else:
        u = arrays.as_array("random_samples", samples).astype(frame.kernel)
        if u.shape != shape:
            raise ValueError(f"random_samples must have shape {shape}, got {u.shape}")
        if not ((u >= 0) & (u < 1)).all():
            raise ValueError("random_samples must be numbers from 0 to 1, 1 not included")
    u = u.reshape(-1, ndim)
    order = (1, 0) if ndim == 2 else range(ndim)
    pairs = np.tile(np.array([0, 1]), (len(u), 3 - ndim))
    for axis, column in enumerate(order):
        starts = _starts(u[:, column], frame.sizes[axis], kernel[axis], outputs[axis])
        windows = np.stack([starts, np.full_like(starts, kernel[axis])], 2)
        pairs = np.concatenate([pairs, windows.reshape(len(u), 2 * outputs[axis])], 1)
    tables = np.ascontiguousarray(pairs, np.int64)
    none = np.empty(0, frame.kernel)
    values, indices = pick(frame, scalar.LARGEST, outputs, tables.reshape(-1), tables.shape[1], none, x)
    return (values, indices) if indexed else values


def fractional_max_pool1d(
    x: ArrayLike,
    kernel_size: IntOrTuple,
    output_size: IntOrTuple | None = None,
    output_ratio: float | Sequence[float] | None = None,
    return_indices: bool = False,
    random_samples: ArrayLike | None = None,
    *,
    rng: np.random.Generator | int | None = None,
    layout: str = "NCHW",
) -> Any:
    """Largest value of windows whose steps are drawn at random (Graham 2014).

    Along an axis of n cells, with windows of k, output i < m - 1 begins at ``floor((i + u)*a) - floor(u*a)`` where
    a = (n - k)/(m - 1) and u is drawn from [0, 1) for every plane; the last begins at n - k.

    Parameters
    ----------
    x : array_like
        Signals, (N, C, L), or without the batch: float16, float32 or float64.
    kernel_size : int or tuple
        Cells of a window.
    output_size : int or tuple, optional
        Windows along each spatial axis.
    output_ratio : float or tuple, optional
        In place of `output_size`: the windows as a share of the cells.
    return_indices : bool
        Return (maxima, indices), as `max_pool1d` does.
    random_samples : array_like, optional
        The numbers u, (N, C, 1).
    rng : numpy.random.Generator or int, optional
        Where they come from otherwise: a generator, or its seed.
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
    >>> fastconv.fractional_max_pool1d(np.arange(5.0)[None], 2, 3, random_samples=np.zeros((1, 1, 1)))
    array([[1., 2., 4.]])
    """
    return _fractional(1, x, kernel_size, output_size, output_ratio, return_indices, random_samples, rng, layout)


def fractional_max_pool1d_backward(
    grad_output: ArrayLike, input_shape: Any, indices: ArrayLike, *, layout: str = "NCHW"
) -> np.ndarray:
    """Gradient of `fractional_max_pool1d`: each value goes to the cell that was its window's maximum.

    Parameters
    ----------
    grad_output : array_like
        Gradient of the maxima.
    input_shape : tuple of int
        Shape of what was pooled.
    indices : array_like
        What ``return_indices=True`` returned.
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
    >>> fastconv.fractional_max_pool1d_backward(np.array([[5.0]]), (1, 3), np.array([[1]]))
    array([[0., 5., 0.]])
    """
    return chosen_backward(1, "fractional_max_pool", grad_output, input_shape, indices, layout)


def fractional_max_pool2d(
    x: ArrayLike,
    kernel_size: IntOrTuple,
    output_size: IntOrTuple | None = None,
    output_ratio: float | Sequence[float] | None = None,
    return_indices: bool = False,
    random_samples: ArrayLike | None = None,
    *,
    rng: np.random.Generator | int | None = None,
    layout: str = "NCHW",
) -> Any:
    """Largest value of windows whose steps are drawn at random (Graham 2014).

    Along an axis of n cells, with windows of k, output i < m - 1 begins at ``floor((i + u)*a) - floor(u*a)`` where
    a = (n - k)/(m - 1) and u is drawn from [0, 1) for every plane; the last begins at n - k.

    Parameters
    ----------
    x : array_like
        Images, (N, C, H, W), or without the batch: float16, float32 or float64.
    kernel_size : int or tuple
        Cells of a window.
    output_size : int or tuple, optional
        Windows along each spatial axis.
    output_ratio : float or tuple, optional
        In place of `output_size`: the windows as a share of the cells.
    return_indices : bool
        Return (maxima, indices), as `max_pool2d` does.
    random_samples : array_like, optional
        The numbers u, (N, C, 2), in PyTorch's order: the last axis first.
    rng : numpy.random.Generator or int, optional
        Where they come from otherwise: a generator, or its seed.
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
    >>> x = np.arange(25.0).reshape(1, 5, 5)
    >>> fastconv.fractional_max_pool2d(x, 2, 3, random_samples=np.zeros((1, 1, 2)))
    array([[[ 6.,  7.,  9.],
            [11., 12., 14.],
            [21., 22., 24.]]])
    """
    return _fractional(2, x, kernel_size, output_size, output_ratio, return_indices, random_samples, rng, layout)


def fractional_max_pool2d_backward(
    grad_output: ArrayLike, input_shape: Any, indices: ArrayLike, *, layout: str = "NCHW"
) -> np.ndarray:
    """Gradient of `fractional_max_pool2d`: each value goes to the cell that was its window's maximum.

    Parameters
    ----------
    grad_output : array_like
        Gradient of the maxima.
    input_shape : tuple of int
        Shape of what was pooled.
    indices : array_like
        What ``return_indices=True`` returned.
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
    >>> fastconv.fractional_max_pool2d_backward(np.array([[[5.0]]]), (1, 1, 3), np.array([[[1]]]))
    array([[[0., 5., 0.]]])
    """
    return chosen_backward(2, "fractional_max_pool", grad_output, input_shape, indices, layout)


def fractional_max_pool3d(
    x: ArrayLike,
    kernel_size: IntOrTuple,
    output_size: IntOrTuple | None = None,
    output_ratio: float | Sequence[float] | None = None,
    return_indices: bool = False,
    random_samples: ArrayLike | None = None,
    *,
    rng: np.random.Generator | int | None = None,
    layout: str = "NCHW",
) -> Any:
    """Largest value of windows whose steps are drawn at random (Graham 2014).

    Along an axis of n cells, with windows of k, output i < m - 1 begins at ``floor((i + u)*a) - floor(u*a)`` where
    a = (n - k)/(m - 1) and u is drawn from [0, 1) for every plane; the last begins at n - k.

    Parameters
    ----------
    x : array_like
        Volumes, (N, C, D, H, W), or without the batch: float16, float32 or float64.
    kernel_size : int or tuple
        Cells of a window.
    output_size : int or tuple, optional
        Windows along each spatial axis.
    output_ratio : float or tuple, optional
        In place of `output_size`: the windows as a share of the cells.
    return_indices : bool
        Return (maxima, indices), as `max_pool3d` does.
    random_samples : array_like, optional
        The numbers u, (N, C, 3), in PyTorch's order: depth, height, width.
    rng : numpy.random.Generator or int, optional
        Where they come from otherwise: a generator, or its seed.
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
    >>> x = np.arange(25.0).reshape(1, 1, 5, 5)
    >>> fastconv.fractional_max_pool3d(x, (1, 2, 2), (1, 3, 3), random_samples=np.zeros((1, 1, 3)))
    array([[[[ 6.,  7.,  9.],
             [11., 12., 14.],
             [21., 22., 24.]]]])
    """
    return _fractional(3, x, kernel_size, output_size, output_ratio, return_indices, random_samples, rng, layout)


def fractional_max_pool3d_backward(
    grad_output: ArrayLike, input_shape: Any, indices: ArrayLike, *, layout: str = "NCHW"
) -> np.ndarray:
    """Gradient of `fractional_max_pool3d`: each value goes to the cell that was its window's maximum.

    Parameters
    ----------
    grad_output : array_like
        Gradient of the maxima.
    input_shape : tuple of int
        Shape of what was pooled.
    indices : array_like
        What ``return_indices=True`` returned.
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
    >>> fastconv.fractional_max_pool3d_backward(np.array([[[[5.0]]]]), (1, 1, 1, 3), np.array([[[[1]]]]))
    array([[[[0., 5., 0.]]]])
    """
    return chosen_backward(3, "fractional_max_pool", grad_output, input_shape, indices, layout)
