"""Unpools: from small images to large ones.

    max_unpool           out[indices[i]] = x[i], zero elsewhere: SegNet's, with the places that `max_pool` remembered
    nearest_unpool       every value repeated over a block
    bed_of_nails_unpool  every value in the first cell of its block, zero elsewhere
    avg_unpool           every value spread evenly over its window: the adjoint of `avg_pool`

Each is linear in x, and its ``_backward`` is the adjoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fastconv import unpool_call
from fastconv.spec import IntOrTuple

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = [
    "max_unpool1d",
    "max_unpool1d_backward",
    "max_unpool2d",
    "max_unpool2d_backward",
    "max_unpool3d",
    "max_unpool3d_backward",
]


def max_unpool1d(
    x: ArrayLike,
    indices: ArrayLike,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    padding: IntOrTuple = 0,
    output_size: Sequence[int] | None = None,
    *,
    layout: str = "NCHW",
) -> np.ndarray:
    """Put values back to where `max_pool1d` found them; all other cells are 0.

    Parameters
    ----------
    x : array_like
        Maxima of signals, (N, C, L), or without the batch: float16, float32 or float64.
    indices : array_like
        Of the shape of `x`, int64: the place of each value in its plane, as ``return_indices=True`` gives it.
    kernel_size, stride, padding
        As they were given to `max_pool1d`: the output has ``(n - 1)*stride - 2*padding + kernel_size`` cells.
    output_size : tuple of int, optional
        Spatial sizes, or the whole shape, of the output, where the pool left some cells over.
    layout : {"NCL", "NLC"}
        Order of the axes ("NCHW" and "NHWC" name the same two).

    Returns
    -------
    numpy.ndarray
        The unpooled signals, of the dtype of `x`.

    Raises
    ------
    ValueError
        If an index lies outside its plane.

    Notes
    -----
    Where several values of a plane have the same index, as overlapping windows may give, the last of them (row by row)
    stays, however many threads there are.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> fastconv.max_unpool1d(np.array([[5.0, 7.0]]), np.array([[1, 2]]), 2)
    array([[0., 5., 7., 0.]])
    """
    return unpool_call.max_unpool(1, x, indices, unpool_call.tuples(kernel_size, stride, padding, output_size), layout)


def max_unpool1d_backward(grad_output: ArrayLike, indices: ArrayLike, *, layout: str = "NCHW") -> np.ndarray:
    """Gradient of `max_unpool1d`: each value's is that of the cell it was put into.

    A value that another one replaced there has gradient 0: this is the exact adjoint.

    Parameters
    ----------
    grad_output : array_like
        Gradient of the unpooled signals.
    indices : array_like
        As given to `max_unpool1d`.
    layout : {"NCL", "NLC"}
        Order of the axes ("NCHW" and "NHWC" name the same two).

    Returns
    -------
    numpy.ndarray
        Gradient of the values, of the shape of `indices`.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> fastconv.max_unpool1d_backward(np.array([[1.0, 2, 3, 4]]), np.array([[1, 2]]))
    array([[2., 3.]])
    """
    return unpool_call.max_unpool_backward(1, grad_output, indices, layout)


def max_unpool2d(
    x: ArrayLike,
    indices: ArrayLike,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    padding: IntOrTuple = 0,
    output_size: Sequence[int] | None = None,
    *,
    layout: str = "NCHW",
) -> np.ndarray:
    """Put values back to where `max_pool2d` found them; all other cells are 0.

    Parameters
    ----------
    x : array_like
        Maxima of images, (N, C, H, W), or without the batch: float16, float32 or float64.
    indices : array_like
        Of the shape of `x`, int64: the place of each value in its plane, as ``return_indices=True`` gives it.
    kernel_size, stride, padding
        As they were given to `max_pool2d`: the output has ``(n - 1)*stride - 2*padding + kernel_size`` cells.
    output_size : tuple of int, optional
        Spatial sizes, or the whole shape, of the output, where the pool left some cells over.
    layout : {"NCHW", "NHWC"}
        Order of the axes.

    Returns
    -------
    numpy.ndarray
        The unpooled images, of the dtype of `x`.

    Raises
    ------
    ValueError
        If an index lies outside its plane.

    Notes
    -----
    Where several values of a plane have the same index, as overlapping windows may give, the last of them (row by row)
    stays, however many threads there are.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> fastconv.max_unpool2d(np.array([[[5.0, 7.0]]]), np.array([[[1, 2]]]), (1, 2))
    array([[[0., 5., 7., 0.]]])
    """
    return unpool_call.max_unpool(2, x, indices, unpool_call.tuples(kernel_size, stride, padding, output_size), layout)


def max_unpool2d_backward(grad_output: ArrayLike, indices: ArrayLike, *, layout: str = "NCHW") -> np.ndarray:
    """Gradient of `max_unpool2d`: each value's is that of the cell it was put into.

    A value that another one replaced there has gradient 0: this is the exact adjoint.

    Parameters
    ----------
    grad_output : array_like
        Gradient of the unpooled images.
    indices : array_like
        As given to `max_unpool2d`.
    layout : {"NCHW", "NHWC"}
        Order of the axes.

    Returns
    -------
    numpy.ndarray
        Gradient of the values, of the shape of `indices`.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> fastconv.max_unpool2d_backward(np.array([[[1.0, 2, 3, 4]]]), np.array([[[1, 2]]]))
    array([[[2., 3.]]])
    """
    return unpool_call.max_unpool_backward(2, grad_output, indices, layout)


def max_unpool3d(
    x: ArrayLike,
    indices: ArrayLike,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    padding: IntOrTuple = 0,
    output_size: Sequence[int] | None = None,
    *,
    layout: str = "NCHW",
) -> np.ndarray:
    """Put values back to where `max_pool3d` found them; all other cells are 0.

    Parameters
    ----------
    x : array_like
        Maxima of volumes, (N, C, D, H, W), or without the batch: float16, float32 or float64.
    indices : array_like
        Of the shape of `x`, int64: the place of each value in its plane, as ``return_indices=True`` gives it.
    kernel_size, stride, padding
        As they were given to `max_pool3d`: the output has ``(n - 1)*stride - 2*padding + kernel_size`` cells.
    output_size : tuple of int, optional
        Spatial sizes, or the whole shape, of the output, where the pool left some cells over.
    layout : {"NCDHW", "NDHWC"}
        Order of the axes ("NCHW" and "NHWC" name the same two).

    Returns
    -------
    numpy.ndarray
        The unpooled volumes, of the dtype of `x`.

    Raises
    ------
    ValueError
        If an index lies outside its plane.

    Notes
    -----
    Where several values of a plane have the same index, as overlapping windows may give, the last of them (row by row)
    stays, however many threads there are.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> fastconv.max_unpool3d(np.array([[[[5.0, 7.0]]]]), np.array([[[[1, 2]]]]), (1, 1, 2))
    array([[[[0., 5., 7., 0.]]]])
    """
    return unpool_call.max_unpool(3, x, indices, unpool_call.tuples(kernel_size, stride, padding, output_size), layout)


def max_unpool3d_backward(grad_output: ArrayLike, indices: ArrayLike, *, layout: str = "NCHW") -> np.ndarray:
    """Gradient of `max_unpool3d`: each value's is that of the cell it was put into.

    A value that another one replaced there has gradient 0: this is the exact adjoint.

    Parameters
    ----------
    grad_output : array_like
        Gradient of the unpooled volumes.
    indices : array_like
        As given to `max_unpool3d`.
    layout : {"NCDHW", "NDHWC"}
        Order of the axes ("NCHW" and "NHWC" name the same two).

    Returns
    -------
    numpy.ndarray
        Gradient of the values, of the shape of `indices`.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> fastconv.max_unpool3d_backward(np.array([[[[1.0, 2, 3, 4]]]]), np.array([[[[1, 2]]]]))
    array([[[[2., 3.]]]])
    """
    return unpool_call.max_unpool_backward(3, grad_output, indices, layout)
