"""Average pools; `pool.py` says what windows are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fastconv import pool_window
from fastconv.spec import IntOrTuple, PaddingLike

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = [
    "avg_pool1d",
    "avg_pool1d_backward",
    "avg_pool2d",
    "avg_pool2d_backward",
    "avg_pool3d",
    "avg_pool3d_backward",
]


def avg_pool1d(
    x: ArrayLike,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    padding: PaddingLike = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    dilation: IntOrTuple = 1,
    layout: str = "NCHW",
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Average of every window of a batch of signals.

    All is as in `avg_pool2d`, with one spatial axis.

    Parameters
    ----------
    x : array_like
        (N, C, L), or (C, L) without a batch.
    kernel_size, stride, padding, dilation : int or (int,)
        The windows; `stride` None means the kernel size.
    ceil_mode, count_include_pad : bool
        Round the number of windows up; count padding cells.
    divisor_override : int, optional
        Divide by this instead of the number of cells.
    layout : {"NCL", "NLC"}
        Order of the axes ("NCHW" and "NHWC" name the same two).
    out : numpy.ndarray, optional
        Where to put the result.

    Returns
    -------
    numpy.ndarray
        The averages, of the dtype of `x`.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> fastconv.avg_pool1d(np.array([[3.0, 1, 2, 5, 4]]), 2)
    array([[2. , 3.5]])
    """
    return pool_window.avg_pool(
        1, x, kernel_size, stride, padding, dilation, ceil_mode, count_include_pad, divisor_override, layout, out=out
    )


def avg_pool1d_backward(
    grad_output: ArrayLike,
    input_shape: Any,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    padding: PaddingLike = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    dilation: IntOrTuple = 1,
    layout: str = "NCHW",
) -> np.ndarray:
    """Gradient of `avg_pool1d`: the adjoint of its linear map.

    Parameters
    ----------
    grad_output : array_like
        Gradient of the averages.
    input_shape : tuple of int
        Shape of what was pooled.
    kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override, dilation, layout
        As they were given to `avg_pool1d`.

    Returns
    -------
    numpy.ndarray
        Gradient of the input.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> fastconv.avg_pool1d_backward(np.ones((1, 2)), (1, 4), 2)
    array([[0.5, 0.5, 0.5, 0.5]])
    """
    return pool_window.avg_pool_backward(
        1, grad_output, input_shape, kernel_size, stride, padding, dilation, ceil_mode, count_include_pad,
        divisor_override, layout,
    )  # fmt: skip


def avg_pool2d(
    x: ArrayLike,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    padding: PaddingLike = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    dilation: IntOrTuple = 1,
    layout: str = "NCHW",
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Average of every window of a batch of images.

    Parameters
    ----------
    x : array_like
        (N, C, H, W), or (C, H, W) for one image: float16, float32 or float64.
    kernel_size, stride, padding
        The windows, as in `max_pool2d`; padding cells are zeros.
    ceil_mode : bool
        Round the number of windows up, as in `max_pool2d`.
    count_include_pad : bool
        Divide by the cells of the window that lie in the image or its padding; if False, in the image.
    divisor_override : int, optional
        Divide by this instead.
    dilation : int or (int, int)
        Step between neighbouring cells of a window.
    layout : {"NCHW", "NHWC"}
        Order of the axes.
    out : numpy.ndarray, optional
        Where to put the result.

    Returns
    -------
    numpy.ndarray
        (N, C, OH, OW), of the dtype of `x`. A window without cells gives 0.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> fastconv.avg_pool2d(np.arange(16.0).reshape(1, 4, 4), 2)
    array([[[ 2.5,  4.5],
            [10.5, 12.5]]])
    >>> fastconv.avg_pool2d(np.ones((1, 2, 2)), 2, padding=1, count_include_pad=False)
    array([[[1., 1.],
            [1., 1.]]])
    """
    return pool_window.avg_pool(
        2, x, kernel_size, stride, padding, dilation, ceil_mode, count_include_pad, divisor_override, layout, out=out
    )


def avg_pool2d_backward(
    grad_output: ArrayLike,
    input_shape: Any,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    padding: PaddingLike = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    dilation: IntOrTuple = 1,
    layout: str = "NCHW",
) -> np.ndarray:
    """Gradient of `avg_pool2d`: the adjoint of its linear map.

    Parameters
    ----------
    grad_output : array_like
        Gradient of the averages.
    input_shape : tuple of int
        Shape of what was pooled.
    kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override, dilation, layout
        As they were given to `avg_pool2d`.

    Returns
    -------
    numpy.ndarray
        Gradient of the input.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> fastconv.avg_pool2d_backward(np.ones((1, 1, 2)), (1, 1, 4), (1, 2))
    array([[[0.5, 0.5, 0.5, 0.5]]])
    """
    return pool_window.avg_pool_backward(
        2, grad_output, input_shape, kernel_size, stride, padding, dilation, ceil_mode, count_include_pad,
        divisor_override, layout,
    )  # fmt: skip


def avg_pool3d(
    x: ArrayLike,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    padding: PaddingLike = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    dilation: IntOrTuple = 1,
    layout: str = "NCHW",
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Average of every window of a batch of volumes.

    All is as in `avg_pool2d`, with three spatial axes.

    Parameters
    ----------
    x : array_like
        (N, C, D, H, W), or (C, D, H, W) without a batch.
    kernel_size, stride, padding, dilation : int or (int, int, int)
        The windows; `stride` None means the kernel size.
    ceil_mode, count_include_pad : bool
        Round the number of windows up; count padding cells.
    divisor_override : int, optional
        Divide by this instead of the number of cells.
    layout : {"NCDHW", "NDHWC"}
        Order of the axes ("NCHW" and "NHWC" name the same two).
    out : numpy.ndarray, optional
        Where to put the result.

    Returns
    -------
    numpy.ndarray
        The averages, of the dtype of `x`.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> fastconv.avg_pool3d(np.arange(8.0).reshape(1, 2, 2, 2), 2)
    array([[[[3.5]]]])
    """
    return pool_window.avg_pool(
        3, x, kernel_size, stride, padding, dilation, ceil_mode, count_include_pad, divisor_override, layout, out=out
    )


def avg_pool3d_backward(
    grad_output: ArrayLike,
    input_shape: Any,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    padding: PaddingLike = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    dilation: IntOrTuple = 1,
    layout: str = "NCHW",
) -> np.ndarray:
    """Gradient of `avg_pool3d`: the adjoint of its linear map.

    Parameters
    ----------
    grad_output : array_like
        Gradient of the averages.
    input_shape : tuple of int
        Shape of what was pooled.
    kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override, dilation, layout
        As they were given to `avg_pool3d`.

    Returns
    -------
    numpy.ndarray
        Gradient of the input.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> fastconv.avg_pool3d_backward(np.ones((1, 1, 1, 2)), (1, 1, 1, 4), (1, 1, 2))
    array([[[[0.5, 0.5, 0.5, 0.5]]]])
    """
    return pool_window.avg_pool_backward(
        3, grad_output, input_shape, kernel_size, stride, padding, dilation, ceil_mode, count_include_pad,
        divisor_override, layout,
    )  # fmt: skip
