"""Fully connected layers, which are 1x1 convolutions, and how one is read as the other ("just squint")."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from fastconv import arrays
from fastconv.conv import conv1d
from fastconv.features import as_float
from fastconv.spec import shape_tuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike

__all__ = ["conv_to_linear", "linear", "linear_backward", "linear_to_conv"]


def _operands(x: Any, weight: Any) -> tuple[np.ndarray, np.ndarray]:
    x, weight = as_float("x", x), as_float("weight", weight)
    if weight.ndim != 2 or 0 in weight.shape:
        raise ValueError(f"weight must have shape (outputs, inputs), none of them 0, got {weight.shape}")
    if x.ndim < 1 or x.shape[-1] != weight.shape[1]:
        raise ValueError(f"x must have {weight.shape[1]} numbers along its last axis (weight {weight.shape}), "
                         f"got shape {x.shape}")  # fmt: skip
    if x.dtype != weight.dtype:
        raise TypeError(f"x and weight must have the same dtype, got x {x.dtype} and weight {weight.dtype}")
    return x, weight


def linear(
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    activation: str | tuple[Any, ...] | None = None,
) -> np.ndarray:
    """Fully connected layer, ``activation(x @ weight.T + bias)``.

    It is the 1x1 convolution of a channels-last picture whose pixels are the rows of x, and is computed as one.

    Parameters
    ----------
    x : array_like
        (..., inputs); float16, float32 or float64.
    weight : array_like
        (outputs, inputs), of the dtype of `x`.
    bias : array_like, optional
        (outputs,).
    activation : str or tuple, optional
        Applied last; see `conv2d`.

    Returns
    -------
    numpy.ndarray
        (..., outputs).

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> fastconv.linear(np.float32([[1, 2, 3]]), np.float32([[1, 1, 1], [0, 0, 1]]), np.float32([10, 20]))
    array([[16., 23.]], dtype=float32)
    """
    x, weight = _operands(x, weight)
    M = prod(x.shape[:-1])
    if M == 0:  # an empty batch; everything is checked by the same code
        linear(np.zeros((1, x.shape[-1]), x.dtype), weight, bias, activation=activation)
        return np.empty((*x.shape[:-1], weight.shape[0]), x.dtype)
    rows = x.reshape(1, M, x.shape[-1])
    y = conv1d(rows, weight[:, :, None], bias, activation=activation, layout="NLC")
    return y.reshape(*x.shape[:-1], weight.shape[0])


def linear_backward(
    grad_output: ArrayLike, x: ArrayLike, weight: ArrayLike
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gradients of `linear` (without activation).

    With rows g of grad_output::

        grad_x = g @ weight        grad_weight = g.T @ x        grad_bias = sum of g

    Parameters
    ----------
    grad_output : array_like
        Gradient of the result, (..., outputs), of the dtype of `x`.
    x, weight : array_like
        As given to `linear`.

    Returns
    -------
    grad_x, grad_weight, grad_bias : numpy.ndarray
        Of the shapes of `x`, `weight` and `bias`.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> grads = fastconv.linear_backward(np.float32([[1]]), np.float32([[2, 3]]), np.float32([[4, 5]]))
    >>> [g.tolist() for g in grads]
    [[[4.0, 5.0]], [[2.0, 3.0]], [1.0]]
    """
    x, weight = _operands(x, weight)
    gradient = as_float("grad_output", grad_output)
    OUT, IN = weight.shape
    if gradient.shape != (*x.shape[:-1], OUT):
        raise ValueError(f"grad_output must have shape {(*x.shape[:-1], OUT)}, got {gradient.shape}")
    if gradient.dtype != x.dtype:
        raise TypeError(f"grad_output must have the dtype of x, {x.dtype}, got {gradient.dtype}")
    M = prod(x.shape[:-1])
    if M == 0:
        return np.empty_like(x), np.zeros_like(weight), np.zeros(OUT, x.dtype)
    g = gradient.reshape(1, M, OUT)
    grad_x = conv1d(g, weight.T[:, :, None], layout="NLC")
    # Rows of x as M channels of a picture with IN pixels, which OUT filters mix: again a 1x1 convolution.
    grad_weight = conv1d(x.reshape(1, M, IN), g[0].T[:, :, None])
    grad_bias = g[0].sum(0, dtype=np.float64).astype(x.dtype)
    return grad_x.reshape(x.shape), grad_weight.reshape(OUT, IN), grad_bias


def linear_to_conv(weight: ArrayLike, shape: Sequence[int]) -> np.ndarray:
    """Read a fully connected layer on a flattened (C, *spatial) feature map as a convolution.

    The convolution's kernel covers the whole map, so on a map of that size it gives the layer's numbers as a 1x1 map.
    On a larger map it gives them at every position: the network becomes fully convolutional.

    Parameters
    ----------
    weight : array_like
        (outputs, C * prod(spatial)).
    shape : sequence of int
        (C, *spatial) of the feature map that was flattened.

    Returns
    -------
    numpy.ndarray
        (outputs, C, *spatial), a convolution's weight. "Just squint": not a number changes.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> fastconv.linear_to_conv(np.ones((10, 16 * 5 * 5), np.float32), (16, 5, 5)).shape
    (10, 16, 5, 5)
    """
    weight, shape = arrays.as_array("weight", weight), shape_tuple("shape", shape)
    if weight.ndim != 2:
        raise ValueError(f"weight must have shape (outputs, inputs), got {weight.shape}")
    if len(shape) < 1 or weight.shape[1] != prod(shape):
        raise ValueError(f"shape must hold weight's {weight.shape[1]} inputs, got {shape} with {prod(shape)}")
    return weight.reshape(weight.shape[0], *shape)


def conv_to_linear(weight: ArrayLike) -> np.ndarray:
    """Read a convolution as the fully connected layer it is on an input of the kernel's own size.

    Parameters
    ----------
    weight : array_like
        (OC, C, *kernel), one group.

    Returns
    -------
    numpy.ndarray
        (OC, C * prod(kernel)), the weight of `linear` on the flattened input.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> fastconv.conv_to_linear(np.ones((10, 16, 5, 5), np.float32)).shape
    (10, 400)
    """
    weight = arrays.as_array("weight", weight)
    if weight.ndim < 2:
        raise ValueError(f"weight must have shape (OC, C, *kernel), got {weight.shape}")
    return weight.reshape(weight.shape[0], -1)
