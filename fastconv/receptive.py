"""Sizes of outputs, receptive fields and parameters of a stack of layers, in plain integers.

Along one axis a layer with kernel k, stride s, dilation d and padding p on each side maps a size n to
``(n + 2 p - d (k - 1) - 1) // s + 1``. Neighbouring outputs of a stack lie ``jump`` input cells apart, and each sees
``field`` of them: field grows by (k - 1) d times the jump before the layer, the jump by the factor s.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, prod
from typing import Any

from fastconv.spec import _integer as integer

__all__ = ["Field", "Window", "conv_parameters", "output_size", "receptive_field"]


def output_size(
    size: int, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1, *, exact: bool = False
) -> int:
    """Outputs of a convolution or pool along one axis.

    Parameters
    ----------
    size, kernel, stride, padding, dilation : int
        Of this axis; the padding is added on each side.
    exact : bool
        Refuse strides that do not fit, which leave cells at the end unseen.

    Returns
    -------
    int

    Raises
    ------
    ValueError
        If the kernel is larger than the padded input, or with `exact` if the stride does not fit.

    Examples
    --------
    >>> from fastconv import output_size
    >>> output_size(7, 3, stride=1), output_size(7, 3, stride=2)
    (5, 3)
    >>> output_size(7, 3, stride=3, exact=True)
    Traceback (most recent call last):
    ValueError: stride 3 does not fit: (7 + 2*0 - 3) / 3 + 1 = 2.33 outputs
    >>> output_size(32, 5, padding=2)
    32
    """
    size, kernel = integer("size", size, 1), integer("kernel", kernel, 1)
    stride, padding, dilation = integer("stride", stride, 1), integer("padding", padding, 0), integer(
        "dilation", dilation, 1
    )  # fmt: skip
    extent = (kernel - 1) * dilation + 1
    left = size + 2 * padding - extent
    if left < 0:
        raise ValueError(f"kernel covers {extent} cells, more than the padded input's {size + 2 * padding}")
    if exact and left % stride:
        raise ValueError(
            f"stride {stride} does not fit: ({size} + 2*{padding} - {extent}) / {stride} + 1 = {left / stride + 1:.2f} "
            "outputs"
        )
    return left // stride + 1


def conv_parameters(
    channels: int, out_channels: int, kernel: Sequence[int], *, groups: int = 1, bias: bool = True
) -> int:
    """Learned numbers of a convolution.

    Parameters
    ----------
    channels, out_channels : int
    kernel : sequence of int
        Its size along each axis.
    groups : int
    bias : bool

    Returns
    -------
    int

    Examples
    --------
    >>> from fastconv import conv_parameters
    >>> conv_parameters(3, 10, (5, 5))  # ten 5x5 filters on 32x32x3
    760
    """
    channels, groups = integer("channels", channels, 1), integer("groups", groups, 1)
    if channels % groups:
        raise ValueError(f"groups must divide the channels: groups={groups}, channels={channels}")
    each = channels // groups * prod(integer("kernel", k, 1) for k in kernel)
    return integer("out_channels", out_channels, 1) * (each + bool(bias))


@dataclass(frozen=True)
class Window:
    """One layer along one axis: a convolution or a pool, or with `transposed` their opposite."""

    kernel: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    transposed: bool = False
    name: str = ""


@dataclass(frozen=True)
class Field:
    """What a layer's output cells see of the stack's input.

    Attributes
    ----------
    size : int or None
        Outputs along the axis.
    field : int
        Input cells that one output depends on, its receptive field.
    jump : Fraction
        Input cells between the fields of neighbouring outputs.
    start : Fraction
        Position of the middle of the first output's field; 0 is the middle of the first input cell.
    """

    size: int | None
    field: int
    jump: Fraction
    start: Fraction


def receptive_field(layers: Iterable[Window | Sequence[Any]], size: int | None = None) -> list[Field]:
    """Follow the receptive field through a stack of layers, along one axis.

    Parameters
    ----------
    layers : iterable of Window or tuple
        From first to last; a tuple is (kernel, stride, padding, dilation), of which the last may be left out.
    size : int, optional
        Size of the input, to follow the sizes as well.

    Returns
    -------
    list of Field
        One for each layer.

    References
    ----------
    V. Dumoulin, F. Visin: A guide to convolution arithmetic, 2016. A. Araujo et al.: Computing receptive fields, 2019.

    Examples
    --------
    >>> from fastconv import receptive_field
    >>> [f.field for f in receptive_field([(3, 1), (3, 1), (3, 1)])]  # three 3x3 see as much as one 7x7
    [3, 5, 7]
    >>> [f.field for f in receptive_field([(3, 1, 1, 1), (3, 1, 2, 2), (3, 1, 4, 4)])]  # dilations 1, 2, 4
    [3, 7, 15]
    """
    field, jump, start = 1, Fraction(1), Fraction(0)
    fields = []
    for layer in layers:
        w = layer if isinstance(layer, Window) else Window(*layer)
        kernel, stride = integer("kernel", w.kernel, 1), integer("stride", w.stride, 1)
        padding, dilation = integer("padding", w.padding, 0), integer("dilation", w.dilation, 1)
        extent = (kernel - 1) * dilation + 1
        if w.transposed:  # output o gets input i where o + padding = i * stride + tap: at most ceil(extent / stride)
            field += ceil((-(-extent // stride) - 1) * jump)
            jump /= stride
            start += (padding - Fraction(extent - 1, 2)) * jump
            size = None if size is None else (size - 1) * stride - 2 * padding + extent
        else:
            if size is not None:
                size = output_size(size, kernel, stride, padding, dilation)
            field += ceil((extent - 1) * jump)
            start += (Fraction(extent - 1, 2) - padding) * jump
            jump *= stride
        fields.append(Field(size, field, jump, start))
    return fields
