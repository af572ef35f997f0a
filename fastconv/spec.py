"""Geometry of a convolution: validated once, then immutable.

Pure Python integers and tuples. Everything about sizes is answered here and nowhere else: kernels, planner and
public functions all read the same `ConvSpec`.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any, Literal

PADDING_MODES = ("zeros", "reflect", "replicate", "circular")
ITEMSIZES = {"float32": 4, "float64": 8, "int32": 4, "int64": 8}

#: Operations and bytes of a call beside which waking another thread takes too long. A single call from idle took two
#: threads 1.9 times as long as one at 2 and 6 million operations, 1.1 at 26; three in a row 2.1, 1.2 to 1.5 and 0.95.
BRIEF_FLOPS, BRIEF_BYTES = 1.2e7, 1 << 20

#: No array may exceed this many bytes: offsets inside kernels are int64, and this leaves room to add a few of them.
MAX_BYTES = 2**62

IntOrTuple = int | Sequence[int]
PaddingLike = int | Sequence[int] | Sequence[Sequence[int]] | Literal["same", "valid"]


def _integer(name: str, value: Any, minimum: int) -> int:
    """`value` as a plain int of at least `minimum`; anything that is not an integer (bool, 2.0, nan) is a TypeError."""
    expected = {0: "a non-negative integer", 1: "a positive integer"}[minimum]
    # numpy's bool may not be imported here: it is known by its name.
    if isinstance(value, bool) or type(value).__name__ in ("bool_", "bool"):
        raise TypeError(f"{name} must be {expected}, got {value!r} (a bool)")
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be {expected}, got {value!r} ({type(value).__name__})") from None
    if number < minimum:
        raise ValueError(f"{name} must be {expected}, got {number}")
    if number > MAX_BYTES:
        raise ValueError(f"{name} must be {expected} of at most 2**62, got {number}")
    return number


def _items(name: str, value: Any, expected: str) -> tuple[Any, ...]:
    if isinstance(value, (str, bytes, dict, set, frozenset)):
        raise TypeError(f"{name} must be {expected}, got {value!r}")
    try:
        return tuple(value)
    except TypeError:
        raise TypeError(f"{name} must be {expected}, got {value!r} ({type(value).__name__})") from None


def _is_sequence(value: Any) -> bool:
    # A 0-d array has __len__ and __iter__ but is a number.
    return hasattr(value, "__iter__") and getattr(value, "ndim", 1) != 0


def per_axis(name: str, value: Any, ndim: int, minimum: int = 1) -> tuple[int, ...]:
    """An int, or one int per spatial axis, as a tuple of `ndim` plain ints."""
    if not _is_sequence(value):
        return (_integer(name, value, minimum),) * ndim
    items = _items(name, value, f"an integer or {ndim} integers")
    if len(items) != ndim:
        raise ValueError(f"{name} must be an integer or {ndim} integers (one per spatial axis), got {value!r}")
    return tuple(_integer(f"{name}[{axis}]", item, minimum) for axis, item in enumerate(items))


def shape_tuple(name: str, value: Any) -> tuple[int, ...]:
    """A shape as plain ints; only the sign is checked here."""
    items = _items(name, value, "a sequence of integers")
    return tuple(_integer(f"{name}[{axis}]", item, 0) for axis, item in enumerate(items))


def resolve_padding(
    padding: Any,
    sizes: tuple[int, ...],
    effective_kernel: tuple[int, ...],
    stride: tuple[int, ...],
) -> tuple[tuple[int, int], ...]:
    """(lo, hi) per axis from an int, ints, (lo, hi) pairs, "same" or "valid".

    "same" is TensorFlow's "SAME" and ONNX's SAME_UPPER: output = ceil(input / stride), the odd cell at the end.
    """
    ndim = len(sizes)
    if isinstance(padding, str):
        if padding == "valid":
            return ((0, 0),) * ndim
        if padding == "same":
            pairs = []
            for size, extent, step in zip(sizes, effective_kernel, stride, strict=True):
                total = max((-(-size // step) - 1) * step + extent - size, 0)
                pairs.append((total // 2, total - total // 2))
            return tuple(pairs)
        raise ValueError(f"padding must be integers, (lo, hi) pairs, 'same' or 'valid', got {padding!r}")
    if not _is_sequence(padding):
        both = _integer("padding", padding, 0)
        return ((both, both),) * ndim
    items = _items("padding", padding, f"an integer, {ndim} integers or {ndim} (lo, hi) pairs")
    if len(items) != ndim:
        raise ValueError(
            f"padding must be an integer, {ndim} integers or {ndim} (lo, hi) pairs (one per spatial axis), "
            f"got {padding!r}"
        )
    pairs = []
    for axis, item in enumerate(items):
        if not _is_sequence(item):
            both = _integer(f"padding[{axis}]", item, 0)
            pairs.append((both, both))
            continue
        ends = _items(f"padding[{axis}]", item, "an integer or a (lo, hi) pair")
        if len(ends) != 2:
            raise ValueError(f"padding[{axis}] must be an integer or a (lo, hi) pair, got {item!r}")
        pairs.append((_integer(f"padding[{axis}][0]", ends[0], 0), _integer(f"padding[{axis}][1]", ends[1], 0)))
    return tuple(pairs)


def _check_padding_mode(mode: str, padding: tuple[tuple[int, int], ...], sizes: tuple[int, ...]) -> None:
    """Reflect needs every padding < size, circular <= size: the index is folded at most once."""
    for axis, (pair, size) in enumerate(zip(padding, sizes, strict=True)):
        if mode == "reflect" and max(pair) >= size:
            raise ValueError(
                f"padding must be smaller than the input with padding_mode='reflect': "
                f"got {pair} for spatial axis {axis} of size {size}"
            )
        if mode == "circular" and max(pair) > size:
            raise ValueError(
                f"padding must not exceed the input with padding_mode='circular': "
                f"got {pair} for spatial axis {axis} of size {size}"
            )


@dataclass(frozen=True)
class ConvSpec:
    """One convolution problem, validated.

    Build it with `ConvSpec.make`. Sizes are logical (batch, channels, spatial); `channels_last` only says how x,
    output and residual lie in memory. The weight is always (OC, C // groups, *kernel), C-contiguous.

    What has no effect is made equal, so that equal problems are equal specs: along an axis with one tap the dilation is
    1, along an axis with one output the stride is the smallest that leaves one.
    """

    ndim: int
    N: int
    C: int
    OC: int
    groups: int
    input: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    padding_mode: str = "zeros"
    flip: bool = False
    dtype: str = "float32"
    channels_last: bool = False

    @classmethod
    def make(
        cls,
        x_shape: Sequence[int],
        weight_shape: Sequence[int],
        *,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: Any = 1,
        padding_mode: str = "zeros",
        flip: bool = False,
        dtype: str = "float32",
        channels_last: bool = False,
    ) -> ConvSpec:
        """Validate everything and return the spec; every error names the argument, its value and what was expected.

        `x_shape` is (N, C, *spatial) with 1 to 3 spatial axes, `weight_shape` is (OC, C // groups, *kernel).
        """
        x_shape, weight_shape = shape_tuple("x.shape", x_shape), shape_tuple("weight.shape", weight_shape)
        ndim = len(x_shape) - 2
        if ndim not in (1, 2, 3):
            raise ValueError(f"x must have 3 to 5 axes (N, C, 1 to 3 spatial), got shape {x_shape}")
        if len(weight_shape) != ndim + 2:
            raise ValueError(
                f"weight must have {ndim + 2} axes (out channels, channels per group, {ndim} spatial) "
                f"for x of shape {x_shape}, got shape {weight_shape}"
            )
        if 0 in x_shape[1:]:
            raise ValueError(f"x must have no empty axis except the batch, got shape {x_shape}")
        if 0 in weight_shape:
            raise ValueError(f"weight must have no empty axis, got shape {weight_shape}")
        if padding_mode not in PADDING_MODES:
            raise ValueError(f"padding_mode must be one of {', '.join(PADDING_MODES)}, got {padding_mode!r}")
        if dtype not in ITEMSIZES:
            raise ValueError(f"dtype must be one of {', '.join(ITEMSIZES)}, got {dtype!r}")
        for name, value in (("flip", flip), ("channels_last", channels_last)):
            if type(value).__name__ not in ("bool", "bool_"):
                raise TypeError(f"{name} must be True or False, got {value!r}")

        N, C, sizes = x_shape[0], x_shape[1], x_shape[2:]
        OC, kernel = weight_shape[0], weight_shape[2:]
        groups = _integer("groups", groups, 1)
        if C % groups:
            raise ValueError(f"groups must divide the input channels: groups={groups}, x has {C} channels")
        if OC % groups:
            raise ValueError(f"groups must divide the output channels: groups={groups}, weight has {OC} filters")
        if weight_shape[1] != C // groups:
            raise ValueError(
                f"weight.shape[1] must be {C // groups} (x has {C} channels, groups={groups}), "
                f"got weight of shape {weight_shape}"
            )
        stride = per_axis("stride", stride, ndim)
        dilation = per_axis("dilation", dilation, ndim)
        extent = tuple((k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True))
        pads = resolve_padding(padding, sizes, extent, stride)
        padded = tuple(lo + size + hi for size, (lo, hi) in zip(sizes, pads, strict=True))
        for axis in range(ndim):
            if extent[axis] > padded[axis]:
                raise ValueError(
                    f"weight must not be larger than the padded input: along spatial axis {axis} the kernel "
                    f"(size {kernel[axis]}, dilation {dilation[axis]}) covers {extent[axis]} cells, "
                    f"x has {sizes[axis]} + padding {pads[axis]} = {padded[axis]}"
                )
        _check_padding_mode(padding_mode, pads, sizes)
        output = tuple((p - e) // s + 1 for p, e, s in zip(padded, extent, stride, strict=True))
        itemsize = ITEMSIZES[dtype]
        for name, elements in (
            ("x", max(N, 1) * C * prod(padded)),
            ("weight", prod(weight_shape)),
            ("the output", max(N, 1) * OC * prod(output)),
        ):
            if elements * itemsize > MAX_BYTES:
                raise ValueError(
                    f"{name} would take {elements * itemsize} bytes, more than 2**62 (padding counted): "
                    f"x {x_shape}, weight {weight_shape}, padding {pads}"
                )
        return cls(
            ndim=ndim,
            N=N,
            C=C,
            OC=OC,
            groups=groups,
            input=sizes,
            kernel=kernel,
            # A larger stride finds no second output either; and kernels need not fear to multiply by it.
            stride=tuple(min(s, p - e + 1) for s, p, e in zip(stride, padded, extent, strict=True)),
            dilation=tuple(d if k > 1 else 1 for d, k in zip(dilation, kernel, strict=True)),
            padding=pads,
            padding_mode=padding_mode if any(map(any, pads)) else "zeros",
            flip=bool(flip) and prod(kernel) > 1,
            dtype=dtype,
            channels_last=bool(channels_last),
        )

    # A spec is a cache key on the hot path: hash it once.
    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash(tuple(getattr(self, name) for name in self.__dataclass_fields__))

    def __getstate__(self) -> dict[str, Any]:
        # String hashes differ between processes: a pickled spec must not bring its hash along.
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    # ---- sizes ----------------------------------------------------------------------------------------------------

    @cached_property
    def effective_kernel(self) -> tuple[int, ...]:
        """Cells covered by the kernel along each axis, dilation included."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilation, strict=True))

    @cached_property
    def padded(self) -> tuple[int, ...]:
        """Input sizes with padding."""
        return tuple(lo + size + hi for size, (lo, hi) in zip(self.input, self.padding, strict=True))

    @cached_property
    def output(self) -> tuple[int, ...]:
        return tuple((p - e) // s + 1 for p, e, s in zip(self.padded, self.effective_kernel, self.stride, strict=True))

    @cached_property
    def K(self) -> int:
        """Terms in the sum of one output element (the K of the GEMM)."""
        return self.C // self.groups * prod(self.kernel)

    @cached_property
    def x_shape(self) -> tuple[int, ...]:
        return (self.N, self.C, *self.input)

    @cached_property
    def weight_shape(self) -> tuple[int, ...]:
        return (self.OC, self.C // self.groups, *self.kernel)

    @cached_property
    def out_shape(self) -> tuple[int, ...]:
        return (self.N, self.OC, *self.output)

    @cached_property
    def itemsize(self) -> int:
        return ITEMSIZES[self.dtype]

    @cached_property
    def flops(self) -> int:
        """Floating point operations of the direct method: 2 per multiply-add, padding counted."""
        return 2 * self.N * self.OC * self.K * prod(self.output)

    @cached_property
    def input_bytes(self) -> int:
        return prod(self.x_shape) * self.itemsize

    @cached_property
    def weight_bytes(self) -> int:
        return prod(self.weight_shape) * self.itemsize

    @cached_property
    def output_bytes(self) -> int:
        return prod(self.out_shape) * self.itemsize

    @cached_property
    def moved_bytes(self) -> int:
        """Bytes of input, weights and output: what every method has to move once."""
        return self.input_bytes + self.weight_bytes + self.output_bytes

    @cached_property
    def is_depthwise(self) -> bool:
        """One input channel per group (any channel multiplier)."""
        return self.groups == self.C

    @cached_property
    def is_brief(self) -> bool:
        """Whether one thread takes less than some 75 us: waking another takes too long (see `threads.run`).

        A multiply-add of a depthwise layer takes as long as four.
        """
        return self.flops < (BRIEF_FLOPS / 4 if self.is_depthwise else BRIEF_FLOPS) and self.moved_bytes < BRIEF_BYTES

    # ---- the same with three spatial axes: kernels know no other form ---------------------------------------------

    def _fill(self, values: tuple[int, ...], missing: int = 1) -> tuple[int, int, int]:
        d, h, w = (missing,) * (3 - self.ndim) + values
        return d, h, w

    @cached_property
    def input3(self) -> tuple[int, int, int]:
        return self._fill(self.input)

    @cached_property
    def kernel3(self) -> tuple[int, int, int]:
        return self._fill(self.kernel)

    @cached_property
    def stride3(self) -> tuple[int, int, int]:
        return self._fill(self.stride)

    @cached_property
    def dilation3(self) -> tuple[int, int, int]:
        return self._fill(self.dilation)

    @cached_property
    def output3(self) -> tuple[int, int, int]:
        return self._fill(self.output)

    @cached_property
    def padding3(self) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
        d, h, w = ((0, 0),) * (3 - self.ndim) + self.padding
        return d, h, w

    # ---- text -----------------------------------------------------------------------------------------------------

    def __str__(self) -> str:
        """One line a person can read: `1x64x56x56 * 64x64x3x3 stride 2 pad 1 float32`."""
        parts = ["x".join(map(str, self.x_shape)), "*", "x".join(map(str, self.weight_shape))]
        if any(s != 1 for s in self.stride):
            parts.append(f"stride {_short(self.stride)}")
        if any(map(any, self.padding)):
            symmetric = all(lo == hi for lo, hi in self.padding)
            pads = _short(tuple(lo for lo, _ in self.padding)) if symmetric else str(self.padding).replace(" ", "")
            parts.append(f"pad {pads}")
            if self.padding_mode != "zeros":
                parts.append(self.padding_mode)
        if any(d != 1 for d in self.dilation):
            parts.append(f"dilation {_short(self.dilation)}")
        if self.groups != 1:
            parts.append(f"groups {self.groups}")
        if self.flip:
            parts.append("flip")
        parts.append(self.dtype)
        if self.channels_last:
            parts.append("channels-last")
        return " ".join(parts)


def _short(values: tuple[int, ...]) -> str:
    return str(values[0]) if len(set(values)) == 1 else "x".join(map(str, values))
