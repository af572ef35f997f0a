"""L_p pools over channels: the norm of neighbouring features at every cell."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from fastconv import arrays, pool_window
from fastconv.pool_call import FLOATS, Frame
from fastconv.pool_spec import output_size
from fastconv.spec import per_axis

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = [
    "lp_pool_channels",
    "lp_pool_channels_backward",
]


def _frame(function: str, x: np.ndarray, kernel_size: Any, stride: Any, layout: Any) -> tuple[Frame, int, int, int]:
    """The frame of x, the window, its step and the number of windows."""
    if x.ndim not in (3, 4, 5):
        raise ValueError(f"x must have 3 to 5 axes (N, C, 1 to 3 spatial), got shape {x.shape}")
    frame = Frame(function, x.ndim - 2, x, layout, FLOATS)
    (k,) = per_axis("kernel_size", frame.C if kernel_size is None else kernel_size, 1)
    (s,) = (k,) if stride is None else per_axis("stride", stride, 1)
    if k > frame.C:
        raise ValueError(f"{function}: kernel_size must not exceed the {frame.C} channels of x, got {k}")
    return frame, k, s, output_size(frame.C, k, s, 1, (0, 0), False)


def _image(frame: Frame, flat: np.ndarray, C: int, cells: int) -> tuple[int, np.ndarray]:
    """Channels as an axis of pixels: (spatial axes, array) for the pools over windows."""
    if frame.channels_last:
        return 1, flat.reshape(frame.N * cells, 1, C)
    return 2, flat.reshape(frame.N, 1, C, cells)


def _result(frame: Frame, pooled: np.ndarray, C: int) -> np.ndarray:
    outer = (frame.N,) if frame.batched else ()
    shape = (*outer, *frame.sizes, C) if frame.channels_last else (*outer, C, *frame.sizes)
    return frame.result(pooled.reshape(shape))


def lp_pool_channels(
    x: ArrayLike,
    norm_type: float = 2,
    kernel_size: int | None = None,
    stride: int | None = None,
    *,
    layout: str = "NCHW",
) -> np.ndarray:
    """L_p norm over neighbouring channels, cell by cell: L2-pooling over features.

        out[n, o, h, w] = (sum over k of |x[n, o*stride + k, h, w]|**p) ** (1/p)

    Parameters
    ----------
    x : array_like
        (N, C, L), (N, C, H, W) or (N, C, D, H, W): float16, float32 or float64.
    norm_type : float
        p: positive, or inf for the largest magnitude.
    kernel_size : int, optional
        Channels of a window; all of them if None.
    stride : int, optional
        Step between windows; the kernel size if None.
    layout : {"NCHW", "NHWC"}
        Order of the axes.

    Returns
    -------
    numpy.ndarray
        (N, windows, ...), of the dtype of `x`. Pooling over features makes a detector invariant to what its features
        differ in (Le et al. 2012, Goodfellow et al. 2013).

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> x = np.array([3.0, 4.0, 0.0, 2.0]).reshape(1, 4, 1, 1)
    >>> fastconv.lp_pool_channels(x, 2, 2).ravel()
    array([5., 2.])
    """
    x = arrays.as_array("x", x)
    frame, k, s, windows = _frame("lp_pool_channels", x, kernel_size, stride, layout)
    ndim, image = _image(frame, frame.flat(x), frame.C, prod(frame.sizes))
    window = k if ndim == 1 else (k, 1)
    pooled = pool_window.lp_pool(
        ndim, image, norm_type, window, s if ndim == 1 else (s, 1), 0, 1, False, "NCHW", out=None
    )
    return _result(frame, pooled, windows)


def lp_pool_channels_backward(
    grad_output: ArrayLike,
    x: ArrayLike,
    norm_type: float = 2,
    kernel_size: int | None = None,
    stride: int | None = None,
    *,
    layout: str = "NCHW",
) -> np.ndarray:
    """Gradient of `lp_pool_channels`; 0 where the norm is.

    Parameters
    ----------
    grad_output : array_like
        Gradient of the norms.
    x : array_like
        What was pooled.
    norm_type, kernel_size, stride, layout
        As they were given to `lp_pool_channels`.

    Returns
    -------
    numpy.ndarray
        Gradient of `x`.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> x = np.array([3.0, 4.0]).reshape(1, 2, 1, 1)
    >>> fastconv.lp_pool_channels_backward([[[[5.0]]]], x).ravel()
    array([3., 4.])
    """
    grad, x = arrays.as_array("grad_output", grad_output), arrays.as_array("x", x)
    frame, k, s, windows = _frame("lp_pool_channels_backward", x, kernel_size, stride, layout)
    if grad.dtype != x.dtype or grad.shape != frame.shape(frame.sizes, windows):
        raise ValueError(
            f"lp_pool_channels_backward: grad_output must be {x.dtype} of shape {frame.shape(frame.sizes, windows)}, "
            f"got {grad.dtype} {grad.shape}"
        )
    cells = prod(frame.sizes)
    ndim, image = _image(frame, frame.flat(x), frame.C, cells)
    view = grad if frame.to_memory is None else grad.transpose(frame.to_memory)
    _, flow = _image(frame, arrays.ready(view, frame.kernel).reshape(-1), windows, cells)
    window = k if ndim == 1 else (k, 1)
    back = pool_window.lp_pool_backward(
        ndim, flow, image, norm_type, window, s if ndim == 1 else (s, 1), 0, 1, False, "NCHW"
    )
    return _result(frame, back, frame.C)
