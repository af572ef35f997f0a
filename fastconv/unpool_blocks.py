"""Unpools in blocks: nearest neighbour and bed of nails; see `unpool.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fastconv import unpool_call
from fastconv.spec import IntOrTuple

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = [
    "bed_of_nails_unpool1d",
    "bed_of_nails_unpool1d_backward",
    "bed_of_nails_unpool2d",
    "bed_of_nails_unpool2d_backward",
    "bed_of_nails_unpool3d",
    "bed_of_nails_unpool3d_backward",
    "nearest_unpool1d",
    "nearest_unpool1d_backward",
    "nearest_unpool2d",
    "nearest_unpool2d_backward",
    "nearest_unpool3d",
    "nearest_unpool3d_backward",
]


def nearest_unpool1d(x: ArrayLike, kernel_size: IntOrTuple, *, layout: str = "NCHW") -> np.ndarray:
    """Enlarge a batch of signals: every value repeated over a block of cells.

    Parameters
    ----------
    x : array_like
        (N, C, L), or without the batch: float16, float32 or float64.
    kernel_size : int or tuple
        Cells of a block along each spatial axis.
    layout : {"NCL", "NLC"}
        Order of the axes ("NCHW" and "NHWC" name the same two).

    Returns
    -------
    numpy.ndarray
        The signals, each spatial axis `kernel_size` times as long.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> fastconv.nearest_unpool1d(np.array([[5.0, 7.0]]), 2)
    array([[5., 5., 7., 7.]])
    """
    return unpool_call.block_unpool(1, x, "nearest_unpool", unpool_call.repeat, kernel_size, layout)


def nearest_unpool1d_backward(grad_output: ArrayLike, kernel_size: IntOrTuple, *, layout: str = "NCHW") -> np.ndarray:
    """Gradient of `nearest_unpool1d`: the sum over each block.

    Parameters
    ----------
    grad_output : array_like
        Gradient of the enlarged signals.
    kernel_size : int or tuple
        As given to `nearest_unpool1d`.
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
    >>> fastconv.nearest_unpool1d_backward(np.array([[1.0, 2, 3, 4]]), 2)
    array([[3., 7.]])
    """
    return unpool_call.block_unpool_backward(1, grad_output, "nearest_unpool", unpool_call.repeat, kernel_size, layout)


def bed_of_nails_unpool1d(x: ArrayLike, kernel_size: IntOrTuple, *, layout: str = "NCHW") -> np.ndarray:
    """Enlarge a batch of signals: every value in the first cell of its block, zeros elsewhere.

    Parameters
    ----------
    x : array_like
        (N, C, L), or without the batch: float16, float32 or float64.
    kernel_size : int or tuple
        Cells of a block along each spatial axis.
    layout : {"NCL", "NLC"}
        Order of the axes ("NCHW" and "NHWC" name the same two).

    Returns
    -------
    numpy.ndarray
        The signals, each spatial axis `kernel_size` times as long.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> fastconv.bed_of_nails_unpool1d(np.array([[5.0, 7.0]]), 2)
    array([[5., 0., 7., 0.]])
    """
    return unpool_call.block_unpool(1, x, "bed_of_nails_unpool", unpool_call.nail, kernel_size, layout)


def bed_of_nails_unpool1d_backward(
    grad_output: ArrayLike, kernel_size: IntOrTuple, *, layout: str = "NCHW"
) -> np.ndarray:
    """Gradient of `bed_of_nails_unpool1d`: the first cell of each block.

    Parameters
    ----------
    grad_output : array_like
        Gradient of the enlarged signals.
    kernel_size : int or tuple
        As given to `bed_of_nails_unpool1d`.
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
    >>> fastconv.bed_of_nails_unpool1d_backward(np.array([[1.0, 2, 3, 4]]), 2)
    array([[1., 3.]])
    """
    return unpool_call.block_unpool_backward(
        1, grad_output, "bed_of_nails_unpool", unpool_call.nail, kernel_size, layout
    )


def nearest_unpool2d(x: ArrayLike, kernel_size: IntOrTuple, *, layout: str = "NCHW") -> np.ndarray:
    """Enlarge a batch of images: every value repeated over a block of cells.

    Parameters
    ----------
    x : array_like
        (N, C, H, W), or without the batch: float16, float32 or float64.
    kernel_size : int or tuple
        Cells of a block along each spatial axis.
    layout : {"NCHW", "NHWC"}
        Order of the axes.

    Returns
    -------
    numpy.ndarray
        The images, each spatial axis `kernel_size` times as long.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> fastconv.nearest_unpool2d(np.array([[[5.0, 7.0]]]), (1, 2))
    array([[[5., 5., 7., 7.]]])
    """
    return unpool_call.block_unpool(2, x, "nearest_unpool", unpool_call.repeat, kernel_size, layout)


def nearest_unpool2d_backward(grad_output: ArrayLike, kernel_size: IntOrTuple, *, layout: str = "NCHW") -> np.ndarray:
    """Gradient of `nearest_unpool2d`: the sum over each block.

    Parameters
    ----------
    grad_output : array_like
        Gradient of the enlarged images.
    kernel_size : int or tuple
        As given to `nearest_unpool2d`.
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
    >>> fastconv.nearest_unpool2d_backward(np.array([[[1.0, 2, 3, 4]]]), (1, 2))
    array([[[3., 7.]]])
    """
    return unpool_call.block_unpool_backward(2, grad_output, "nearest_unpool", unpool_call.repeat, kernel_size, layout)


def bed_of_nails_unpool2d(x: ArrayLike, kernel_size: IntOrTuple, *, layout: str = "NCHW") -> np.ndarray:
    """Enlarge a batch of images: every value in the first cell of its block, zeros elsewhere.

    Parameters
    ----------
    x : array_like
        (N, C, H, W), or without the batch: float16, float32 or float64.
    kernel_size : int or tuple
        Cells of a block along each spatial axis.
    layout : {"NCHW", "NHWC"}
        Order of the axes.

    Returns
    -------
    numpy.ndarray
        The images, each spatial axis `kernel_size` times as long.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> fastconv.bed_of_nails_unpool2d(np.array([[[5.0, 7.0]]]), (1, 2))
    array([[[5., 0., 7., 0.]]])
    """
    return unpool_call.block_unpool(2, x, "bed_of_nails_unpool", unpool_call.nail, kernel_size, layout)


def bed_of_nails_unpool2d_backward(
    grad_output: ArrayLike, kernel_size: IntOrTuple, *, layout: str = "NCHW"
) -> np.ndarray:
    """Gradient of `bed_of_nails_unpool2d`: the first cell of each block.

    Parameters
    ----------
    grad_output : array_like
        Gradient of the enlarged images.
    kernel_size : int or tuple
        As given to `bed_of_nails_unpool2d`.
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
    >>> fastconv.bed_of_nails_unpool2d_backward(np.array([[[1.0, 2, 3, 4]]]), (1, 2))
    array([[[1., 3.]]])
    """
    return unpool_call.block_unpool_backward(
        2, grad_output, "bed_of_nails_unpool", unpool_call.nail, kernel_size, layout
    )


def nearest_unpool3d(x: ArrayLike, kernel_size: IntOrTuple, *, layout: str = "NCHW") -> np.ndarray:
    """Enlarge a batch of volumes: every value repeated over a block of cells.

    Parameters
    ----------
    x : array_like
        (N, C, D, H, W), or without the batch: float16, float32 or float64.
    kernel_size : int or tuple
        Cells of a block along each spatial axis.
    layout : {"NCDHW", "NDHWC"}
        Order of the axes ("NCHW" and "NHWC" name the same two).

    Returns
    -------
    numpy.ndarray
        The volumes, each spatial axis `kernel_size` times as long.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> fastconv.nearest_unpool3d(np.array([[[[5.0, 7.0]]]]), (1, 1, 2))
    array([[[[5., 5., 7., 7.]]]])
    """
    return unpool_call.block_unpool(3, x, "nearest_unpool", unpool_call.repeat, kernel_size, layout)


def nearest_unpool3d_backward(grad_output: ArrayLike, kernel_size: IntOrTuple, *, layout: str = "NCHW") -> np.ndarray:
    """Gradient of `nearest_unpool3d`: the sum over each block.

    Parameters
    ----------
    grad_output : array_like
        Gradient of the enlarged volumes.
    kernel_size : int or tuple
        As given to `nearest_unpool3d`.
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
    >>> fastconv.nearest_unpool3d_backward(np.array([[[[1.0, 2, 3, 4]]]]), (1, 1, 2))
    array([[[[3., 7.]]]])
    """
    return unpool_call.block_unpool_backward(3, grad_output, "nearest_unpool", unpool_call.repeat, kernel_size, layout)


def bed_of_nails_unpool3d(x: ArrayLike, kernel_size: IntOrTuple, *, layout: str = "NCHW") -> np.ndarray:
    """Enlarge a batch of volumes: every value in the first cell of its block, zeros elsewhere.

    Parameters
    ----------
    x : array_like
        (N, C, D, H, W), or without the batch: float16, float32 or float64.
    kernel_size : int or tuple
        Cells of a block along each spatial axis.
    layout : {"NCDHW", "NDHWC"}
        Order of the axes ("NCHW" and "NHWC" name the same two).

    Returns
    -------
    numpy.ndarray
        The volumes, each spatial axis `kernel_size` times as long.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> fastconv.bed_of_nails_unpool3d(np.array([[[[5.0, 7.0]]]]), (1, 1, 2))
    array([[[[5., 0., 7., 0.]]]])
    """
    return unpool_call.block_unpool(3, x, "bed_of_nails_unpool", unpool_call.nail, kernel_size, layout)


def bed_of_nails_unpool3d_backward(
    grad_output: ArrayLike, kernel_size: IntOrTuple, *, layout: str = "NCHW"
) -> np.ndarray:
    """Gradient of `bed_of_nails_unpool3d`: the first cell of each block.

    Parameters
    ----------
    grad_output : array_like
        Gradient of the enlarged volumes.
    kernel_size : int or tuple
        As given to `bed_of_nails_unpool3d`.
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
    >>> fastconv.bed_of_nails_unpool3d_backward(np.array([[[[1.0, 2, 3, 4]]]]), (1, 1, 2))
    array([[[[1., 3.]]]])
    """
    return unpool_call.block_unpool_backward(
        3, grad_output, "bed_of_nails_unpool", unpool_call.nail, kernel_size, layout
    )
