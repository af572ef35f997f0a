"""Gradients of convolutions whose kernel is a product of smaller ones: the chain rule over their stages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fastconv.conv import conv1d, conv2d, conv3d
from fastconv.grad import conv1d_backward, conv2d_backward, conv3d_backward
from fastconv.separable import Stages, flattened_stages, separable_stages
from fastconv.spec import IntOrTuple, PaddingLike

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = ["flattened_conv2d_backward", "separable_conv2d_backward"]

_CONVOLUTIONS = {1: (conv1d, conv1d_backward), 2: (conv2d, conv2d_backward), 3: (conv3d, conv3d_backward)}


def gradients_of(grad_output: Any, x: Any, stages: Stages, ndim: int = 2) -> tuple[np.ndarray, ...]:
    """Gradients of x, of the weight of every stage, and of the last one's bias."""
    convolve, backward = _CONVOLUTIONS[ndim]
    inputs = [x]
    for weight, options in stages[:-1]:
        inputs.append(convolve(inputs[-1], weight, **options))
    gradients: list[Any] = []
    gradient, bias = grad_output, None
    for index in reversed(range(len(stages))):
        weight, options = stages[index]
        needs = (True, True, index == len(stages) - 1)
        gradient, of_weight, of_bias = backward(inputs[index], weight, gradient, needs=needs, **options)
        gradients.insert(0, of_weight)
        bias = of_bias if bias is None else bias
    return gradient, *gradients, bias


def separable_conv2d_backward(
    grad_output: ArrayLike,
    x: ArrayLike,
    columns: ArrayLike,
    rows: ArrayLike,
    *,
    stride: IntOrTuple = 1,
    padding: PaddingLike = 0,
    dilation: IntOrTuple = 1,
    padding_mode: str = "zeros",
    layout: str = "NCHW",
) -> tuple[np.ndarray, ...]:
    """Gradients of `separable_conv2d`; what lies between its two convolutions is computed again.

    Parameters
    ----------
    grad_output : array_like
        Gradient of the result, before any activation.
    x, columns, rows, stride, padding, dilation, padding_mode, layout
        As given to `separable_conv2d`.

    Returns
    -------
    grad_x, grad_columns, grad_rows, grad_bias : numpy.ndarray

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> x, g = np.ones((1, 1, 4, 4)), np.ones((1, 1, 2, 2))
    >>> columns, rows = fastconv.separate(np.ones((3, 3)))
    >>> fastconv.separable_conv2d_backward(g, x, columns, rows)[0][0, 0].round(6)
    array([[1., 2., 2., 1.],
           [2., 4., 4., 2.],
           [2., 4., 4., 2.],
           [1., 2., 2., 1.]])
    """
    geometry = (stride, padding, dilation, padding_mode, layout)
    return gradients_of(grad_output, x, separable_stages(x, columns, rows, *geometry))


def flattened_conv2d_backward(
    grad_output: ArrayLike,
    x: ArrayLike,
    across: ArrayLike,
    down: ArrayLike,
    along: ArrayLike,
    *,
    stride: IntOrTuple = 1,
    padding: PaddingLike = 0,
    dilation: IntOrTuple = 1,
    padding_mode: str = "zeros",
    layout: str = "NCHW",
) -> tuple[np.ndarray, ...]:
    """Gradients of `flattened_conv2d`; what lies between its convolutions is computed again.

    Parameters
    ----------
    grad_output : array_like
        Gradient of the result, before any activation.
    x, across, down, along, stride, padding, dilation, padding_mode, layout
        As given to `flattened_conv2d`.

    Returns
    -------
    grad_x, grad_across, grad_down, grad_along, grad_bias : numpy.ndarray

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> parts = fastconv.flatten_kernel(np.ones((8, 3, 3, 3), np.float32))
    >>> x, g = np.ones((1, 3, 4, 4), np.float32), np.ones((1, 8, 2, 2), np.float32)
    >>> [v.shape for v in fastconv.flattened_conv2d_backward(g, x, *parts)]
    [(1, 3, 4, 4), (8, 3, 1, 1), (8, 1, 3, 1), (8, 1, 1, 3), (8,)]
    """
    geometry = (stride, padding, dilation, padding_mode, layout)
    return gradients_of(grad_output, x, flattened_stages(x, across, down, along, *geometry))
