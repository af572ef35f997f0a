"""Spatial pyramid pools: vectors of fixed length from inputs of any size (He, Zhang, Ren and Sun 2014)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fastconv import adaptive, arrays
from fastconv.pool_call import FLOATS, Frame
from fastconv.spec import shape_tuple

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = [
    "spatial_pyramid_pool1d",
    "spatial_pyramid_pool1d_backward",
    "spatial_pyramid_pool2d",
    "spatial_pyramid_pool2d_backward",
    "spatial_pyramid_pool3d",
    "spatial_pyramid_pool3d_backward",
]

_POOLS = {
    "max": lambda ndim, x, size, layout: adaptive.max_pool(ndim, x, size, False, layout),
    "avg": adaptive.avg_pool,
}


def _checked(ndim: int, x: np.ndarray, levels: Any, mode: Any, layout: Any) -> tuple[Frame, tuple[int, ...]]:
    frame = Frame(f"spatial_pyramid_pool{ndim}d", ndim, x, layout, FLOATS)
    sizes = shape_tuple("levels", levels)
    if not sizes or 0 in sizes:
        raise ValueError(f"levels must be positive integers, at least one, got {levels!r}")
    if mode not in _POOLS:
        raise ValueError(f"mode must be one of {', '.join(_POOLS)}, got {mode!r}")
    return frame, sizes


def _pyramid(ndim: int, x: Any, levels: Any, mode: Any, layout: Any) -> np.ndarray:
    x = arrays.as_array("x", x)
    frame, sizes = _checked(ndim, x, levels, mode, layout)
    outer = (frame.N,) if frame.batched else ()
    parts = []
    for level in sizes:
        pooled = _POOLS[mode](ndim, x, level, layout)
        pooled = np.moveaxis(pooled, -1, len(outer)) if frame.last else pooled
        parts.append(pooled.reshape(*outer, -1) if frame.N else np.empty((0, frame.C * level**ndim), x.dtype))
    return np.concatenate(parts, -1)


def _pyramid_backward(ndim: int, grad: Any, x: Any, levels: Any, mode: Any, layout: Any) -> np.ndarray:
    grad, x = arrays.as_array("grad_output", grad), arrays.as_array("x", x)
    frame, sizes = _checked(ndim, x, levels, mode, layout)
    outer = (frame.N,) if frame.batched else ()
    lengths = [frame.C * level**ndim for level in sizes]
    if grad.shape != (*outer, sum(lengths)) or grad.dtype != x.dtype:
        raise ValueError(
            f"spatial_pyramid_pool{ndim}d_backward: grad_output must be {x.dtype} of shape {(*outer, sum(lengths))}, "
            f"got {grad.dtype} {grad.shape}"
        )
    total, at = np.zeros(x.shape, x.dtype), 0
    for level, length in zip(sizes, lengths, strict=True):
        part = grad[..., at : at + length].reshape(*outer, frame.C, *(level,) * ndim)
        part = np.moveaxis(part, len(outer), -1) if frame.last else part
        if mode == "max":
            total += adaptive.max_pool_backward(ndim, part, x, None, layout)
        else:
            total += adaptive.avg_pool_backward(ndim, part, x.shape, layout)
        at += length
    return total


def spatial_pyramid_pool1d(
    x: ArrayLike, levels: Sequence[int] = (1, 2, 4), mode: str = "max", *, layout: str = "NCHW"
) -> np.ndarray:
    """A vector of fixed length for signals of any size: adaptive pools of several levels.

    Parameters
    ----------
    x : array_like
        Signals, (N, C, L), or without the batch: float16, float32 or float64.
    levels : sequence of int
        Windows along each spatial axis, for each level of the pyramid.
    mode : {"max", "avg"}
        What is pooled.
    layout : {"NCL", "NLC"}
        Order of the axes ("NCHW" and "NHWC" name the same two).

    Returns
    -------
    numpy.ndarray
        (N, C * sum of levels): level by level, each in the order channels, then space, in either layout.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> fastconv.spatial_pyramid_pool1d(np.arange(4.0).reshape(1, 1, 4), (1, 2))
    array([[3., 1., 3.]])
    """
    return _pyramid(1, x, levels, mode, layout)


def spatial_pyramid_pool1d_backward(
    grad_output: ArrayLike,
    x: ArrayLike,
    levels: Sequence[int] = (1, 2, 4),
    mode: str = "max",
    *,
    layout: str = "NCHW",
) -> np.ndarray:
    """Gradient of `spatial_pyramid_pool1d`: the sum over the levels.

    Parameters
    ----------
    grad_output : array_like
        Gradient of the vectors.
    x : array_like
        What was pooled.
    levels, mode, layout
        As they were given to `spatial_pyramid_pool1d`.

    Returns
    -------
    numpy.ndarray
        Gradient of `x`.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> x = np.array([[1.0, 3.0]])[None]
    >>> fastconv.spatial_pyramid_pool1d_backward([[1.0]], x, (1,))
    array([[[0., 1.]]])
    """
    return _pyramid_backward(1, grad_output, x, levels, mode, layout)


def spatial_pyramid_pool2d(
    x: ArrayLike, levels: Sequence[int] = (1, 2, 4), mode: str = "max", *, layout: str = "NCHW"
) -> np.ndarray:
    """A vector of fixed length for images of any size: adaptive pools of several levels.

    Parameters
    ----------
    x : array_like
        Images, (N, C, H, W), or without the batch: float16, float32 or float64.
    levels : sequence of int
        Windows along each spatial axis, for each level of the pyramid.
    mode : {"max", "avg"}
        What is pooled.
    layout : {"NCHW", "NHWC"}
        Order of the axes.

    Returns
    -------
    numpy.ndarray
        (N, C * sum of levels**2): level by level, each in the order channels, then space, in either layout.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> fastconv.spatial_pyramid_pool2d(np.arange(16.0).reshape(1, 1, 4, 4), (1, 2))
    array([[15.,  5.,  7., 13., 15.]])
    """
    return _pyramid(2, x, levels, mode, layout)


def spatial_pyramid_pool2d_backward(
    grad_output: ArrayLike,
    x: ArrayLike,
    levels: Sequence[int] = (1, 2, 4),
    mode: str = "max",
    *,
    layout: str = "NCHW",
) -> np.ndarray:
    """Gradient of `spatial_pyramid_pool2d`: the sum over the levels.

    Parameters
    ----------
    grad_output : array_like
        Gradient of the vectors.
    x : array_like
        What was pooled.
    levels, mode, layout
        As they were given to `spatial_pyramid_pool2d`.

    Returns
    -------
    numpy.ndarray
        Gradient of `x`.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> x = np.array([[[1.0, 3.0]]])[None]
    >>> fastconv.spatial_pyramid_pool2d_backward([[1.0]], x, (1,))
    array([[[[0., 1.]]]])
    """
    return _pyramid_backward(2, grad_output, x, levels, mode, layout)


def spatial_pyramid_pool3d(
    x: ArrayLike, levels: Sequence[int] = (1, 2, 4), mode: str = "max", *, layout: str = "NCHW"
) -> np.ndarray:
    """A vector of fixed length for volumes of any size: adaptive pools of several levels.

    Parameters
    ----------
    x : array_like
        Volumes, (N, C, D, H, W), or without the batch: float16, float32 or float64.
    levels : sequence of int
        Windows along each spatial axis, for each level of the pyramid.
    mode : {"max", "avg"}
        What is pooled.
    layout : {"NCDHW", "NDHWC"}
        Order of the axes ("NCHW" and "NHWC" name the same two).

    Returns
    -------
    numpy.ndarray
        (N, C * sum of levels**3): level by level, each in the order channels, then space, in either layout.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> fastconv.spatial_pyramid_pool3d(np.arange(8.0).reshape(1, 1, 2, 2, 2), (1, 2))
    array([[7., 0., 1., 2., 3., 4., 5., 6., 7.]])
    """
    return _pyramid(3, x, levels, mode, layout)


def spatial_pyramid_pool3d_backward(
    grad_output: ArrayLike,
    x: ArrayLike,
    levels: Sequence[int] = (1, 2, 4),
    mode: str = "max",
    *,
    layout: str = "NCHW",
) -> np.ndarray:
    """Gradient of `spatial_pyramid_pool3d`: the sum over the levels.

    Parameters
    ----------
    grad_output : array_like
        Gradient of the vectors.
    x : array_like
        What was pooled.
    levels, mode, layout
        As they were given to `spatial_pyramid_pool3d`.

    Returns
    -------
    numpy.ndarray
        Gradient of `x`.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> x = np.array([[[[1.0, 3.0]]]])[None]
    >>> fastconv.spatial_pyramid_pool3d_backward([[1.0]], x, (1,))
    array([[[[[0., 1.]]]]])
    """
    return _pyramid_backward(3, grad_output, x, levels, mode, layout)
