"""Gradients of convolutions: of the input, of the weight, of the bias.

The functions have the names and the argument order of ``torch.nn.grad`` and take every option of the forward pass.
Each gradient is planned like a convolution: see `fastconv.explain` with ``direction="input"`` or ``"weight"``.

The four names of the same operation: the gradient of the input is a *transposed convolution* (its matrix is the
transpose of the convolution's), a *fractionally strided* one (it steps through its own input in steps of 1/stride), a
*backward strided* one (it is the backward pass), and an *upconvolution*, sometimes misnamed deconvolution (it does not
undo a convolution). As a layer of its own it is `fastconv.conv_transpose2d`.

Complex gradients are those of PyTorch: the input's is the adjoint, computed with the conjugate weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from fastconv import arrays, call
from fastconv.cpu.threads import get_num_threads
from fastconv.gradient_call import bound_input, bound_weight
from fastconv.kernels import bias_grad
from fastconv.spec import IntOrTuple, PaddingLike

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = [
    "conv1d_backward", "conv1d_input", "conv1d_weight", "conv2d_backward", "conv2d_input", "conv2d_weight",
    "conv3d_backward", "conv3d_input", "conv3d_weight", "conv_bias",
]  # fmt: skip

Gradients = tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]


def _input(ndim: int, shape: Any, weight: Any, gradient: Any, options: tuple[Any, ...], out: Any) -> np.ndarray:
    weight, gradient = arrays.as_array("weight", weight), arrays.as_array("grad_output", gradient)
    return bound_input(ndim, shape, weight, gradient, options)(gradient, weight, None, None, out)


def _weight(ndim: int, x: Any, shape: Any, gradient: Any, options: tuple[Any, ...], out: Any) -> np.ndarray:
    x, gradient = arrays.as_array("x", x), arrays.as_array("grad_output", gradient)
    return bound_weight(ndim, x, shape, gradient, options)(x, gradient, out)


def _backward(
    ndim: int, x: Any, weight: Any, gradient: Any, options: tuple[Any, ...], needs: Sequence[bool]
) -> Gradients:
    wanted = tuple(needs)
    if len(wanted) != 3 or not all(isinstance(want, (bool, np.bool_)) for want in wanted):
        raise ValueError(f"needs must be three bools (input, weight, bias), got {needs!r}")
    x, weight = arrays.as_array("x", x), arrays.as_array("weight", weight)
    gradient = arrays.as_array("grad_output", gradient)
    arrays.numbers(x.dtype, weight.dtype)
    # Bound before any is computed: an error leaves nothing half done.
    of_input = bound_input(ndim, x.shape, weight, gradient, options) if wanted[0] else None
    of_weight = bound_weight(ndim, x, weight.shape, gradient, options) if wanted[1] else None
    return (
        None if of_input is None else of_input(gradient, weight),
        None if of_weight is None else of_weight(x, gradient),
        conv_bias(gradient, layout=options[6], ndim=ndim) if wanted[2] else None,
    )


def conv1d_input(
    input_shape: Sequence[int],
    weight: ArrayLike,
    grad_output: ArrayLike,
    stride: IntOrTuple = 1,
    padding: PaddingLike = 0,
    dilation: IntOrTuple = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
    layout: str = "NCHW",
    flip: bool = False,
    algorithm: str = "auto",
    accuracy: str = "default",
    workspace_limit: int | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """The gradient of the input of `conv1d`.

    The adjoint of `conv1d`; all is as in `conv2d_input`, with one spatial axis.

    Parameters
    ----------
    input_shape : sequence of int
        Shape of the input, (N, C, L), or without N.
    weight : array_like
        Filters, (OC, C // groups, K).
    grad_output : array_like
        Gradient of the output, (N, OC, L'), of the dtype of `weight`. Its memory order is that of the result.
    stride, padding, dilation, groups, padding_mode, layout, flip, algorithm, accuracy, workspace_limit
        Those of the forward pass; see `fastconv.conv1d`.
    out : numpy.ndarray, optional
        Where to put the result.

    Returns
    -------
    numpy.ndarray
        Of shape `input_shape`.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> fastconv.grad.conv1d_input((1, 1, 4), np.float32([[[1, 10, 100]]]), np.ones((1, 1, 2), np.float32))
    array([[[  1.,  11., 110., 100.]]], dtype=float32)
    """
    options = (
        stride, padding, dilation, groups, padding_mode, None, layout, flip, algorithm, accuracy, workspace_limit
    )  # fmt: skip
    return _input(1, input_shape, weight, grad_output, options, out)


def conv1d_weight(
    x: ArrayLike,
    weight_shape: Sequence[int],
    grad_output: ArrayLike,
    stride: IntOrTuple = 1,
    padding: PaddingLike = 0,
    dilation: IntOrTuple = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
    layout: str = "NCHW",
    flip: bool = False,
    algorithm: str = "auto",
    accuracy: str = "default",
    workspace_limit: int | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """The gradient of the weight of `conv1d`.

    All is as in `conv2d_weight`, with one spatial axis.

    Parameters
    ----------
    x : array_like
        The input, (N, C, L), or without N.
    weight_shape : sequence of int
        Shape of the weight, (OC, C // groups, K).
    grad_output : array_like
        Gradient of the output, (N, OC, L'), of the dtype of `x`.
    stride, padding, dilation, groups, padding_mode, layout, flip, algorithm, accuracy, workspace_limit
        Those of the forward pass; see `fastconv.conv1d`.
    out : numpy.ndarray, optional
        Where to put the result.

    Returns
    -------
    numpy.ndarray
        Of shape `weight_shape`.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> x = np.float32([[[1, 10, 100, 1000]]])
    >>> fastconv.grad.conv1d_weight(x, (1, 1, 3), np.ones((1, 1, 2), np.float32))
    array([[[  11.,  110., 1100.]]], dtype=float32)
    """
    options = (
        stride, padding, dilation, groups, padding_mode, None, layout, flip, algorithm, accuracy, workspace_limit
    )  # fmt: skip
    return _weight(1, x, weight_shape, grad_output, options, out)


def conv1d_backward(
    x: ArrayLike,
    weight: ArrayLike,
    grad_output: ArrayLike,
    stride: IntOrTuple = 1,
    padding: PaddingLike = 0,
    dilation: IntOrTuple = 1,
    groups: int = 1,
    *,
    needs: Sequence[bool] = (True, True, True),
    padding_mode: str = "zeros",
    layout: str = "NCHW",
    flip: bool = False,
    algorithm: str = "auto",
    accuracy: str = "default",
    workspace_limit: int | None = None,
) -> Gradients:
    """The gradients of input, weight and bias of `conv1d` in one call.

    Parameters
    ----------
    x, weight, grad_output : array_like
        Input, filters and gradient of the output.
    needs : sequence of three bool
        Which of the gradients are wanted.
    stride, padding, dilation, groups, padding_mode, layout, flip, algorithm, accuracy, workspace_limit
        Those of the forward pass; see `fastconv.conv1d`.

    Returns
    -------
    tuple
        The gradients of `x`, of `weight` and of the bias; None for those not wanted.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> x, weight = np.ones((2, 4, 6), np.float32), np.ones((8, 4, 3), np.float32)
    >>> out = fastconv.conv1d(x, weight, padding=1)
    >>> dx, dw, db = fastconv.grad.conv1d_backward(x, weight, np.ones_like(out), padding=1)
    >>> dx.shape == x.shape, dw.shape == weight.shape, db.shape
    (True, True, (8,))
    """
    options = (
        stride, padding, dilation, groups, padding_mode, None, layout, flip, algorithm, accuracy, workspace_limit
    )  # fmt: skip
    return _backward(1, x, weight, grad_output, options, needs)


def conv2d_input(
    input_shape: Sequence[int],
    weight: ArrayLike,
    grad_output: ArrayLike,
    stride: IntOrTuple = 1,
    padding: PaddingLike = 0,
    dilation: IntOrTuple = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
    layout: str = "NCHW",
    flip: bool = False,
    algorithm: str = "auto",
    accuracy: str = "default",
    workspace_limit: int | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """The gradient of the input of `conv2d`.

    Computes, for the gradient ``g`` of the output of `conv2d`::

        result[n, c, y, x] = sum over o, u, v, i, j with  i*stride + u*dilation - padding = y
                                                     and  j*stride + v*dilation - padding = x
                             of weight[o, c, u, v] * g[n, o, i, j]

    It is `conv2d`'s exact adjoint: ``sum(conv2d(x, w) * g) == sum(x * conv2d_input(x.shape, w, g))``.

    Parameters
    ----------
    input_shape : sequence of int
        Shape of the input, (N, C, H, W), or without N.
    weight : array_like
        Filters, (OC, C // groups, KH, KW).
    grad_output : array_like
        Gradient of the output, (N, OC, OH, OW), of the dtype of `weight`. Its memory order is that of the result.
    stride, padding, dilation, groups, padding_mode, layout, flip, algorithm, accuracy, workspace_limit
        Those of the forward pass; see `fastconv.conv2d`.
    out : numpy.ndarray, optional
        Where to put the result.

    Returns
    -------
    numpy.ndarray
        Of shape `input_shape`.

    Notes
    -----
    With ``padding_mode`` other than "zeros" each padded cell hands its gradient to the cell that it showed.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    How often a 3x3 kernel of stride 2 meets each cell; this unevenness is the checkerboard of transposed convolutions
    (Odena et al. 2016).

    >>> ones = np.ones((1, 1, 3, 3), np.float32)
    >>> fastconv.grad.conv2d_input((1, 1, 7, 7), ones, ones, stride=2)[0, 0].astype(int)
    array([[1, 1, 2, 1, 2, 1, 1],
           [1, 1, 2, 1, 2, 1, 1],
           [2, 2, 4, 2, 4, 2, 2],
           [1, 1, 2, 1, 2, 1, 1],
           [2, 2, 4, 2, 4, 2, 2],
           [1, 1, 2, 1, 2, 1, 1],
           [1, 1, 2, 1, 2, 1, 1]])
    """
    options = (
        stride, padding, dilation, groups, padding_mode, None, layout, flip, algorithm, accuracy, workspace_limit
    )  # fmt: skip
    return _input(2, input_shape, weight, grad_output, options, out)


def conv2d_weight(
    x: ArrayLike,
    weight_shape: Sequence[int],
    grad_output: ArrayLike,
    stride: IntOrTuple = 1,
    padding: PaddingLike = 0,
    dilation: IntOrTuple = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
    layout: str = "NCHW",
    flip: bool = False,
    algorithm: str = "auto",
    accuracy: str = "default",
    workspace_limit: int | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """The gradient of the weight of `conv2d`.

    Computes, for the gradient ``g`` of the output of `conv2d`::

        result[o, c, u, v] = sum over n, i, j of
            g[n, o, i, j] * x[n, c, i*stride + u*dilation - padding, j*stride + v*dilation - padding]

    Parameters
    ----------
    x : array_like
        The input, (N, C, H, W), or without N.
    weight_shape : sequence of int
        Shape of the weight, (OC, C // groups, KH, KW).
    grad_output : array_like
        Gradient of the output, (N, OC, OH, OW), of the dtype of `x`.
    stride, padding, dilation, groups, padding_mode, layout, flip, algorithm, accuracy, workspace_limit
        Those of the forward pass; see `fastconv.conv2d`.
    out : numpy.ndarray, optional
        Where to put the result.

    Returns
    -------
    numpy.ndarray
        Of shape `weight_shape`.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> x = np.arange(9, dtype=np.float32).reshape(1, 1, 3, 3)
    >>> fastconv.grad.conv2d_weight(x, (1, 1, 2, 2), np.ones((1, 1, 2, 2), np.float32))[0, 0]
    array([[ 8., 12.],
           [20., 24.]], dtype=float32)
    """
    options = (
        stride, padding, dilation, groups, padding_mode, None, layout, flip, algorithm, accuracy, workspace_limit
    )  # fmt: skip
    return _weight(2, x, weight_shape, grad_output, options, out)


def conv2d_backward(
    x: ArrayLike,
    weight: ArrayLike,
    grad_output: ArrayLike,
    stride: IntOrTuple = 1,
    padding: PaddingLike = 0,
    dilation: IntOrTuple = 1,
    groups: int = 1,
    *,
    needs: Sequence[bool] = (True, True, True),
    padding_mode: str = "zeros",
    layout: str = "NCHW",
    flip: bool = False,
    algorithm: str = "auto",
    accuracy: str = "default",
    workspace_limit: int | None = None,
) -> Gradients:
    """The gradients of input, weight and bias of `conv2d` in one call.

    Parameters
    ----------
    x, weight, grad_output : array_like
        Input, filters and gradient of the output.
    needs : sequence of three bool
        Which of the gradients are wanted.
    stride, padding, dilation, groups, padding_mode, layout, flip, algorithm, accuracy, workspace_limit
        Those of the forward pass; see `fastconv.conv2d`.

    Returns
    -------
    tuple
        The gradients of `x`, of `weight` and of the bias; None for those not wanted.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> x, weight = np.ones((2, 4, 6, 6), np.float32), np.ones((8, 4, 3, 3), np.float32)
    >>> out = fastconv.conv2d(x, weight, padding=1)
    >>> dx, dw, db = fastconv.grad.conv2d_backward(x, weight, np.ones_like(out), padding=1)
    >>> dx.shape == x.shape, dw.shape == weight.shape, db.shape
    (True, True, (8,))
    """
    options = (
        stride, padding, dilation, groups, padding_mode, None, layout, flip, algorithm, accuracy, workspace_limit
    )  # fmt: skip
    return _backward(2, x, weight, grad_output, options, needs)


def conv3d_input(
    input_shape: Sequence[int],
    weight: ArrayLike,
    grad_output: ArrayLike,
    stride: IntOrTuple = 1,
    padding: PaddingLike = 0,
    dilation: IntOrTuple = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
    layout: str = "NCHW",
    flip: bool = False,
    algorithm: str = "auto",
    accuracy: str = "default",
    workspace_limit: int | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """The gradient of the input of `conv3d`.

    The adjoint of `conv3d`; all is as in `conv2d_input`, with three spatial axes.

    Parameters
    ----------
    input_shape : sequence of int
        Shape of the input, (N, C, D, H, W), or without N.
    weight : array_like
        Filters, (OC, C // groups, KD, KH, KW).
    grad_output : array_like
        Gradient of the output, (N, OC, OD, OH, OW), of the dtype of `weight`. Its memory order is that of the result.
    stride, padding, dilation, groups, padding_mode, layout, flip, algorithm, accuracy, workspace_limit
        Those of the forward pass; see `fastconv.conv3d`.
    out : numpy.ndarray, optional
        Where to put the result.

    Returns
    -------
    numpy.ndarray
        Of shape `input_shape`.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> ones = np.ones((1, 1, 2, 2, 2), np.float32)
    >>> fastconv.grad.conv3d_input((1, 1, 3, 3, 3), ones, ones)[0, 0, 1].astype(int)
    array([[2, 4, 2],
           [4, 8, 4],
           [2, 4, 2]])
    """
    options = (
        stride, padding, dilation, groups, padding_mode, None, layout, flip, algorithm, accuracy, workspace_limit
    )  # fmt: skip
    return _input(3, input_shape, weight, grad_output, options, out)


def conv3d_weight(
    x: ArrayLike,
    weight_shape: Sequence[int],
    grad_output: ArrayLike,
    stride: IntOrTuple = 1,
    padding: PaddingLike = 0,
    dilation: IntOrTuple = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
    layout: str = "NCHW",
    flip: bool = False,
    algorithm: str = "auto",
    accuracy: str = "default",
    workspace_limit: int | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """The gradient of the weight of `conv3d`.

    All is as in `conv2d_weight`, with three spatial axes.

    Parameters
    ----------
    x : array_like
        The input, (N, C, D, H, W), or without N.
    weight_shape : sequence of int
        Shape of the weight, (OC, C // groups, KD, KH, KW).
    grad_output : array_like
        Gradient of the output, (N, OC, OD, OH, OW), of the dtype of `x`.
    stride, padding, dilation, groups, padding_mode, layout, flip, algorithm, accuracy, workspace_limit
        Those of the forward pass; see `fastconv.conv3d`.
    out : numpy.ndarray, optional
        Where to put the result.

    Returns
    -------
    numpy.ndarray
        Of shape `weight_shape`.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> ones = np.ones((2, 1, 4, 4, 4), np.float32)
    >>> fastconv.grad.conv3d_weight(ones, (1, 1, 3, 3, 3), np.ones((2, 1, 2, 2, 2), np.float32))[0, 0, 0, 0]
    array([16., 16., 16.], dtype=float32)
    """
    options = (
        stride, padding, dilation, groups, padding_mode, None, layout, flip, algorithm, accuracy, workspace_limit
    )  # fmt: skip
    return _weight(3, x, weight_shape, grad_output, options, out)


def conv3d_backward(
    x: ArrayLike,
    weight: ArrayLike,
    grad_output: ArrayLike,
    stride: IntOrTuple = 1,
    padding: PaddingLike = 0,
    dilation: IntOrTuple = 1,
    groups: int = 1,
    *,
    needs: Sequence[bool] = (True, True, True),
    padding_mode: str = "zeros",
    layout: str = "NCHW",
    flip: bool = False,
    algorithm: str = "auto",
    accuracy: str = "default",
    workspace_limit: int | None = None,
) -> Gradients:
    """The gradients of input, weight and bias of `conv3d` in one call.

    Parameters
    ----------
    x, weight, grad_output : array_like
        Input, filters and gradient of the output.
    needs : sequence of three bool
        Which of the gradients are wanted.
    stride, padding, dilation, groups, padding_mode, layout, flip, algorithm, accuracy, workspace_limit
        Those of the forward pass; see `fastconv.conv3d`.

    Returns
    -------
    tuple
        The gradients of `x`, of `weight` and of the bias; None for those not wanted.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> x, weight = np.ones((2, 4, 6, 6, 6), np.float32), np.ones((8, 4, 3, 3, 3), np.float32)
    >>> out = fastconv.conv3d(x, weight, padding=1)
    >>> dx, dw, db = fastconv.grad.conv3d_backward(x, weight, np.ones_like(out), padding=1)
    >>> dx.shape == x.shape, dw.shape == weight.shape, db.shape
    (True, True, (8,))
    """
    options = (
        stride, padding, dilation, groups, padding_mode, None, layout, flip, algorithm, accuracy, workspace_limit
    )  # fmt: skip
    return _backward(3, x, weight, grad_output, options, needs)


def conv_bias(grad_output: ArrayLike, *, layout: str = "NCHW", ndim: int | None = None) -> np.ndarray:
    """The gradient of the bias of a convolution: the sum over images and cells.

    Parameters
    ----------
    grad_output : array_like
        Gradient of the output, (N, OC, ...) or, with `ndim`, (OC, ...).
    layout : str
        "NCHW" and its kin, or "NHWC" and its kin where channels are the last axis.
    ndim : int, optional
        Spatial axes; without it `grad_output` has a batch.

    Returns
    -------
    numpy.ndarray
        (OC,), of the dtype of `grad_output`.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> fastconv.grad.conv_bias(np.ones((2, 3, 5, 5), np.float32))
    array([50., 50., 50.], dtype=float32)
    """
    gradient = arrays.as_array("grad_output", grad_output)
    spatial = gradient.ndim - 2 if ndim is None else ndim
    if spatial not in (1, 2, 3) or gradient.ndim not in (spatial + 1, spatial + 2):
        raise ValueError(f"grad_output must have 3 to 5 axes (N, OC, 1 to 3 spatial), got shape {gradient.shape}")
    last = call.layout_is_channels_last(layout, spatial)
    channel = gradient.ndim - 1 if last else gradient.ndim - spatial - 1
    if gradient.dtype in (np.float32, np.float64):
        images = np.moveaxis(gradient if gradient.ndim == spatial + 2 else gradient[None], channel - gradient.ndim, 1)
        in_memory = arrays.is_channels_last(images, prefer=last)
        flat = arrays.ready(np.moveaxis(images, 1, -1) if in_memory else images, gradient.dtype).reshape(-1)
        N, OC, *cells = images.shape
        return bias_grad.run(flat, N, OC, prod(cells), in_memory, get_num_threads())
    axes = tuple(axis for axis in range(gradient.ndim) if axis != channel)
    wide = {"f": np.float64, "c": np.complex128}.get(gradient.dtype.kind)
    return gradient.sum(axis=axes, dtype=wide).astype(gradient.dtype)
