"""The problems that every algorithm is tried on.

They come from benchdnn's lists, cut down until the plain loops take a moment, in a way that keeps what breaks
kernels: sizes modulo 16 (vector and tile tails), strides, dilations, paddings, kernel sizes, groups, and which input
cells are never reached.
"""

from __future__ import annotations

import csv
import gzip
import zlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from math import prod
from pathlib import Path

import numpy as np

from fastconv.kernels.epilogue import Epilogue
from fastconv.spec import ConvSpec

CSV = Path(__file__).parent / "data" / "benchdnn_conv.csv.gz"
AXES = "dhw"


@dataclass(frozen=True)
class Problem:
    """One line of the list: sizes by axis."""

    source: str
    name: str
    line: int
    N: int
    groups: int
    IC: int  # per group
    OC: int  # per group
    input: tuple[int, ...]
    output: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]

    @property
    def work(self) -> int:
        """Multiply-adds."""
        return self.N * self.groups * self.OC * self.IC * prod(self.kernel) * prod(self.output)

    @property
    def seed(self) -> int:
        """The same number for the same line in every run: picks samples, data and options."""
        return zlib.crc32(f"{self.line} {self.source} {self.name}".encode())

    def spec(self, **options) -> ConvSpec:
        C, OC = self.groups * self.IC, self.groups * self.OC
        spec = ConvSpec.make(
            (self.N, C, *self.input),
            (OC, self.IC, *self.kernel),
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
            **options,
        )
        assert spec.output == self.output, f"{self}: {spec.output}"
        return spec

    def __str__(self) -> str:
        return f"benchdnn_conv.csv line {self.line} ({self.source} {self.name})"


def _read() -> Iterator[Problem]:
    with gzip.open(CSV, "rt", newline="") as file:
        for line, row in enumerate(csv.DictReader(file), start=2):
            axes = AXES[3 - int(row["ndim"]) :]
            sizes = {kind: tuple(int(row[kind + a]) for a in axes) for kind in "iokspr"}
            padding = tuple((lo, max(hi, 0)) for lo, hi in zip(sizes["p"], sizes["r"], strict=True))
            inputs, outputs = list(sizes["i"]), list(sizes["o"])
            for axis, (hi, step) in enumerate(zip(sizes["r"], sizes["s"], strict=True)):
                # A negative right pad: the last cells are not reached, which is so without any pad as well, unless
                # a whole stride of them is cut off. Then the input is cut, or, if nothing were left, all is computed.
                if -hi >= step and inputs[axis] + hi >= 1:
                    inputs[axis] += hi
                elif -hi >= step:
                    extent = (sizes["k"][axis] - 1) * int(row["d" + axes[axis]]) + 1
                    outputs[axis] = (inputs[axis] + padding[axis][0] - extent) // step + 1
            groups = int(row["groups"])
            yield Problem(
                source=row["source"],
                name=row["name"],
                line=line,
                N=int(row["n"]),
                groups=groups,
                IC=int(row["ic"]) // groups,
                OC=int(row["oc"]) // groups,
                input=tuple(inputs),
                output=tuple(outputs),
                kernel=sizes["k"],
                stride=sizes["s"],
                dilation=tuple(int(row["d" + a]) for a in axes),
                padding=padding,
            )


@cache
def problems() -> tuple[Problem, ...]:
    """All lines of the list."""
    return tuple(_read())


def _cut(size: int, keep: int) -> int:
    """A smaller size with the same remainder modulo 16; at most `keep` + 15."""
    return size if size < keep + 16 else keep + size % 16 or 16


def _set(values: tuple, axis: int, value) -> tuple:
    return (*values[:axis], value, *values[axis + 1 :])


def _cut_axis(p: Problem, axis: int, keep: int, step: int = 16) -> Problem:
    """Fewer outputs along an axis. Whole multiples of 16 strides are cut off the input: both remainders stay."""
    output, size = p.output[axis], p.input[axis]
    smaller = _cut(output, keep) if step == 16 else min(output, keep)
    while smaller < output and size - (output - smaller) * p.stride[axis] < 1:
        smaller += step
    size -= (output - smaller) * p.stride[axis]
    return replace(p, output=_set(p.output, axis, smaller), input=_set(p.input, axis, size))


def _cut_kernel(p: Problem, axis: int) -> Problem:
    """A smaller kernel on an input smaller by as much."""
    kernel = _cut(p.kernel[axis], 16)
    size = p.input[axis] - (p.kernel[axis] - kernel) * p.dilation[axis]
    if size < 1:
        return p
    return replace(p, kernel=_set(p.kernel, axis, kernel), input=_set(p.input, axis, size))


def reduced(p: Problem, budget: int) -> Problem:
    """The problem with at most about `budget` multiply-adds, cut no further than needed."""
    last = len(p.input) - 1
    p = replace(p, N=min(p.N, 3), groups=_cut(p.groups, 16), IC=_cut(p.IC, 32), OC=_cut(p.OC, 32))
    for axis in range(last + 1):
        p = _cut_axis(p, axis, 48)
    steps = [
        lambda p: replace(p, N=min(p.N, 2)),
        *(lambda p, a=axis: _cut_axis(p, a, 16) for axis in range(last)),
        lambda p: replace(p, IC=_cut(p.IC, 16), OC=_cut(p.OC, 16)),
        lambda p: _cut_axis(p, last, 16),
        *(lambda p, a=axis: _cut_axis(p, a, 0) for axis in range(last)),
        lambda p: replace(p, N=1),
        lambda p: replace(p, groups=_cut(p.groups, 0)),
        lambda p: replace(p, IC=_cut(p.IC, 0)),
        lambda p: replace(p, OC=_cut(p.OC, 0)),
        lambda p: _cut_axis(p, last, 0),
        # Depth is never a vector's axis: what remains of it modulo 16 may go.
        *(lambda p, a=axis: _cut_axis(p, a, 2, step=1) for axis in range(last - 1)),
        *(lambda p, a=axis: _cut_kernel(p, a) for axis in range(last + 1)),
    ]
    for step in steps:
        if p.work <= budget:
            break
        p = step(p)
    return p


def sample(count: int) -> list[Problem]:
    """About `count` problems, the same in every run: of each source its share, and at least eight where it has them."""
    by_source: dict[str, list[Problem]] = defaultdict(list)
    for p in problems():
        by_source[p.source].append(p)
    total = len(problems())
    chosen = []
    for group in by_source.values():
        share = max(min(len(group), 8), round(len(group) / total * count))
        chosen += sorted(group, key=lambda p: p.seed)[:share]
    return chosen


# ---- data -----------------------------------------------------------------------------------------------------------

# Guard cells around every output: a kernel that writes past the end is caught.
GUARD = 64
_GUARD_VALUE = 77


def integers(rng: np.random.Generator, size: int, dtype: str, top: int = 3) -> np.ndarray:
    """Small integers: every partial sum is exact, so that every order of summation gives the same bits."""
    return rng.integers(-top, top + 1, size).astype(dtype)


def harmless(spec: ConvSpec, dtype: str = "float32") -> Iterator[np.ndarray]:
    """What networks see: zeros, dark rows, outliers, black frames; no transform may suspect overflow in any of it."""
    rng, shape = np.random.default_rng(6), spec.x_shape
    H, W = shape[2:]
    frame = [(0, 0), (0, 0), *((n // 4, n - n // 2 - n // 4) for n in (H, W))]
    for x in (
        np.maximum(rng.standard_normal(shape), 0),
        np.where(rng.random(shape) < 0.02, rng.random(shape), 0),
        rng.standard_normal(shape) * np.linspace(0.01, 1, H)[:, None],
        np.zeros(shape),
        np.pad(rng.random((*shape[:2], H // 2, W // 2)), frame),
        rng.standard_normal(shape) * 1e20,
    ):
        yield x.astype(dtype)


def run(module, spec: ConvSpec, params, x: np.ndarray, weight: np.ndarray, epilogue: Epilogue) -> np.ndarray:
    """One algorithm on flat arrays. Fails if it writes outside its output, leaves a part of it, or changes x."""
    size = prod(spec.out_shape)
    guarded = np.full(size + 2 * GUARD, _GUARD_VALUE, spec.dtype)
    out = guarded[GUARD : GUARD + size]
    if np.dtype(spec.dtype).kind == "f":
        out[:] = np.nan  # what is not written stays NaN
    before = x.copy()
    packed = module.prepare(spec, params, weight)
    module.run(spec, params, x, packed, out, epilogue)
    assert np.array_equal(x, before, equal_nan=True), f"{module.NAME} changed x"
    for part in (guarded[:GUARD], guarded[GUARD + size :]):
        assert (part == _GUARD_VALUE).all(), f"{module.NAME} wrote outside the output"
    return out


def accepts(module, spec: ConvSpec, threads: int = 1, limit: int = 256 << 20):
    """The algorithm's parameters, or None if it refuses the problem."""
    if module.refuses(spec) is not None:
        return None
    params = module.parameters(spec, threads, limit)
    if isinstance(params, str):
        return None
    assert params.workspace <= limit, f"{module.NAME} plans {params.workspace} bytes of {limit}: {spec}"
    return params


def is_transform(module) -> bool:
    """Whether the algorithm's bound holds norm-wise, as that of every algorithm that works in a transform domain."""
    return module.NOTE.startswith("norm-wise")


def norm_scale(spec: ConvSpec, x: np.ndarray, weight: np.ndarray) -> float:
    """The largest ||w|| ||x|| of a filter and the part of an image that it sees; x is logical or flat in memory."""
    shape = (spec.N, -1, spec.C) if spec.channels_last else (spec.N, spec.C, -1)
    cells = np.moveaxis(x.reshape(shape), 2, 1) if spec.channels_last else x.reshape(shape)
    # Padding other than zeros repeats cells, some of them twice along each axis.
    grown = np.prod(spec.padded) / np.prod(spec.input)
    repeats = 1.0 if spec.padding_mode == "zeros" else max(1.0, grown)
    groups = cells.astype(np.float64).reshape(spec.N, spec.groups, -1)
    largest_x = np.sqrt((groups**2).sum(-1).max() * repeats)
    return float(largest_x * np.sqrt((weight.astype(np.float64).reshape(spec.OC, -1) ** 2).sum(1).max()))


# ---- an oracle that shares no code with the package -----------------------------------------------------------------

_PAD_MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def by_numpy(x, weight, *, stride, padding, dilation, groups=1, padding_mode="zeros", flip=False) -> np.ndarray:
    """Convolution of (N, C, *spatial) by padding in memory, a sliding window and einsum.

    stride and dilation are tuples, padding holds (lo, hi) pairs. Computed in the dtype of the inputs.
    """
    ndim = weight.ndim - 2
    axes = tuple(range(2, 2 + ndim))
    if flip:
        weight = np.flip(weight, axes)
    padded = np.pad(x, ((0, 0), (0, 0), *padding), mode=_PAD_MODES[padding_mode])
    extent = tuple((k - 1) * d + 1 for k, d in zip(weight.shape[2:], dilation, strict=True))
    windows = np.lib.stride_tricks.sliding_window_view(padded, extent, axes)
    windows = windows[(slice(None), slice(None), *(slice(None, None, s) for s in stride))]
    windows = windows[(..., *(slice(None, None, d) for d in dilation))]
    N, C, OC = x.shape[0], x.shape[1], weight.shape[0]
    output = windows.shape[2 : 2 + ndim]
    windows = windows.reshape(N, groups, C // groups, *windows.shape[2:])
    filters = weight.reshape(groups, OC // groups, *weight.shape[1:])
    out, taps = "def"[:ndim], "hij"[:ndim]
    result = np.einsum(f"ngc{out}{taps},goc{taps}->ngo{out}", windows, filters)
    return result.reshape(N, OC, *output)
