"""The matrix of a convolution.

A convolution is linear: ``conv(x).ravel() == T @ x.ravel()``. In one dimension with one channel and stride 1, T is a
Toeplitz matrix, constant along its diagonals; in two it is a block-Toeplitz matrix of Toeplitz blocks (a doubly
blocked one), and with channels a matrix of such matrices. Its transpose is the transposed convolution,
``conv_transpose(y).ravel() == T.T @ y.ravel()`` (Dumoulin & Visin 2016, chapter 4).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from fastconv import arrays
from fastconv.kernels.pack import padded_sources
from fastconv.spec import ConvSpec, IntOrTuple, PaddingLike, per_axis, shape_tuple

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = ["toeplitz"]


def toeplitz(
    weight: ArrayLike,
    input_size: Sequence[int],
    *,
    stride: IntOrTuple = 1,
    padding: PaddingLike = 0,
    dilation: IntOrTuple = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
    flip: bool = False,
    sparse: bool = False,
) -> Any:
    """The matrix T with ``T @ x.ravel() == conv(x).ravel()``, for one image x.

    Parameters
    ----------
    weight : array_like
        Filters, (OC, C // groups, *kernel), one to three kernel axes.
    input_size : sequence of int
        Spatial size of x.
    stride, padding, dilation, groups, padding_mode, flip
        As for `conv2d`.
    sparse : bool
        Return a `scipy.sparse.csr_array`; SciPy must be installed. A dense matrix of images soon exceeds any memory.

    Returns
    -------
    numpy.ndarray or scipy.sparse.csr_array
        (OC * prod(output), C * prod(input)), of the dtype of `weight`.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> fastconv.toeplitz([[[1, 2, 3]]], [5])
    array([[1, 2, 3, 0, 0],
           [0, 1, 2, 3, 0],
           [0, 0, 1, 2, 3]])
    >>> x = np.arange(5)
    >>> fastconv.toeplitz([[[1, 2, 3]]], [5]) @ x
    array([ 8, 14, 20])

    A stride leaves rows out, its transpose is the transposed convolution:

    >>> fastconv.toeplitz([[[1, 2, 3]]], [5], stride=2).T @ [1, 10]
    array([ 1,  2, 13, 20, 30])
    """
    weight = arrays.as_array("weight", weight)
    size = shape_tuple("input_size", input_size)
    if weight.ndim != len(size) + 2 or not 1 <= len(size) <= 3:
        raise ValueError(
            f"weight must have 3 to 5 axes (OC, C // groups, *kernel) and input_size one size per kernel axis, "
            f"got weight of shape {weight.shape} and input_size={tuple(size)}"
        )
    C = weight.shape[1] * per_axis("groups", groups, 1)[0]
    spec = ConvSpec.make(
        (1, C, *size), weight.shape, stride=stride, padding=padding, dilation=dilation, groups=groups,
        padding_mode=padding_mode, flip=flip,
    )  # fmt: skip
    cells, taps = _places(spec)
    IC, OCG, inputs, outputs = C // spec.groups, spec.OC // spec.groups, prod(size), prod(spec.output)
    # One entry for each filter, channel of its group, output and tap that sees a cell of x.
    oc, c = np.arange(spec.OC)[:, None, None], np.arange(IC)[None, :, None]
    output, tap = np.nonzero(cells >= 0)
    rows = np.broadcast_to(oc * outputs + output, (spec.OC, IC, len(output)))
    columns = (oc // OCG * IC + c) * inputs + cells[output, tap]
    values = weight.reshape(spec.OC, IC, -1)[:, :, taps[tap]]
    shape = (spec.OC * outputs, C * inputs)
    if sparse:
        from scipy.sparse import coo_array

        return coo_array((values.reshape(-1), (rows.reshape(-1), columns.reshape(-1))), shape).tocsr()
    matrix = np.zeros(shape, weight.dtype)
    np.add.at(matrix, (rows, columns), values)  # padding may show a cell to several taps of one output
    return matrix


def _places(spec: ConvSpec) -> tuple[np.ndarray, np.ndarray]:
    """The cell of x that each output sees through each tap, -1 for none; and each tap's place in the weight."""
    cells = np.zeros((1, 1), np.int64)
    for axis, (lo, hi) in enumerate(spec.padding):
        shows = padded_sources(spec.input[axis], lo, hi, spec.padding_mode)
        at = np.arange(spec.output[axis])[:, None] * spec.stride[axis]
        seen = shows[at + np.arange(spec.kernel[axis]) * spec.dilation[axis]]
        before, inner = cells[:, None, :, None], seen[None, :, None, :]
        both = np.where((before < 0) | (inner < 0), -1, before * spec.input[axis] + inner)
        cells = both.reshape(cells.shape[0] * seen.shape[0], cells.shape[1] * seen.shape[1])
    taps = np.arange(prod(spec.kernel))
    return cells, taps[::-1] if spec.flip else taps
