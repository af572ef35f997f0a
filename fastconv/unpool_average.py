"""Average unpools; see `unpool.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fastconv import unpool_call
from fastconv.spec import IntOrTuple

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = [
    "avg_unpool1d",
    "avg_unpool1d_backward",
    "avg_unpool2d",
    "avg_unpool2d_backward",
    "avg_unpool3d",
    "avg_unpool3d_backward",
]


def avg_unpool1d(
    x: ArrayLike,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    padding: IntOrTuple = 0,
    output_size: Sequence[int] | None = None,
    *,
    layout: str = "NCHW",
) -> np.ndarray:
    """Spread every value evenly over its window, ``x / cells`` each; where windows overlap the shares add up.

    Parameters
    ----------
    x : array_like
        (N, C, L), or without the batch: float16, float32 or float64.
    kernel_size, stride, padding
        The windows, as in `avg_pool1d`, whose adjoint this is.
    output_size : tuple of int, optional
        As in `max_unpool1d`.
    layout : {"NCL", "NLC"}
        Order of the axes ("NCHW" and "NHWC" name the same two).

    Returns
    -------
    numpy.ndarray
        The enlarged signals.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> fastconv.avg_unpool1d(np.array([[5.0, 7.0]]), 2)
    array([[2.5, 2.5, 3.5, 3.5]])
    """
    return unpool_call.avg_unpool(1, x, unpool_call.tuples(kernel_size, stride, padding, output_size), layout)


def avg_unpool1d_backward(
    grad_output: ArrayLike,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    padding: IntOrTuple = 0,
    *,
    layout: str = "NCHW",
) -> np.ndarray:
    """Gradient of `avg_unpool1d`: the average over each window.

    Parameters
    ----------
    grad_output : array_like
        Gradient of the enlarged signals.
    kernel_size, stride, padding
        As given to `avg_unpool1d`.
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
    >>> fastconv.avg_unpool1d_backward(np.array([[1.0, 2, 3, 5]]), 2)
    array([[1.5, 4. ]])
    """
    return unpool_call.avg_unpool_backward(1, grad_output, unpool_call.tuples(kernel_size, stride, padding), layout)


def avg_unpool2d(
    x: ArrayLike,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    padding: IntOrTuple = 0,
    output_size: Sequence[int] | None = None,
    *,
    layout: str = "NCHW",
) -> np.ndarray:
    """Spread every value evenly over its window, ``x / cells`` each; where windows overlap the shares add up.

    Parameters
    ----------
    x : array_like
        (N, C, H, W), or without the batch: float16, float32 or float64.
    kernel_size, stride, padding
        The windows, as in `avg_pool2d`, whose adjoint this is.
    output_size : tuple of int, optional
        As in `max_unpool2d`.
    layout : {"NCHW", "NHWC"}
        Order of the axes.

    Returns
    -------
    numpy.ndarray
        The enlarged images.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> fastconv.avg_unpool2d(np.array([[[5.0, 7.0]]]), (1, 2))
    array([[[2.5, 2.5, 3.5, 3.5]]])
    """
    return unpool_call.avg_unpool(2, x, unpool_call.tuples(kernel_size, stride, padding, output_size), layout)


def avg_unpool2d_backward(
    grad_output: ArrayLike,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    padding: IntOrTuple = 0,
    *,
    layout: str = "NCHW",
) -> np.ndarray:
    """Gradient of `avg_unpool2d`: the average over each window.

    Parameters
    ----------
    grad_output : array_like
        Gradient of the enlarged images.
    kernel_size, stride, padding
        As given to `avg_unpool2d`.
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
    >>> fastconv.avg_unpool2d_backward(np.array([[[1.0, 2, 3, 5]]]), (1, 2))
    array([[[1.5, 4. ]]])
    """
    return unpool_call.avg_unpool_backward(2, grad_output, unpool_call.tuples(kernel_size, stride, padding), layout)


def avg_unpool3d(
    x: ArrayLike,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    padding: IntOrTuple = 0,
    output_size: Sequence[int] | None = None,
    *,
    layout: str = "NCHW",
) -> np.ndarray:
    """Spread every value evenly over its window, ``x / cells`` each; where windows overlap the shares add up.

    Parameters
    ----------
    x : array_like
        (N, C, D, H, W), or without the batch: float16, float32 or float64.
    kernel_size, stride, padding
        The windows, as in `avg_pool3d`, whose adjoint this is.
    output_size : tuple of int, optional
        As in `max_unpool3d`.
    layout : {"NCDHW", "NDHWC"}
        Order of the axes ("NCHW" and "NHWC" name the same two).

    Returns
    -------
    numpy.ndarray
        The enlarged volumes.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> fastconv.avg_unpool3d(np.array([[[[5.0, 7.0]]]]), (1, 1, 2))
    array([[[[2.5, 2.5, 3.5, 3.5]]]])
    """
    return unpool_call.avg_unpool(3, x, unpool_call.tuples(kernel_size, stride, padding, output_size), layout)


def avg_unpool3d_backward(
    grad_output: ArrayLike,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    padding: IntOrTuple = 0,
    *,
    layout: str = "NCHW",
) -> np.ndarray:
    """Gradient of `avg_unpool3d`: the average over each window.

    Parameters
    ----------
    grad_output : array_like
        Gradient of the enlarged volumes.
    kernel_size, stride, padding
        As given to `avg_unpool3d`.
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
    >>> fastconv.avg_unpool3d_backward(np.array([[[[1.0, 2, 3, 5]]]]), (1, 1, 2))
    array([[[[1.5, 4. ]]]])
    """
    return unpool_call.avg_unpool_backward(3, grad_output, unpool_call.tuples(kernel_size, stride, padding), layout)
