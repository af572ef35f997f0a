"""Pools over windows: maximum, average and L_p norm, with the names and conventions of `torch.nn.functional`.

A window of `kernel_size` cells steps by `stride` (the kernel size, if None) over the input with `padding` cells around
it, every `dilation`-th cell of it counting:

    max_pool   out[o] = max over k of x[o*stride + k*dilation - padding]
    avg_pool   out[o] = (sum over k of x[o*stride + k*dilation - padding]) / divisor
    lp_pool    out[o] = (sum over k of |x[o*stride + k*dilation - padding]|**p) ** (1/p)

Each has a ``_backward`` that turns the gradient of its output into that of its input. Images are (N, C, H, W) or, with
``layout="NHWC"``, (N, H, W, C); the batch may be left out, and may be empty. An array whose memory is channels-last is
recognised in either layout and gives a channels-last result.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fastconv import pool_window
from fastconv.spec import IntOrTuple, PaddingLike

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = [
    "max_pool1d",
    "max_pool1d_backward",
    "max_pool2d",
    "max_pool2d_backward",
    "max_pool3d",
    "max_pool3d_backward",
]


def max_pool1d(
    x: ArrayLike,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    padding: PaddingLike = 0,
    dilation: IntOrTuple = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    layout: str = "NCHW",
    out: np.ndarray | None = None,
) -> Any:
    """Largest value of every window of a batch of signals.

    All is as in `max_pool2d`, with one spatial axis.

    Parameters
    ----------
    x : array_like
        (N, C, L), or (C, L) without a batch.
    kernel_size, stride, padding, dilation : int or (int,)
        The windows; `stride` None means the kernel size.
    ceil_mode, return_indices : bool
        Round the number of windows up; return the places of the maxima too.
    layout : {"NCL", "NLC"}
        Order of the axes ("NCHW" and "NHWC" name the same two).
    out : numpy.ndarray, optional
        Where to put the maxima.

    Returns
    -------
    numpy.ndarray, or a tuple of two
        The maxima; with `return_indices` their places in the signal.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> fastconv.max_pool1d(np.array([[3.0, 1, 2, 5, 4]]), 2)
    array([[3., 5.]])
    """
    return pool_window.max_pool(
        1, x, kernel_size, stride, padding, dilation, ceil_mode, return_indices, layout, out=out
    )


def max_pool1d_backward(
    grad_output: ArrayLike,
    x: ArrayLike,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    padding: PaddingLike = 0,
    dilation: IntOrTuple = 1,
    ceil_mode: bool = False,
    indices: ArrayLike | None = None,
    *,
    layout: str = "NCHW",
) -> np.ndarray:
    """Gradient of `max_pool1d`: each value goes to the cell that was its window's maximum.

    Parameters
    ----------
    grad_output : array_like
        Gradient of the maxima.
    x : array_like
        What was pooled; with `indices` only its shape counts.
    kernel_size, stride, padding, dilation, ceil_mode, layout
        As they were given to `max_pool1d`.
    indices : array_like, optional
        What ``return_indices=True`` returned; found again if None.

    Returns
    -------
    numpy.ndarray
        Gradient of `x`.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> x = np.array([[3.0, 1, 2, 5]])
    >>> fastconv.max_pool1d_backward([[7.0, 8.0]], x, 2)
    array([[7., 0., 0., 8.]])
    """
    return pool_window.max_pool_backward(
        1, grad_output, x, kernel_size, stride, padding, dilation, ceil_mode, layout, indices=indices
    )


def max_pool2d(
    x: ArrayLike,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    padding: PaddingLike = 0,
    dilation: IntOrTuple = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    layout: str = "NCHW",
    out: np.ndarray | None = None,
) -> Any:
    """Largest value of every window of a batch of images.

    Parameters
    ----------
    x : array_like
        (N, C, H, W), or (C, H, W) for one image: float16, float32, float64 or integers of 8 to 64 bits. Arrays whose
        memory is (N, H, W, C) are used without a copy and give such a result.
    kernel_size : int or (int, int)
        Cells of a window.
    stride : int or (int, int), optional
        Step between windows; the kernel size if None.
    padding : int, tuple or {"same", "valid"}
        Cells around the image, which never win: one number, one per axis, or (before, after) per axis.
    dilation : int or (int, int)
        Step between neighbouring cells of a window.
    ceil_mode : bool
        Round the number of windows up: the last may reach beyond the padding, but must begin in the image or before.
    return_indices : bool
        Return (maxima, indices): the place of each maximum in its plane, int64, row by row (``h*W + w``). Of equal
        values the first counts. `max_unpool2d` takes them.
    layout : {"NCHW", "NHWC"}
        Order of the axes.
    out : numpy.ndarray, optional
        Where to put the maxima: right shape and dtype, sharing no memory with x.

    Returns
    -------
    numpy.ndarray, or a tuple of two
        (N, C, OH, OW), of the dtype of `x`; with `return_indices` the indices too.

    Notes
    -----
    The maximum of NaN and anything is NaN; the index is then that of the last NaN, as in PyTorch. A window of nothing
    but padding gives minus infinity (the least integer) and the index -1.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> x = np.array([[[1.0, 1, 2, 4], [5, 6, 7, 8], [3, 2, 1, 0], [1, 2, 3, 4]]])
    >>> fastconv.max_pool2d(x, 2)
    array([[[6., 8.],
            [3., 4.]]])
    >>> fastconv.max_pool2d(x, 2, return_indices=True)[1]
    array([[[ 5,  7],
            [ 8, 15]]])
    """
    return pool_window.max_pool(
        2, x, kernel_size, stride, padding, dilation, ceil_mode, return_indices, layout, out=out
    )


def max_pool2d_backward(
    grad_output: ArrayLike,
    x: ArrayLike,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    padding: PaddingLike = 0,
    dilation: IntOrTuple = 1,
    ceil_mode: bool = False,
    indices: ArrayLike | None = None,
    *,
    layout: str = "NCHW",
) -> np.ndarray:
    """Gradient of `max_pool2d`: each value goes to the cell that was its window's maximum.

    Parameters
    ----------
    grad_output : array_like
        Gradient of the maxima.
    x : array_like
        What was pooled; with `indices` only its shape counts.
    kernel_size, stride, padding, dilation, ceil_mode, layout
        As they were given to `max_pool2d`.
    indices : array_like, optional
        What ``return_indices=True`` returned; found again if None.

    Returns
    -------
    numpy.ndarray
        Gradient of `x`.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> x = np.array([[3.0, 1, 2, 5]])[None]
    >>> fastconv.max_pool2d_backward([[[7.0, 8.0]]], x, (1, 2))
    array([[[7., 0., 0., 8.]]])
    """
    return pool_window.max_pool_backward(
        2, grad_output, x, kernel_size, stride, padding, dilation, ceil_mode, layout, indices=indices
    )


def max_pool3d(
    x: ArrayLike,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    padding: PaddingLike = 0,
    dilation: IntOrTuple = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    layout: str = "NCHW",
    out: np.ndarray | None = None,
) -> Any:
    """Largest value of every window of a batch of volumes.

    All is as in `max_pool2d`, with three spatial axes.

    Parameters
    ----------
    x : array_like
        (N, C, D, H, W), or (C, D, H, W) without a batch.
    kernel_size, stride, padding, dilation : int or (int, int, int)
        The windows; `stride` None means the kernel size.
    ceil_mode, return_indices : bool
        Round the number of windows up; return the places of the maxima too.
    layout : {"NCDHW", "NDHWC"}
        Order of the axes ("NCHW" and "NHWC" name the same two).
    out : numpy.ndarray, optional
        Where to put the maxima.

    Returns
    -------
    numpy.ndarray, or a tuple of two
        The maxima; with `return_indices` their places in the volume, ``(d*H + h)*W + w``.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> fastconv.max_pool3d(np.arange(8.0).reshape(1, 2, 2, 2), 2)
    array([[[[7.]]]])
    """
    return pool_window.max_pool(
        3, x, kernel_size, stride, padding, dilation, ceil_mode, return_indices, layout, out=out
    )


def max_pool3d_backward(
    grad_output: ArrayLike,
    x: ArrayLike,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    padding: PaddingLike = 0,
    dilation: IntOrTuple = 1,
    ceil_mode: bool = False,
    indices: ArrayLike | None = None,
    *,
    layout: str = "NCHW",
) -> np.ndarray:
    """Gradient of `max_pool3d`: each value goes to the cell that was its window's maximum.

    Parameters
    ----------
    grad_output : array_like
        Gradient of the maxima.
    x : array_like
        What was pooled; with `indices` only its shape counts.
    kernel_size, stride, padding, dilation, ceil_mode, layout
        As they were given to `max_pool3d`.
    indices : array_like, optional
        What ``return_indices=True`` returned; found again if None.

    Returns
    -------
    numpy.ndarray
        Gradient of `x`.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> x = np.array([[3.0, 1, 2, 5]])[None, None]
    >>> fastconv.max_pool3d_backward([[[[7.0, 8.0]]]], x, (1, 1, 2))
    array([[[[7., 0., 0., 8.]]]])
    """
    return pool_window.max_pool_backward(
        3, grad_output, x, kernel_size, stride, padding, dilation, ceil_mode, layout, indices=indices
    )
