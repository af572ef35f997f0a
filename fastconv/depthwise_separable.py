"""Depthwise separable convolutions: a filter for each channel, then one tap that mixes channels (Chollet 2017)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fastconv import arrays
from fastconv.call import layout_is_channels_last
from fastconv.separable import Stages, apply
from fastconv.separable_grad import gradients_of
from fastconv.spec import IntOrTuple, PaddingLike

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = [
    "depthwise_separable_conv1d",
    "depthwise_separable_conv1d_backward",
    "depthwise_separable_conv2d",
    "depthwise_separable_conv2d_backward",
    "depthwise_separable_conv3d",
    "depthwise_separable_conv3d_backward",
]

_TAPS = {1: "K", 2: "KH, KW", 3: "KD, KH, KW"}


def _stages(
    ndim: int, x: Any, depthwise: Any, pointwise: Any, stride: Any, padding: Any, dilation: Any, padding_mode: str,
    layout: str,
) -> Stages:  # fmt: skip
    """The two convolutions."""
    last = layout_is_channels_last(layout, ndim)
    filters, image = arrays.as_array("depthwise", depthwise), arrays.as_array("x", x)
    if filters.ndim != ndim + 2 or filters.shape[1] != 1:
        raise ValueError(f"depthwise must have shape (C * multiplier, 1, {_TAPS[ndim]}), got {filters.shape}")
    if image.ndim not in (ndim + 1, ndim + 2):
        raise ValueError(f"x must have {ndim + 1} or {ndim + 2} axes, got shape {image.shape}")
    C = image.shape[-1 if last else -ndim - 1]
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": C, "padding_mode": padding_mode}
    return [(filters, {**options, "layout": layout}), (pointwise, {"layout": layout})]


def depthwise_separable_conv1d(
    x: ArrayLike,
    depthwise: ArrayLike,
    pointwise: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    stride: IntOrTuple = 1,
    padding: PaddingLike = 0,
    dilation: IntOrTuple = 1,
    padding_mode: str = "zeros",
    activation: str | tuple[Any, ...] | None = None,
    layout: str = "NCHW",
) -> np.ndarray:
    """A filter for each channel of a signal, then a convolution of one tap that mixes channels.

    Parameters
    ----------
    x : array_like
        (N, C, L), or without the batch.
    depthwise : array_like
        (C * multiplier, 1, K).
    pointwise : array_like
        (OC, C * multiplier, 1).
    bias : array_like, optional
        (OC,).
    stride, padding, dilation, padding_mode
        Of the depthwise convolution; see `conv1d`.
    activation
        Of the result; see `conv1d`.
    layout : {"NCL", "NLC"}
        Order of the axes ("NCHW" and "NHWC" name the same two).

    Returns
    -------
    numpy.ndarray
        (N, OC, OL).

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> x = np.ones((1, 2, 4), np.float32)
    >>> depthwise, pointwise = np.ones((2, 1, 3), np.float32), np.ones((5, 2, 1), np.float32)
    >>> fastconv.depthwise_separable_conv1d(x, depthwise, pointwise)[0, :, 0]
    array([6., 6., 6., 6., 6.], dtype=float32)
    """
    stages = _stages(1, x, depthwise, pointwise, stride, padding, dilation, padding_mode, layout)
    return apply(x, stages, bias, activation, 1)


def depthwise_separable_conv1d_backward(
    grad_output: ArrayLike,
    x: ArrayLike,
    depthwise: ArrayLike,
    pointwise: ArrayLike,
    *,
    stride: IntOrTuple = 1,
    padding: PaddingLike = 0,
    dilation: IntOrTuple = 1,
    padding_mode: str = "zeros",
    layout: str = "NCHW",
) -> tuple[np.ndarray, ...]:
    """Gradients of `depthwise_separable_conv1d`; what lies between its two convolutions is computed again.

    Parameters
    ----------
    grad_output : array_like
        Gradient of the result, before any activation.
    x, depthwise, pointwise, stride, padding, dilation, padding_mode, layout
        As given to `depthwise_separable_conv1d`.

    Returns
    -------
    grad_x, grad_depthwise, grad_pointwise, grad_bias : numpy.ndarray

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> x, g = np.ones((1, 2, 4), np.float32), np.ones((1, 5, 2), np.float32)
    >>> depthwise, pointwise = np.ones((2, 1, 3), np.float32), np.ones((5, 2, 1), np.float32)
    >>> [v.shape for v in fastconv.depthwise_separable_conv1d_backward(g, x, depthwise, pointwise)]
    [(1, 2, 4), (2, 1, 3), (5, 2, 1), (5,)]
    """
    stages = _stages(1, x, depthwise, pointwise, stride, padding, dilation, padding_mode, layout)
    return gradients_of(grad_output, x, stages, 1)


def depthwise_separable_conv2d(
    x: ArrayLike,
    depthwise: ArrayLike,
    pointwise: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    stride: IntOrTuple = 1,
    padding: PaddingLike = 0,
    dilation: IntOrTuple = 1,
    padding_mode: str = "zeros",
    activation: str | tuple[Any, ...] | None = None,
    layout: str = "NCHW",
) -> np.ndarray:
    """A filter for each channel, then a 1x1 convolution that mixes channels.

    Parameters
    ----------
    x : array_like
        (N, C, H, W), or without the batch.
    depthwise : array_like
        (C * multiplier, 1, KH, KW).
    pointwise : array_like
        (OC, C * multiplier, 1, 1).
    bias : array_like, optional
        (OC,).
    stride, padding, dilation, padding_mode
        Of the depthwise convolution; see `conv2d`.
    activation
        Of the result; see `conv2d`.
    layout : {"NCHW", "NHWC"}
        Order of the axes.

    Returns
    -------
    numpy.ndarray
        (N, OC, OH, OW).

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> x = np.ones((1, 2, 4, 4), np.float32)
    >>> depthwise, pointwise = np.ones((2, 1, 3, 3), np.float32), np.ones((5, 2, 1, 1), np.float32)
    >>> fastconv.depthwise_separable_conv2d(x, depthwise, pointwise)[0, :, 0, 0]
    array([18., 18., 18., 18., 18.], dtype=float32)
    """
    stages = _stages(2, x, depthwise, pointwise, stride, padding, dilation, padding_mode, layout)
    return apply(x, stages, bias, activation, 2)


def depthwise_separable_conv2d_backward(
    grad_output: ArrayLike,
    x: ArrayLike,
    depthwise: ArrayLike,
    pointwise: ArrayLike,
    *,
    stride: IntOrTuple = 1,
    padding: PaddingLike = 0,
    dilation: IntOrTuple = 1,
    padding_mode: str = "zeros",
    layout: str = "NCHW",
) -> tuple[np.ndarray, ...]:
    """Gradients of `depthwise_separable_conv2d`; what lies between its two convolutions is computed again.

    Parameters
    ----------
    grad_output : array_like
        Gradient of the result, before any activation.
    x, depthwise, pointwise, stride, padding, dilation, padding_mode, layout
        As given to `depthwise_separable_conv2d`.

    Returns
    -------
    grad_x, grad_depthwise, grad_pointwise, grad_bias : numpy.ndarray

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> x, g = np.ones((1, 2, 4, 4), np.float32), np.ones((1, 5, 2, 2), np.float32)
    >>> depthwise, pointwise = np.ones((2, 1, 3, 3), np.float32), np.ones((5, 2, 1, 1), np.float32)
    >>> [v.shape for v in fastconv.depthwise_separable_conv2d_backward(g, x, depthwise, pointwise)]
    [(1, 2, 4, 4), (2, 1, 3, 3), (5, 2, 1, 1), (5,)]
    """
    stages = _stages(2, x, depthwise, pointwise, stride, padding, dilation, padding_mode, layout)
    return gradients_of(grad_output, x, stages, 2)


def depthwise_separable_conv3d(
    x: ArrayLike,
    depthwise: ArrayLike,
    pointwise: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    stride: IntOrTuple = 1,
    padding: PaddingLike = 0,
    dilation: IntOrTuple = 1,
    padding_mode: str = "zeros",
    activation: str | tuple[Any, ...] | None = None,
    layout: str = "NCHW",
) -> np.ndarray:
    """A filter for each channel of a volume, then a 1x1x1 convolution that mixes channels.

    Parameters
    ----------
    x : array_like
        (N, C, D, H, W), or without the batch.
    depthwise : array_like
        (C * multiplier, 1, KD, KH, KW).
    pointwise : array_like
        (OC, C * multiplier, 1, 1, 1).
    bias : array_like, optional
        (OC,).
    stride, padding, dilation, padding_mode
        Of the depthwise convolution; see `conv3d`.
    activation
        Of the result; see `conv3d`.
    layout : {"NCDHW", "NDHWC"}
        Order of the axes ("NCHW" and "NHWC" name the same two).

    Returns
    -------
    numpy.ndarray
        (N, OC, OD, OH, OW).

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> x = np.ones((1, 2, 4, 4, 4), np.float32)
    >>> depthwise, pointwise = np.ones((2, 1, 3, 3, 3), np.float32), np.ones((5, 2, 1, 1, 1), np.float32)
    >>> fastconv.depthwise_separable_conv3d(x, depthwise, pointwise)[0, :, 0, 0, 0]
    array([54., 54., 54., 54., 54.], dtype=float32)
    """
    stages = _stages(3, x, depthwise, pointwise, stride, padding, dilation, padding_mode, layout)
    return apply(x, stages, bias, activation, 3)


def depthwise_separable_conv3d_backward(
    grad_output: ArrayLike,
    x: ArrayLike,
    depthwise: ArrayLike,
    pointwise: ArrayLike,
    *,
    stride: IntOrTuple = 1,
    padding: PaddingLike = 0,
    dilation: IntOrTuple = 1,
    padding_mode: str = "zeros",
    layout: str = "NCHW",
) -> tuple[np.ndarray, ...]:
    """Gradients of `depthwise_separable_conv3d`; what lies between its two convolutions is computed again.

    Parameters
    ----------
    grad_output : array_like
        Gradient of the result, before any activation.
    x, depthwise, pointwise, stride, padding, dilation, padding_mode, layout
        As given to `depthwise_separable_conv3d`.

    Returns
    -------
    grad_x, grad_depthwise, grad_pointwise, grad_bias : numpy.ndarray

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> x, g = np.ones((1, 2, 4, 4, 4), np.float32), np.ones((1, 5, 2, 2, 2), np.float32)
    >>> depthwise, pointwise = np.ones((2, 1, 3, 3, 3), np.float32), np.ones((5, 2, 1, 1, 1), np.float32)
    >>> [v.shape for v in fastconv.depthwise_separable_conv3d_backward(g, x, depthwise, pointwise)]
    [(1, 2, 4, 4, 4), (2, 1, 3, 3, 3), (5, 2, 1, 1, 1), (5,)]
    """
    stages = _stages(3, x, depthwise, pointwise, stride, padding, dilation, padding_mode, layout)
    return gradients_of(grad_output, x, stages, 3)
