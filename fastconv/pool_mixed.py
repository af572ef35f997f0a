"""Mixed pools: a fixed or learnt mixture of maximum and average (Lee, Gallagher and Tu 2016)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fastconv import arrays, pool_window
from fastconv.pool_call import FLOATS, Frame
from fastconv.spec import IntOrTuple, PaddingLike

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = [
    "mixed_pool1d",
    "mixed_pool1d_backward",
    "mixed_pool2d",
    "mixed_pool2d_backward",
    "mixed_pool3d",
    "mixed_pool3d_backward",
]


def _share(frame: Frame, alpha: Any) -> np.ndarray:
    """`alpha`, shaped to multiply arrays of the frame."""
    share = arrays.as_array("alpha", alpha)
    if share.dtype.kind not in "fi" or share.shape not in ((), (frame.C,)):
        raise ValueError(f"alpha must be a number or {frame.C} numbers, one per channel, got {alpha!r}")
    share = share.astype(frame.dtype)
    if not (np.isfinite(share).all() and (share >= 0).all() and (share <= 1).all()):
        raise ValueError(f"alpha must lie between 0 and 1, got {alpha!r}")
    return share if share.ndim == 0 or frame.last else share.reshape(-1, *(1,) * frame.ndim)


def _mixed(
    ndim: int,
    x: Any,
    alpha: Any,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    ceil_mode: Any,
    include: Any,
    layout: Any,
) -> np.ndarray:
    x = arrays.as_array("x", x)
    share = _share(Frame(f"mixed_pool{ndim}d", ndim, x, layout, FLOATS), alpha)
    maxima = pool_window.max_pool(ndim, x, kernel_size, stride, padding, 1, ceil_mode, False, layout, out=None)
    means = pool_window.avg_pool(ndim, x, kernel_size, stride, padding, 1, ceil_mode, include, None, layout, out=None)
    maxima *= share
    means *= 1 - share
    maxima += means
    return maxima


def _mixed_backward(
    ndim: int, grad: Any, x: Any, alpha: Any, kernel_size: Any, stride: Any, padding: Any, ceil_mode: Any, include: Any,
    layout: Any,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    grad, x = arrays.as_array("grad_output", grad), arrays.as_array("x", x)
    frame = Frame(f"mixed_pool{ndim}d_backward", ndim, x, layout, FLOATS)
    share = _share(frame, alpha)
    windows = (kernel_size, stride, padding, 1, ceil_mode)
    maxima, indices = pool_window.max_pool(ndim, x, *windows, True, layout, out=None)
    if grad.shape != maxima.shape or grad.dtype != x.dtype:
        raise ValueError(
            f"mixed_pool{ndim}d_backward: grad_output must be {x.dtype} of shape {maxima.shape}, "
            f"got {grad.dtype} {grad.shape}"
        )
    maxima -= pool_window.avg_pool(ndim, x, *windows, include, None, layout, out=None)
    slopes = grad * maxima
    axes = tuple(axis for axis in range(grad.ndim) if axis != (grad.ndim - 1 if frame.last else grad.ndim - 1 - ndim))
    grad_alpha = slopes.sum() if share.ndim == 0 else slopes.sum(axes)
    back = pool_window.max_pool_backward(ndim, grad * share, x, *windows, layout, indices=indices)
    back += pool_window.avg_pool_backward(ndim, grad * (1 - share), x.shape, *windows, include, None, layout)
    return back, np.asarray(grad_alpha, x.dtype)


def mixed_pool1d(
    x: ArrayLike,
    kernel_size: IntOrTuple,
    alpha: ArrayLike = 0.5,
    stride: IntOrTuple | None = None,
    padding: PaddingLike = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    *,
    layout: str = "NCHW",
) -> np.ndarray:
    """Mixture of maximum and average of every window: ``alpha * max + (1 - alpha) * average``.

    Parameters
    ----------
    x : array_like
        Signals, (N, C, L), or without the batch: float16, float32 or float64.
    kernel_size, stride, padding, ceil_mode, count_include_pad
        The windows, as in `max_pool1d` and `avg_pool1d`.
    alpha : float or (C,) array_like
        The share of the maximum, the same for all channels or one for each (Lee et al. 2016).
    layout : {"NCL", "NLC"}
        Order of the axes ("NCHW" and "NHWC" name the same two).

    Returns
    -------
    numpy.ndarray
        The mixtures, of the dtype of `x`.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> fastconv.mixed_pool1d(np.array([[1.0, 3.0, 2.0, 2.0]]), 2, 0.5)
    array([[2.5, 2. ]])
    """
    return _mixed(1, x, alpha, kernel_size, stride, padding, ceil_mode, count_include_pad, layout)


def mixed_pool1d_backward(
    grad_output: ArrayLike,
    x: ArrayLike,
    kernel_size: IntOrTuple,
    alpha: ArrayLike = 0.5,
    stride: IntOrTuple | None = None,
    padding: PaddingLike = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    *,
    layout: str = "NCHW",
) -> tuple[np.ndarray, np.ndarray]:
    """Gradients of `mixed_pool1d`.

    Parameters
    ----------
    grad_output : array_like
        Gradient of the mixtures.
    x : array_like
        What was pooled.
    kernel_size, alpha, stride, padding, ceil_mode, count_include_pad, layout
        As they were given to `mixed_pool1d`.

    Returns
    -------
    tuple of two numpy.ndarray
        Gradient of `x`, and of `alpha` (of its shape).

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> grad, grad_alpha = fastconv.mixed_pool1d_backward(np.array([[1.0]]), np.array([[1.0, 3.0]]), 2, 0.5)
    >>> grad
    array([[0.25, 0.75]])
    >>> float(grad_alpha)
    1.0
    """
    return _mixed_backward(1, grad_output, x, alpha, kernel_size, stride, padding, ceil_mode, count_include_pad, layout)


def mixed_pool2d(
    x: ArrayLike,
    kernel_size: IntOrTuple,
    alpha: ArrayLike = 0.5,
    stride: IntOrTuple | None = None,
    padding: PaddingLike = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    *,
    layout: str = "NCHW",
) -> np.ndarray:
    """Mixture of maximum and average of every window: ``alpha * max + (1 - alpha) * average``.

    Parameters
    ----------
    x : array_like
        Images, (N, C, H, W), or without the batch: float16, float32 or float64.
    kernel_size, stride, padding, ceil_mode, count_include_pad
        The windows, as in `max_pool2d` and `avg_pool2d`.
    alpha : float or (C,) array_like
        The share of the maximum, the same for all channels or one for each (Lee et al. 2016).
    layout : {"NCHW", "NHWC"}
        Order of the axes.

    Returns
    -------
    numpy.ndarray
        The mixtures, of the dtype of `x`.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> fastconv.mixed_pool2d(np.array([[[1.0, 3.0, 2.0, 2.0]]]), (1, 2), 0.5)
    array([[[2.5, 2. ]]])
    """
    return _mixed(2, x, alpha, kernel_size, stride, padding, ceil_mode, count_include_pad, layout)


def mixed_pool2d_backward(
    grad_output: ArrayLike,
    x: ArrayLike,
    kernel_size: IntOrTuple,
    alpha: ArrayLike = 0.5,
    stride: IntOrTuple | None = None,
    padding: PaddingLike = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    *,
    layout: str = "NCHW",
) -> tuple[np.ndarray, np.ndarray]:
    """Gradients of `mixed_pool2d`.

    Parameters
    ----------
    grad_output : array_like
        Gradient of the mixtures.
    x : array_like
        What was pooled.
    kernel_size, alpha, stride, padding, ceil_mode, count_include_pad, layout
        As they were given to `mixed_pool2d`.

    Returns
    -------
    tuple of two numpy.ndarray
        Gradient of `x`, and of `alpha` (of its shape).

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> grad, grad_alpha = fastconv.mixed_pool2d_backward(np.array([[[1.0]]]), np.array([[[1.0, 3.0]]]), (1, 2), 0.5)
    >>> grad
    array([[[0.25, 0.75]]])
    >>> float(grad_alpha)
    1.0
    """
    return _mixed_backward(2, grad_output, x, alpha, kernel_size, stride, padding, ceil_mode, count_include_pad, layout)


def mixed_pool3d(
    x: ArrayLike,
    kernel_size: IntOrTuple,
    alpha: ArrayLike = 0.5,
    stride: IntOrTuple | None = None,
    padding: PaddingLike = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    *,
    layout: str = "NCHW",
) -> np.ndarray:
    """Mixture of maximum and average of every window: ``alpha * max + (1 - alpha) * average``.

    Parameters
    ----------
    x : array_like
        Volumes, (N, C, D, H, W), or without the batch: float16, float32 or float64.
    kernel_size, stride, padding, ceil_mode, count_include_pad
        The windows, as in `max_pool3d` and `avg_pool3d`.
    alpha : float or (C,) array_like
        The share of the maximum, the same for all channels or one for each (Lee et al. 2016).
    layout : {"NCDHW", "NDHWC"}
        Order of the axes ("NCHW" and "NHWC" name the same two).

    Returns
    -------
    numpy.ndarray
        The mixtures, of the dtype of `x`.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> fastconv.mixed_pool3d(np.array([[[[1.0, 3.0, 2.0, 2.0]]]]), (1, 1, 2), 0.5)
    array([[[[2.5, 2. ]]]])
    """
    return _mixed(3, x, alpha, kernel_size, stride, padding, ceil_mode, count_include_pad, layout)


def mixed_pool3d_backward(
    grad_output: ArrayLike,
    x: ArrayLike,
    kernel_size: IntOrTuple,
    alpha: ArrayLike = 0.5,
    stride: IntOrTuple | None = None,
    padding: PaddingLike = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    *,
    layout: str = "NCHW",
) -> tuple[np.ndarray, np.ndarray]:
    """Gradients of `mixed_pool3d`.

    Parameters
    ----------
    grad_output : array_like
        Gradient of the mixtures.
    x : array_like
        What was pooled.
    kernel_size, alpha, stride, padding, ceil_mode, count_include_pad, layout
        As they were given to `mixed_pool3d`.

    Returns
    -------
    tuple of two numpy.ndarray
        Gradient of `x`, and of `alpha` (of its shape).

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> x = np.array([[[[1.0, 3.0]]]])
    >>> grad, grad_alpha = fastconv.mixed_pool3d_backward([[[[1.0]]]], x, (1, 1, 2), 0.5)
    >>> grad
    array([[[[0.25, 0.75]]]])
    >>> float(grad_alpha)
    1.0
    """
    return _mixed_backward(3, grad_output, x, alpha, kernel_size, stride, padding, ceil_mode, count_include_pad, layout)
