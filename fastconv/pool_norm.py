"""L_p pools: the norm of every window, and of the channels of every cell."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fastconv import pool_window
from fastconv.spec import IntOrTuple, PaddingLike

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = [
    "lp_pool1d",
    "lp_pool1d_backward",
    "lp_pool2d",
    "lp_pool2d_backward",
    "lp_pool3d",
    "lp_pool3d_backward",
]


def lp_pool1d(
    x: ArrayLike,
    norm_type: float,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    ceil_mode: bool = False,
    *,
    padding: PaddingLike = 0,
    dilation: IntOrTuple = 1,
    layout: str = "NCHW",
    out: np.ndarray | None = None,
) -> np.ndarray:
    """L_p norm of every window of a batch of signals: ``(sum of |x|**p) ** (1/p)``.

    Parameters
    ----------
    x : array_like
        (N, C, L), or (C, L) without a batch: float16, float32 or float64.
    norm_type : float
        p: positive, or inf for the largest magnitude.
    kernel_size, stride, padding, dilation : int or (int,)
        The windows, as in `max_pool1d`.
    ceil_mode : bool
        Round the number of windows up, as in `max_pool1d`.
    layout : {"NCL", "NLC"}
        Order of the axes ("NCHW" and "NHWC" name the same two).
    out : numpy.ndarray, optional
        Where to put the result.

    Returns
    -------
    numpy.ndarray
        The norms, of the dtype of `x`.

    Notes
    -----
    It is a norm (Gulcehre et al. 2014, and ONNX): odd p take magnitudes, where PyTorch takes the signed powers. Windows
    that reach over the end with `ceil_mode` have the norm of the cells they hold; PyTorch scales it up.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> fastconv.lp_pool1d(np.array([[3.0, 4, 0, 5]]), 2, 2)
    array([[5., 5.]])
    """
    return pool_window.lp_pool(1, x, norm_type, kernel_size, stride, padding, dilation, ceil_mode, layout, out=out)


def lp_pool1d_backward(
    grad_output: ArrayLike,
    x: ArrayLike,
    norm_type: float,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    ceil_mode: bool = False,
    *,
    padding: PaddingLike = 0,
    dilation: IntOrTuple = 1,
    layout: str = "NCHW",
) -> np.ndarray:
    """Gradient of `lp_pool1d`: ``grad * norm**(1 - p) * |x|**(p - 1) * sign(x)``, summed over the windows of a cell.

    Where the norm is 0 its gradient is taken as 0.

    Parameters
    ----------
    grad_output : array_like
        Gradient of the norms.
    x : array_like
        What was pooled.
    norm_type, kernel_size, stride, ceil_mode, padding, dilation, layout
        As they were given to `lp_pool1d`.

    Returns
    -------
    numpy.ndarray
        Gradient of `x`.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> fastconv.lp_pool1d_backward([[5.0]], np.array([[3.0, 4]]), 2, 2)
    array([[3., 4.]])
    """
    return pool_window.lp_pool_backward(
        1, grad_output, x, norm_type, kernel_size, stride, padding, dilation, ceil_mode, layout
    )


def lp_pool2d(
    x: ArrayLike,
    norm_type: float,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    ceil_mode: bool = False,
    *,
    padding: PaddingLike = 0,
    dilation: IntOrTuple = 1,
    layout: str = "NCHW",
    out: np.ndarray | None = None,
) -> np.ndarray:
    """L_p norm of every window of a batch of images: ``(sum of |x|**p) ** (1/p)``.

    Parameters
    ----------
    x : array_like
        (N, C, H, W), or (C, H, W) without a batch: float16, float32 or float64.
    norm_type : float
        p: positive, or inf for the largest magnitude.
    kernel_size, stride, padding, dilation : int or (int, int)
        The windows, as in `max_pool2d`.
    ceil_mode : bool
        Round the number of windows up, as in `max_pool2d`.
    layout : {"NCHW", "NHWC"}
        Order of the axes.
    out : numpy.ndarray, optional
        Where to put the result.

    Returns
    -------
    numpy.ndarray
        The norms, of the dtype of `x`.

    Notes
    -----
    It is a norm (Gulcehre et al. 2014, and ONNX): odd p take magnitudes, where PyTorch takes the signed powers. Windows
    that reach over the end with `ceil_mode` have the norm of the cells they hold; PyTorch scales it up.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> fastconv.lp_pool2d(np.array([[[3.0, 4, 0, 5]]]), 2, (1, 2))
    array([[[5., 5.]]])
    """
    return pool_window.lp_pool(2, x, norm_type, kernel_size, stride, padding, dilation, ceil_mode, layout, out=out)


def lp_pool2d_backward(
    grad_output: ArrayLike,
    x: ArrayLike,
    norm_type: float,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    ceil_mode: bool = False,
    *,
    padding: PaddingLike = 0,
    dilation: IntOrTuple = 1,
    layout: str = "NCHW",
) -> np.ndarray:
    """Gradient of `lp_pool2d`: ``grad * norm**(1 - p) * |x|**(p - 1) * sign(x)``, summed over the windows of a cell.

    Where the norm is 0 its gradient is taken as 0.

    Parameters
    ----------
    grad_output : array_like
        Gradient of the norms.
    x : array_like
        What was pooled.
    norm_type, kernel_size, stride, ceil_mode, padding, dilation, layout
        As they were given to `lp_pool2d`.

    Returns
    -------
    numpy.ndarray
        Gradient of `x`.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> fastconv.lp_pool2d_backward([[[5.0]]], np.array([[[3.0, 4]]]), 2, (1, 2))
    array([[[3., 4.]]])
    """
    return pool_window.lp_pool_backward(
        2, grad_output, x, norm_type, kernel_size, stride, padding, dilation, ceil_mode, layout
    )


def lp_pool3d(
    x: ArrayLike,
    norm_type: float,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    ceil_mode: bool = False,
    *,
    padding: PaddingLike = 0,
    dilation: IntOrTuple = 1,
    layout: str = "NCHW",
    out: np.ndarray | None = None,
) -> np.ndarray:
    """L_p norm of every window of a batch of volumes: ``(sum of |x|**p) ** (1/p)``.

    Parameters
    ----------
    x : array_like
        (N, C, D, H, W), or (C, D, H, W) without a batch: float16, float32 or float64.
    norm_type : float
        p: positive, or inf for the largest magnitude.
    kernel_size, stride, padding, dilation : int or (int, int, int)
        The windows, as in `max_pool3d`.
    ceil_mode : bool
        Round the number of windows up, as in `max_pool3d`.
    layout : {"NCDHW", "NDHWC"}
        Order of the axes ("NCHW" and "NHWC" name the same two).
    out : numpy.ndarray, optional
        Where to put the result.

    Returns
    -------
    numpy.ndarray
        The norms, of the dtype of `x`.

    Notes
    -----
    It is a norm (Gulcehre et al. 2014, and ONNX): odd p take magnitudes, where PyTorch takes the signed powers. Windows
    that reach over the end with `ceil_mode` have the norm of the cells they hold; PyTorch scales it up.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> fastconv.lp_pool3d(np.array([[[[3.0, 4, 0, 5]]]]), 2, (1, 1, 2))
    array([[[[5., 5.]]]])
    """
    return pool_window.lp_pool(3, x, norm_type, kernel_size, stride, padding, dilation, ceil_mode, layout, out=out)


def lp_pool3d_backward(
    grad_output: ArrayLike,
    x: ArrayLike,
    norm_type: float,
    kernel_size: IntOrTuple,
    stride: IntOrTuple | None = None,
    ceil_mode: bool = False,
    *,
    padding: PaddingLike = 0,
    dilation: IntOrTuple = 1,
    layout: str = "NCHW",
) -> np.ndarray:
    """Gradient of `lp_pool3d`: ``grad * norm**(1 - p) * |x|**(p - 1) * sign(x)``, summed over the windows of a cell.

    Where the norm is 0 its gradient is taken as 0.

    Parameters
    ----------
    grad_output : array_like
        Gradient of the norms.
    x : array_like
        What was pooled.
    norm_type, kernel_size, stride, ceil_mode, padding, dilation, layout
        As they were given to `lp_pool3d`.

    Returns
    -------
    numpy.ndarray
        Gradient of `x`.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> fastconv.lp_pool3d_backward([[[[5.0]]]], np.array([[[[3.0, 4]]]]), 2, (1, 1, 2))
    array([[[[3., 4.]]]])
    """
    return pool_window.lp_pool_backward(
        3, grad_output, x, norm_type, kernel_size, stride, padding, dilation, ceil_mode, layout
    )
