"""Three-dimensional kernels that are products of a depth, a column and a row: the tensor train of a filter bank.

weight[o, c, t, u, v] = sum over r, s of depths[r, c, t] columns[s, r, u] rows[o, s, v]

KD + KH + KW multiplications where the kernel has KD KH KW. With ranks of 1 it is every Gaussian and box, with more it
is the bank itself, or its approximation (Oseledets 2011; in two dimensions: `separable`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fastconv.call import layout_is_channels_last
from fastconv.features import as_float
from fastconv.separable import Stages, apply, bank_of, factor, split_options, zero_of
from fastconv.separable_grad import gradients_of
from fastconv.spec import IntOrTuple, PaddingLike, per_axis

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = ["separable_conv3d", "separable_conv3d_backward", "separate3d"]


def separate3d(
    weight: ArrayLike, rank: IntOrTuple | None = None, *, tolerance: float | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Split a filter bank into filters along depth, columns and rows.

    By two singular value decompositions, of the bank as the matrix (C KD) x (OC KH KW) and of what is left as
    (rank KH) x (OC KW) (I. V. Oseledets: Tensor-train decomposition, 2011).

    Parameters
    ----------
    weight : array_like
        (KD, KH, KW) or (OC, C, KD, KH, KW); float16, float32 or float64.
    rank : int or (int, int), optional
        Products to keep between depths and columns, and between columns and rows; by default as many as the bank has,
        so that nothing is lost. A kernel is separable if both are 1.
    tolerance : float, optional
        What counts as zero, relative to the largest singular value; by default what rounding can leave.

    Returns
    -------
    depths, columns, rows : numpy.ndarray
        (rank[0], C, KD, 1, 1), (rank[1], rank[0], 1, KH, 1) and (OC, rank[1], 1, 1, KW), for `separable_conv3d`.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> binomial = np.array([1.0, 2.0, 1.0])
    >>> parts = fastconv.separate3d(np.einsum("t,u,v->tuv", binomial, binomial, binomial))
    >>> [part.shape for part in parts]
    [(1, 1, 3, 1, 1), (1, 1, 1, 3, 1), (1, 1, 1, 1, 3)]
    """
    bank = bank_of(weight, "KD, KH, KW")
    OC, C, KD, KH, KW = bank.shape
    ranks = (None, None) if rank is None else per_axis("rank", rank, 2)
    tensor = bank.astype(np.float64).transpose(1, 2, 0, 3, 4)
    left, right = _factor(tensor.reshape(C * KD, OC * KH * KW), ranks[0], bank.dtype, tolerance)
    r = left.shape[1]
    depths = left.T.reshape(r, C, KD, 1, 1)
    rest = right.reshape(r, OC, KH, KW).transpose(0, 2, 1, 3)
    left, right = _factor(rest.reshape(r * KH, OC * KW), ranks[1], bank.dtype, tolerance)
    q = left.shape[1]
    columns = left.T.reshape(q, r, 1, KH, 1)
    rows = right.reshape(q, OC, 1, 1, KW).transpose(1, 0, 2, 3, 4)
    depths, columns, rows = (np.ascontiguousarray(part.astype(bank.dtype)) for part in (depths, columns, rows))
    return depths, columns, rows


def _factor(
    matrix: np.ndarray, rank: int | None, dtype: np.dtype, tolerance: float | None
) -> tuple[np.ndarray, np.ndarray]:
    zero = zero_of(matrix, dtype, tolerance)
    return factor(matrix, rank, 2 * zero if tolerance is None else zero, "here")  # rounding of both steps adds up


def _stages(
    x: Any, depths: Any, columns: Any, rows: Any, stride: Any, padding: Any, dilation: Any, padding_mode: str,
    layout: str,
) -> Stages:  # fmt: skip
    parts = []
    for axis, (name, part, expected) in enumerate(
        (
            ("depths", depths, "(rank, C, KD, 1, 1)"),
            ("columns", columns, "(rank, rank, 1, KH, 1)"),
            ("rows", rows, "(OC, rank, 1, 1, KW)"),
        )
    ):
        part = as_float(name, part)
        others = [size for i, size in enumerate(part.shape[2:]) if i != axis]
        if part.ndim != 5 or others != [1, 1]:
            raise ValueError(f"{name} must have shape {expected}, got {part.shape}")
        parts.append(part)
    kernel = tuple(part.shape[2 + axis] for axis, part in enumerate(parts))
    options = split_options(x, kernel, stride, padding, dilation, layout_is_channels_last(layout, 3))
    shared = {"padding_mode": padding_mode, "layout": layout}
    return [(part, {**shared, **each}) for part, each in zip(parts, options, strict=True)]


def separable_conv3d(
    x: ArrayLike,
    depths: ArrayLike,
    columns: ArrayLike,
    rows: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    stride: IntOrTuple = 1,
    padding: PaddingLike = 0,
    dilation: IntOrTuple = 1,
    padding_mode: str = "zeros",
    activation: str | tuple[Any, ...] | None = None,
    layout: str = "NCDHW",
) -> np.ndarray:
    """Convolution with a bank that was split by `separate3d`: along depth, down the columns, along the rows.

    Parameters
    ----------
    x : array_like
        (N, C, D, H, W).
    depths, columns, rows : array_like
        (r, C, KD, 1, 1), (s, r, 1, KH, 1) and (OC, s, 1, 1, KW).
    bias, stride, padding, dilation, padding_mode, activation, layout
        Of the whole; see `conv3d`.

    Returns
    -------
    numpy.ndarray
        (N, OC, OD, OH, OW), what `conv3d` gives with the bank itself, but for rounding.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> parts = fastconv.separate3d(np.ones((3, 3, 3)))
    >>> fastconv.separable_conv3d(np.ones((1, 1, 3, 3, 4)), *parts).round(6)
    array([[[[[27., 27.]]]]])
    """
    geometry = (stride, padding, dilation, padding_mode, layout)
    return apply(x, _stages(x, depths, columns, rows, *geometry), bias, activation, ndim=3)


def separable_conv3d_backward(
    grad_output: ArrayLike,
    x: ArrayLike,
    depths: ArrayLike,
    columns: ArrayLike,
    rows: ArrayLike,
    *,
    stride: IntOrTuple = 1,
    padding: PaddingLike = 0,
    dilation: IntOrTuple = 1,
    padding_mode: str = "zeros",
    layout: str = "NCDHW",
) -> tuple[np.ndarray, ...]:
    """Gradients of `separable_conv3d`; what lies between its convolutions is computed again.

    Parameters
    ----------
    grad_output : array_like
        Gradient of the result, before any activation.
    x, depths, columns, rows, stride, padding, dilation, padding_mode, layout
        As given to `separable_conv3d`.

    Returns
    -------
    grad_x, grad_depths, grad_columns, grad_rows, grad_bias : numpy.ndarray

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> parts = fastconv.separate3d(np.ones((1, 1, 3)))
    >>> x, g = np.ones((1, 1, 1, 1, 4)), np.ones((1, 1, 1, 1, 2))
    >>> fastconv.separable_conv3d_backward(g, x, *parts)[0].round(6)
    array([[[[[1., 2., 2., 1.]]]]])
    """
    geometry = (stride, padding, dilation, padding_mode, layout)
    return gradients_of(grad_output, x, _stages(x, depths, columns, rows, *geometry), ndim=3)
