"""Patches as columns and back: im2col and col2im, with PyTorch's names, for one to three spatial axes.

A convolution is a matrix product with unfolded patches, ``weight.reshape(OC, -1) @ unfold(x, ...)``; `fold` is the
adjoint of `unfold`, so that the product with the transposed weight, folded, is the transposed convolution
(Chellapilla et al. 2006, "High performance convolutional neural networks for document processing").
Neither is used by fastconv's own convolutions, which never form these columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from fastconv import arrays
from fastconv.cpu import threads
from fastconv.cpu.threads import get_num_threads
from fastconv.kernels import fold_kernels
from fastconv.kernels.pack import padded_sources
from fastconv.spec import MAX_BYTES, ConvSpec, IntOrTuple, PaddingLike, per_axis, shape_tuple

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = ["fold", "unfold"]

# Dtypes that the kernels move; what is smaller travels as the next larger one.
_CARRIERS = {"float16": "float32", "int8": "int32", "uint8": "int32", "int16": "int32"}


def unfold(
    x: ArrayLike,
    kernel_size: IntOrTuple,
    dilation: IntOrTuple = 1,
    padding: PaddingLike = 0,
    stride: IntOrTuple = 1,
) -> np.ndarray:
    """Every patch that a convolution's kernel sees, as a column (im2col).

    Parameters
    ----------
    x : array_like
        (N, C, *spatial), or (C, *spatial).
    kernel_size : int or tuple
        One size per spatial axis, which says how many there are; an int means a square of two axes, or a cube for an
        x of five.
    dilation, padding, stride
        As for `conv2d`.

    Returns
    -------
    numpy.ndarray
        (N, C * prod(kernel_size), L), or without N: L places in row-major order, and in each column the taps of the
        first channel, then those of the second, ...

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> x = np.arange(6.0).reshape(1, 1, 2, 3)
    >>> fastconv.unfold(x, (2, 2))
    array([[[0., 1.],
            [1., 2.],
            [3., 4.],
            [4., 5.]]])
    """
    x = arrays.as_array("x", x)
    kernel = _kernel_size(kernel_size, max(x.ndim - 2, 2))
    ndim = len(kernel)
    if x.ndim not in (ndim + 1, ndim + 2):
        raise ValueError(
            f"x must have {ndim + 2} axes (N, C, {ndim} spatial) or {ndim + 1} for kernel_size={kernel_size!r}, "
            f"got shape {x.shape}"
        )
    images = x if x.ndim == ndim + 2 else x[None]
    spec = _geometry("x", images.shape, kernel, dilation, padding, stride)
    N, C = images.shape[:2]
    result = _by_parts(images, lambda part: _gather(part, spec), (N, C * prod(kernel), prod(spec.output)))
    return result if x.ndim == ndim + 2 else result[0]


def fold(
    columns: ArrayLike,
    output_size: Sequence[int],
    kernel_size: IntOrTuple,
    dilation: IntOrTuple = 1,
    padding: PaddingLike = 0,
    stride: IntOrTuple = 1,
) -> np.ndarray:
    """Columns added up where `unfold` takes them from (col2im): its adjoint, not its inverse.

    Parameters
    ----------
    columns : array_like
        (N, C * prod(kernel_size), L), or without N, as `unfold` makes them of an x of size `output_size`.
    output_size : sequence of int
        Spatial size of the result.
    kernel_size, dilation, padding, stride
        As for `unfold`.

    Returns
    -------
    numpy.ndarray
        (N, C, *output_size), or without N. Cells in several patches are sums; ``fold(unfold(ones))`` counts them.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> ones = np.ones((1, 1, 3, 4), np.float32)
    >>> fastconv.fold(fastconv.unfold(ones, (2, 2)), (3, 4), (2, 2))[0, 0]
    array([[1., 2., 2., 1.],
           [2., 4., 4., 2.],
           [1., 2., 2., 1.]], dtype=float32)
    """
    columns = arrays.as_array("columns", columns)
    size = shape_tuple("output_size", output_size)
    if not 1 <= len(size) <= 3:
        raise ValueError(f"output_size must have 1 to 3 sizes, got {output_size!r}")
    kernel = per_axis("kernel_size", kernel_size, len(size))
    if columns.ndim not in (2, 3):
        raise ValueError(f"columns must have 3 axes (N, C * prod(kernel_size), L) or 2, got shape {columns.shape}")
    batch = columns if columns.ndim == 3 else columns[None]
    N, rows, places = batch.shape
    if rows == 0 or rows % prod(kernel):
        raise ValueError(
            f"columns must have a multiple of prod(kernel_size) = {prod(kernel)} rows, got shape {columns.shape}"
        )
    C = rows // prod(kernel)
    spec = _geometry("output_size", (N, C, *size), kernel, dilation, padding, stride)
    if places != prod(spec.output):
        raise ValueError(
            f"columns must have {prod(spec.output)} columns, one for each of the {spec.output} places of the kernel, "
            f"got shape {columns.shape}"
        )
    result = _by_parts(batch, lambda part: _scatter(part, spec), (N, C, *size))
    return result if columns.ndim == 3 else result[0]


def _kernel_size(value: Any, ndim: int) -> tuple[int, ...]:
    if hasattr(value, "__len__") and not isinstance(value, str) and 1 <= len(value) <= 3:
        return per_axis("kernel_size", value, len(value))
    return per_axis("kernel_size", value, ndim)


def _geometry(
    name: str, shape: tuple[int, ...], kernel: tuple[int, ...], dilation: Any, padding: Any, stride: Any
) -> ConvSpec:
    """A convolution that sees the same patches; its other sizes mean nothing."""
    if 0 in shape[1:]:
        raise ValueError(f"{name} must have no empty axis except the batch, got shape {shape}")
    spec = ConvSpec.make(shape, (1, shape[1], *kernel), stride=stride, padding=padding, dilation=dilation)
    elements = max(shape[0], 1) * spec.K * prod(spec.output)
    if elements * 16 > MAX_BYTES:
        raise ValueError(f"the columns would take {elements} elements, more than 2**58: {spec}")
    return spec


def _by_parts(array: np.ndarray, function: Any, shape: tuple[int, ...]) -> np.ndarray:
    """`function` on arrays of a dtype that the kernels take; complex numbers in two parts."""
    if array.dtype.kind == "c":
        result = np.empty(shape, array.dtype)
        result.real = function(arrays.ready(array.real, array.real.dtype)).reshape(shape)
        result.imag = function(arrays.ready(array.imag, array.real.dtype)).reshape(shape)
        return result
    carrier = np.dtype(_CARRIERS.get(array.dtype.name, array.dtype.name))
    result = function(arrays.ready(array, carrier)).reshape(shape)
    return result if carrier == array.dtype else result.astype(array.dtype)


def _tables(spec: ConvSpec) -> tuple[np.ndarray, np.ndarray]:
    """Geometry and, axis after axis, the cell that each padded place shows."""
    sources = [padded_sources(size, *pair, "zeros") for size, pair in zip(spec.input3, spec.padding3, strict=True)]
    at_h = len(sources[0])
    at_w = at_h + len(sources[1])
    geometry = [
        *spec.input3, *spec.output3, *spec.kernel3, *spec.stride3, *spec.dilation3, *(lo for lo, _ in spec.padding3),
        at_h, at_w, len(sources[2]),
    ]  # fmt: skip
    return np.array(geometry, np.int64), np.concatenate(sources)


def _gather(x: np.ndarray, spec: ConvSpec) -> np.ndarray:
    geometry, sources = _tables(spec)
    columns = np.empty(spec.N * spec.K * prod(spec.output), x.dtype)
    if columns.size:
        tasks = spec.N * spec.K
        threads.run(fold_kernels.gather, tasks, (geometry, sources, x.reshape(-1), columns), get_num_threads())
    return columns


def _scatter(columns: np.ndarray, spec: ConvSpec) -> np.ndarray:
    geometry, sources = _tables(spec)
    out = np.empty(prod(spec.x_shape), columns.dtype)
    if out.size:
        tasks = spec.N * spec.C
        threads.run(fold_kernels.scatter, tasks, (geometry, sources, columns.reshape(-1), out), get_num_threads())
    return out
