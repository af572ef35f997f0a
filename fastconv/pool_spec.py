"""Geometry of a pool: validated once, then immutable. Pure Python integers and tuples, like `spec.ConvSpec`.

A pool with windows of k cells, stride s, dilation d and padding (lo, hi) sees, for output o along one axis, the cells
o*s + u*d - lo, u < k, that lie in the input. The number of outputs is PyTorch's:

    floor((size + lo + hi - (k - 1)*d - 1) / s) + 1

With `ceil_mode` the division rounds up, but no window may begin in the padding after the input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

from fastconv.spec import ITEMSIZES, MAX_BYTES, per_axis, resolve_padding, shape_tuple


def check_bool(name: str, value: Any) -> bool:
    """`value` as a bool; TypeError for anything else, 0 and 1 included."""
    if type(value).__name__ not in ("bool", "bool_"):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def check_shape(shape: Any, ndim: int | None = None) -> tuple[int, ...]:
    """(N, C, *spatial) as plain ints: 1 to 3 spatial axes, none of them empty."""
    shape = shape_tuple("x.shape", shape)
    if len(shape) - 2 not in ((1, 2, 3) if ndim is None else (ndim,)):
        raise ValueError(f"x must have 3 to 5 axes (N, C, 1 to 3 spatial), got shape {shape}")
    if 0 in shape[1:]:
        raise ValueError(f"x must have no empty axis except the batch, got shape {shape}")
    return shape


def output_size(size: int, kernel: int, stride: int, dilation: int, pair: tuple[int, int], ceil_mode: bool) -> int:
    """Outputs along one axis; 0 or less if no window fits."""
    lo, hi = pair
    count = (size + lo + hi - (kernel - 1) * dilation - 1 + (stride - 1 if ceil_mode else 0)) // stride + 1
    if ceil_mode and (count - 1) * stride >= size + lo:
        count -= 1
    return count


def adaptive_windows(size: int, outputs: int) -> list[tuple[int, int]]:
    """(first cell, cells) of each output of an adaptive pool: floor(o*size/n) up to ceil((o + 1)*size/n)."""
    firsts = (o * size // outputs for o in range(outputs))
    return [(first, -(-(o + 1) * size // outputs) - first) for o, first in enumerate(firsts)]


@dataclass(frozen=True)
class PoolSpec:
    """One pool, validated. Build it with `PoolSpec.make`.

    Sizes are logical (batch, channels, spatial); `channels_last` says how x and the output lie in memory. What has no
    effect is made equal: along an axis with one tap the dilation is 1, along an axis with one output the stride is 1.
    """

    ndim: int
    N: int
    C: int
    input: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    output: tuple[int, ...]
    dtype: str = "float32"
    channels_last: bool = False

    @classmethod
    def make(
        cls,
        x_shape: Sequence[int],
        kernel_size: Any,
        *,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: Any = False,
        dtype: str = "float32",
        channels_last: bool = False,
    ) -> PoolSpec:
        """Validate everything and return the spec; every error names the argument, its value and what was expected.

        `x_shape` is (N, C, *spatial) with 1 to 3 spatial axes. `stride` None means the kernel size.
        """
        N, C, *sizes = check_shape(x_shape)
        ndim = len(sizes)
        kernel = per_axis("kernel_size", kernel_size, ndim)
        stride = kernel if stride is None else per_axis("stride", stride, ndim)
        dilation = per_axis("dilation", dilation, ndim)
        ceil_mode = check_bool("ceil_mode", ceil_mode)
        if dtype not in ITEMSIZES:
            raise ValueError(f"dtype must be one of {', '.join(ITEMSIZES)}, got {dtype!r}")
        extent = tuple((k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True))
        pads = resolve_padding(padding, tuple(sizes), extent, stride)
        output = tuple(
            output_size(size, k, s, d, pair, ceil_mode)
            for size, k, s, d, pair in zip(sizes, kernel, stride, dilation, pads, strict=True)
        )
        for axis, count in enumerate(output):
            if count < 1:
                raise ValueError(
                    f"kernel_size must not be larger than the padded input: along spatial axis {axis} the window "
                    f"(size {kernel[axis]}, dilation {dilation[axis]}) covers {extent[axis]} cells, "
                    f"x has {sizes[axis]} + padding {pads[axis]} = {sizes[axis] + sum(pads[axis])}"
                )
        padded = [size + sum(pair) for size, pair in zip(sizes, pads, strict=True)]
        for name, elements in (("x", C * prod(padded)), ("the output", C * prod(output))):
            if max(N, 1) * elements * ITEMSIZES[dtype] > MAX_BYTES:
                raise ValueError(f"{name} would take more than 2**62 bytes (padding counted): x {x_shape}, pads {pads}")
        return cls(
            ndim=ndim,
            N=N,
            C=C,
            input=tuple(sizes),
            kernel=kernel,
            stride=tuple(s if n > 1 else 1 for s, n in zip(stride, output, strict=True)),
            dilation=tuple(d if k > 1 else 1 for d, k in zip(dilation, kernel, strict=True)),
            padding=pads,
            output=output,
            dtype=dtype,
            channels_last=channels_last,
        )

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash(tuple(getattr(self, name) for name in self.__dataclass_fields__))

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}  # string hashes differ by process

    @property
    def x_shape(self) -> tuple[int, ...]:
        return (self.N, self.C, *self.input)

    @property
    def out_shape(self) -> tuple[int, ...]:
        return (self.N, self.C, *self.output)

    @cached_property
    def extent(self) -> tuple[int, ...]:
        """Cells from the first to the last tap of a window."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilation, strict=True))

    @cached_property
    def bytes(self) -> int:
        """Bytes of x and of the output."""
        return (prod(self.x_shape) + prod(self.out_shape)) * ITEMSIZES[self.dtype]

    @cached_property
    def work(self) -> int:
        """Cells looked at by all windows, padding counted."""
        return prod(self.out_shape) * prod(self.kernel)

    @cached_property
    def is_inside(self) -> bool:
        """Whether no window reaches beyond the input."""
        return all(
            lo == 0 and (n - 1) * s + e <= size
            for (lo, _), n, s, e, size in zip(
                self.padding, self.output, self.stride, self.extent, self.input, strict=True
            )
        )

    @cached_property
    def is_within_padding(self) -> bool:
        """Whether no window reaches beyond the padding, as some do with ceil_mode."""
        return all(
            (n - 1) * s + e <= lo + size + hi
            for (lo, hi), n, s, e, size in zip(
                self.padding, self.output, self.stride, self.extent, self.input, strict=True
            )
        )

    @cached_property
    def is_global(self) -> bool:
        """Whether the one window is the whole input."""
        return self.is_inside and all(
            k == size and d == 1 for k, size, d in zip(self.kernel, self.input, self.dilation, strict=True)
        )

    @cached_property
    def is_tiled(self) -> bool:
        """Whether no cell lies in two windows, and they leave none out in between."""
        return all(
            d == 1 and (s == k or n == 1)
            for k, s, d, n in zip(self.kernel, self.stride, self.dilation, self.output, strict=True)
        )

    def taps(self, axis: int, o: int, with_padding: bool = False) -> int:
        """Taps of window `o` along an axis that lie in the input, or in the input and its padding."""
        (lo, hi), d, size = self.padding[axis], self.dilation[axis], self.input[axis]
        start = o * self.stride[axis] - lo
        last = min(self.kernel[axis], -((start - size - (hi if with_padding else 0)) // d))
        first = 0 if with_padding else max(0, -(start // d))
        return max(0, last - first)

    # ---- the same with three spatial axes: kernels know no other form ---------------------------------------------

    def _fill(self, values: tuple[int, ...], missing: int = 1) -> tuple[int, ...]:
        return (missing,) * (3 - self.ndim) + values

    @cached_property
    def three(self) -> tuple[int, ...]:
        """Input, output, kernel, stride, dilation, low and high padding of three axes each, for a geometry array."""
        lo, hi = zip(*self.padding, strict=True)
        columns = (self.input, self.output, self.kernel, self.stride, self.dilation)
        return (*(v for column in columns for v in self._fill(column)), *self._fill(lo, 0), *self._fill(hi, 0))

    def __str__(self) -> str:
        """One line a person can read: `1x64x112x112 pool 3x3 stride 2x2 pad ((0, 1), (0, 1)) float32`."""
        parts = ["x".join(map(str, self.x_shape)), "pool", "x".join(map(str, self.kernel))]
        if self.stride != self.kernel:
            parts.append(f"stride {'x'.join(map(str, self.stride))}")
        if any(map(any, self.padding)):
            parts.append(f"pad {self.padding}")
        if any(d != 1 for d in self.dilation):
            parts.append(f"dilation {'x'.join(map(str, self.dilation))}")
        return " ".join([*parts, self.dtype, *(["channels-last"] if self.channels_last else [])])
