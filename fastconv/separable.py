"""Convolutions whose kernel is a product of smaller ones.

======================  =====================================  ==================  ==========================
form                    weight[o, c, u, v]                     multiplications     reference
======================  =====================================  ==================  ==========================
depthwise separable     pointwise[o, c] depthwise[c, u, v]     KH KW + OC          Chollet 2017 (Xception)
spatially separable     column[o, u] row[o, v], one channel    KH + KW             every Gaussian, box, Sobel
low rank                sum of r products across both          r (KH + KW)         Jaderberg et al. 2014
flattened               across[o, c] down[o, u] along[o, v]    C + KH + KW         Jin et al. 2015
======================  =====================================  ==================  ==========================
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fastconv import arrays
from fastconv.conv import conv1d, conv2d, conv3d
from fastconv.features import as_float
from fastconv.spec import IntOrTuple, PaddingLike, per_axis, resolve_padding

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = [
    "flatten_kernel",
    "flattened_conv2d",
    "kernel_rank",
    "separable_conv2d",
    "separate",
]

Stages = list[tuple[Any, dict[str, Any]]]  # weights, and options of their convolutions

_CONVOLUTIONS = {1: conv1d, 2: conv2d, 3: conv3d}


def apply(x: Any, stages: Stages, bias: Any, activation: Any, ndim: int = 2) -> np.ndarray:
    """Convolutions one after another; bias and activation belong to the last."""
    convolve = _CONVOLUTIONS[ndim]
    *before, (weight, options) = stages
    for first, first_options in before:
        x = convolve(x, first, **first_options)
    return convolve(x, weight, bias, activation=activation, **options)


def kernel_rank(weight: ArrayLike, tolerance: float | None = None) -> int:
    """Products of a column and a row that a filter bank is the sum of; 1 is a separable kernel.

    Parameters
    ----------
    weight : array_like
        One kernel, (KH, KW), or a bank, (OC, C, KH, KW): its rank as the matrix (C KH) x (OC KW).
    tolerance : float, optional
        What counts as zero, relative to the largest singular value; by default what rounding can leave.

    Returns
    -------
    int

    Examples
    --------
    >>> import fastconv
    >>> fastconv.kernel_rank([[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]])  # the binomial kernel
    1
    >>> fastconv.kernel_rank([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]])  # the Laplacian is not
    2
    """
    bank = bank_of(weight)
    matrix = _matrix(bank)
    return _rank(np.linalg.svd(matrix, compute_uv=False), zero_of(matrix, bank.dtype, tolerance))


def bank_of(weight: Any, axes: str = "KH, KW") -> np.ndarray:
    """A kernel with these axes, or a bank of such, as a bank that can be factored."""
    bank, n = as_float("weight", weight), axes.count(",") + 1
    if bank.ndim == n:
        bank = bank[None, None]
    if bank.ndim != n + 2 or 0 in bank.shape:
        raise ValueError(f"weight must have shape ({axes}) or (OC, C, {axes}), none of them 0, got {np.shape(weight)}")
    if not np.isfinite(bank).all():
        raise ValueError("weight must be finite to be factored, got NaN or infinity")
    return bank


def _matrix(bank: np.ndarray) -> np.ndarray:
    """(OC, C, KH, KW) as the float64 matrix (C KH) x (OC KW)."""
    OC, C, KH, KW = bank.shape
    return bank.astype(np.float64).transpose(1, 2, 0, 3).reshape(C * KH, OC * KW)


def _rank(values: np.ndarray, zero: float) -> int:
    """Singular values that count, `zero` being relative to the largest."""
    return max(1, int((values > zero * values[0]).sum()))


def zero_of(matrix: np.ndarray, dtype: np.dtype, tolerance: float | None) -> float:
    """What counts as zero: by default what rounding a matrix to `dtype` can leave."""
    return float(np.finfo(dtype).eps) * max(matrix.shape) if tolerance is None else tolerance


def factor(matrix: np.ndarray, rank: int | None, zero: float, where: str) -> tuple[np.ndarray, np.ndarray]:
    """The best product of two matrices of this rank (None: the matrix's own), the singular values dealt to both."""
    U, values, V = np.linalg.svd(matrix, full_matrices=False)
    r = _rank(values, zero) if rank is None else rank
    if r > len(values):
        raise ValueError(f"rank must be at most {len(values)} {where}, got {r}")
    root = np.sqrt(values[:r])
    return U[:, :r] * root, root[:, None] * V[:r]


def separate(
    weight: ArrayLike, rank: int | None = None, *, tolerance: float | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Split a filter bank into vertical and horizontal filters.

    With the singular value decomposition of the bank as a matrix (C KH) x (OC KW), the best approximation of its rank
    in the least-squares sense (Eckart & Young 1936).

    Parameters
    ----------
    weight : array_like
        (KH, KW) or (OC, C, KH, KW); float16, float32 or float64.
    rank : int, optional
        Products to keep; by default as many as the bank has, so that nothing is lost.
    tolerance : float, optional
        See `kernel_rank`.

    Returns
    -------
    columns, rows : numpy.ndarray
        (rank, C, KH, 1) and (OC, rank, 1, KW), for `separable_conv2d`.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> columns, rows = fastconv.separate(np.outer([1.0, 2.0, 1.0], [-1.0, 0.0, 1.0]))  # Sobel
    >>> columns.shape, rows.shape
    ((1, 1, 3, 1), (1, 1, 1, 3))
    >>> bool(np.allclose(columns[0, 0] @ rows[0, 0], np.outer([1, 2, 1], [-1, 0, 1])))
    True
    """
    bank = bank_of(weight)
    OC, C, KH, KW = bank.shape
    matrix, r = _matrix(bank), None if rank is None else per_axis("rank", rank, 1)[0]
    left, right = factor(matrix, r, zero_of(matrix, bank.dtype, tolerance), f"for a bank of shape {bank.shape}")
    columns = left.T.reshape(-1, C, KH, 1)
    rows = right.reshape(-1, OC, 1, KW).transpose(1, 0, 2, 3)
    return np.ascontiguousarray(columns.astype(bank.dtype)), np.ascontiguousarray(rows.astype(bank.dtype))


def split_options(
    x: Any, kernel: tuple[int, ...], stride: Any, padding: Any, dilation: Any, last: bool
) -> list[dict[str, Any]]:
    """The options of a convolution as those of one along each axis."""
    image, n = arrays.as_array("x", x), len(kernel)
    if image.ndim not in (n + 1, n + 2):
        raise ValueError(f"x must have {n + 1} or {n + 2} axes, got shape {image.shape}")
    size = image.shape[-n - 1 : -1] if last else image.shape[-n:]
    strides, dilations = per_axis("stride", stride, n), per_axis("dilation", dilation, n)
    extent = tuple((k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True))
    pads = resolve_padding(padding, size, extent, strides)

    def only(axis: int, values: Any, neutral: Any) -> tuple[Any, ...]:
        return tuple(value if i == axis else neutral for i, value in enumerate(values))

    return [
        {"stride": only(i, strides, 1), "padding": only(i, pads, (0, 0)), "dilation": only(i, dilations, 1)}
        for i in range(n)
    ]


def separable_conv2d(
    x: ArrayLike,
    columns: ArrayLike,
    rows: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    stride: IntOrTuple = 1,
    padding: PaddingLike = 0,
    dilation: IntOrTuple = 1,
    padding_mode: str = "zeros",
    activation: str | tuple[Any, ...] | None = None,
    layout: str = "NCHW",
) -> np.ndarray:
    """Convolution with a bank that was split by `separate`: first down the columns, then along the rows.

    Parameters
    ----------
    x : array_like
        (N, C, H, W).
    columns, rows : array_like
        (rank, C, KH, 1) and (OC, rank, 1, KW).
    bias, stride, padding, dilation, padding_mode, activation, layout
        Of the whole; see `conv2d`.

    Returns
    -------
    numpy.ndarray
        (N, OC, OH, OW), what `conv2d` gives with the bank itself, but for rounding.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> x = np.arange(16, dtype=np.float64).reshape(1, 1, 4, 4)
    >>> sobel = np.outer([1.0, 2.0, 1.0], [-1.0, 0.0, 1.0])
    >>> fastconv.separable_conv2d(x, *fastconv.separate(sobel)).round(6)[0, 0]
    array([[8., 8.],
           [8., 8.]])
    """
    geometry = (stride, padding, dilation, padding_mode, layout)
    return apply(x, separable_stages(x, columns, rows, *geometry), bias, activation)


def separable_stages(
    x: Any, columns: Any, rows: Any, stride: Any, padding: Any, dilation: Any, padding_mode: str, layout: str
) -> Stages:
    """The two convolutions of `separable_conv2d`."""
    columns, rows = as_float("columns", columns), as_float("rows", rows)
    if columns.ndim != 4 or columns.shape[3] != 1:
        raise ValueError(f"columns must have shape (rank, C, KH, 1), got {columns.shape}")
    if rows.ndim != 4 or rows.shape[2] != 1:
        raise ValueError(f"rows must have shape (OC, rank, 1, KW), got {rows.shape}")
    kernel = (columns.shape[2], rows.shape[3])
    first, second = split_options(x, kernel, stride, padding, dilation, layout == "NHWC")
    shared = {"padding_mode": padding_mode, "layout": layout}
    return [(columns, {**shared, **first}), (rows, {**shared, **second})]


def flatten_kernel(
    weight: ArrayLike, *, tolerance: float | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Split every filter of a bank into three vectors: across channels, down and along.

    Parameters
    ----------
    weight : array_like
        (OC, C, KH, KW); float16, float32 or float64.
    tolerance : float, optional
        Largest error relative to the largest weight; by default what rounding can leave.

    Returns
    -------
    across, down, along : numpy.ndarray
        (OC, C, 1, 1), (OC, 1, KH, 1) and (OC, 1, 1, KW), for `flattened_conv2d`; None if some filter is no such
        product.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> parts = fastconv.flatten_kernel(np.ones((8, 3, 5, 5), np.float32))
    >>> [p.shape for p in parts]
    [(8, 3, 1, 1), (8, 1, 5, 1), (8, 1, 1, 5)]
    >>> fastconv.flatten_kernel(np.eye(3)[None, None]) is None
    True
    """
    bank = bank_of(weight)
    exact = bank.astype(np.float64)
    OC, C, KH, KW = bank.shape
    parts = [np.zeros((OC, size)) for size in (C, KH, KW)]
    for o, filter_ in enumerate(exact):
        # The largest weight's three lines through the filter are the vectors themselves, but for its size.
        c, u, v = np.unravel_index(np.abs(filter_).argmax(), filter_.shape)
        peak = filter_[c, u, v]
        parts[0][o] = filter_[:, u, v]
        parts[1][o], parts[2][o] = (filter_[c, :, v] / peak, filter_[c, u] / peak) if peak else (0, 0)
    product = np.einsum("oc,ou,ov->ocuv", *parts)
    if tolerance is None:
        tolerance = 8 * float(np.finfo(bank.dtype).eps)
    if np.abs(product - exact).max() > tolerance * np.abs(exact).max():
        return None
    across, down, along = (part.astype(bank.dtype) for part in parts)
    return across.reshape(OC, C, 1, 1), down.reshape(OC, 1, KH, 1), along.reshape(OC, 1, 1, KW)


def flattened_conv2d(
    x: ArrayLike,
    across: ArrayLike,
    down: ArrayLike,
    along: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    stride: IntOrTuple = 1,
    padding: PaddingLike = 0,
    dilation: IntOrTuple = 1,
    padding_mode: str = "zeros",
    activation: str | tuple[Any, ...] | None = None,
    layout: str = "NCHW",
) -> np.ndarray:
    """Three one-dimensional convolutions: across the channels, down the columns, along the rows.

    Parameters
    ----------
    x : array_like
        (N, C, H, W).
    across, down, along : array_like
        (OC, C, 1, 1), (OC, 1, KH, 1) and (OC, 1, 1, KW).
    bias, stride, padding, dilation, padding_mode, activation, layout
        Of the whole; see `conv2d`.

    Returns
    -------
    numpy.ndarray
        (N, OC, OH, OW).

    References
    ----------
    J. Jin, A. Dundar, E. Culurciello: Flattened convolutional neural networks for feedforward acceleration, 2015.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> parts = fastconv.flatten_kernel(np.ones((8, 3, 3, 3), np.float32))
    >>> fastconv.flattened_conv2d(np.ones((1, 3, 4, 4), np.float32), *parts)[0, 0]
    array([[27., 27.],
           [27., 27.]], dtype=float32)
    """
    geometry = (stride, padding, dilation, padding_mode, layout)
    return apply(x, flattened_stages(x, across, down, along, *geometry), bias, activation)


def flattened_stages(
    x: Any, across: Any, down: Any, along: Any, stride: Any, padding: Any, dilation: Any, padding_mode: str,
    layout: str,
) -> Stages:  # fmt: skip
    """The three convolutions of `flattened_conv2d`."""
    down, along = as_float("down", down), as_float("along", along)
    OC = arrays.as_array("across", across).shape[0]
    for name, part, axes in (("down", down, (1, 3)), ("along", along, (1, 2))):
        if part.ndim != 4 or part.shape[0] != OC or any(part.shape[axis] != 1 for axis in axes):
            expected = f"({OC}, 1, KH, 1)" if name == "down" else f"({OC}, 1, 1, KW)"
            raise ValueError(f"{name} must have shape {expected}, got {part.shape}")
    kernel = (down.shape[2], along.shape[3])
    first, second = split_options(x, kernel, stride, padding, dilation, layout == "NHWC")
    shared = {"padding_mode": padding_mode, "layout": layout, "groups": OC}
    return [(across, {"layout": layout}), (down, {**shared, **first}), (along, {**shared, **second})]
