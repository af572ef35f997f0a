"""benchdnn's pools, and an oracle of NumPy index arrays that shares no code with the package."""

from __future__ import annotations

import csv
import gzip
from dataclasses import dataclass
from functools import cache
from math import prod
from pathlib import Path

import numpy as np

CSV = Path(__file__).parent / "data" / "benchdnn_pool.csv.gz"
AXES = "dhw"
LARGE = 5e7  # input cells from which a problem is only counted, not computed


@dataclass(frozen=True)
class Pool:
    """One line of the list."""

    line: int
    source: str
    name: str
    N: int
    C: int
    input: tuple[int, ...]
    output: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]

    @property
    def is_large(self) -> bool:
        return self.N * self.C * prod(self.input) > LARGE and self.source == "large_pool"

    def reduced(self) -> Pool:
        """Fewer images and channels; the remainder of the channels modulo 16 stays."""
        cells = max(prod(self.input), prod(self.output) * prod(self.kernel))
        C = self.C if self.C < 32 else 16 + self.C % 16
        if cells * C > 2e6:
            C = min(C, 3)
        N = min(self.N, 2 if cells * C < 5e5 else 1)
        return Pool(**{**self.__dict__, "N": N, "C": C})

    def __str__(self) -> str:
        return f"benchdnn_pool.csv line {self.line} ({self.source} {self.name})"


@cache
def pools() -> tuple[Pool, ...]:
    found = []
    with gzip.open(CSV, "rt", newline="") as file:
        for line, row in enumerate(csv.DictReader(file), start=2):
            axes = AXES[3 - int(row["ndim"]) :]
            size = {kind: tuple(int(row[kind + a]) for a in axes) for kind in "ioksprd"}
            # A negative right pad: the last cells are not reached. Of whole strides the input is cut.
            reached = [n + hi if -hi >= step else n for n, hi, step in zip(*(size[k] for k in "irs"), strict=True)]
            padding = tuple((lo, max(hi, 0)) for lo, hi in zip(size["p"], size["r"], strict=True))
            found.append(
                Pool(
                    line, row["source"], row["name"], int(row["n"]), int(row["ic"]), tuple(reached), size["o"],
                    size["k"], size["s"], padding, size["d"],
                )
            )  # fmt: skip
    return tuple(found)


# ---- the oracle -----------------------------------------------------------------------------------------------------


def _taps(size, output, kernel, stride, lo, dilation):
    """(cells, whether they exist), each (outputs, kernel)."""
    at = np.arange(output)[:, None] * stride - lo + np.arange(kernel) * dilation
    return np.clip(at, 0, size - 1), (at >= 0) & (at < size)


def windows(x, output, kernel, stride, padding, dilation):
    """(values, exists, cells) of every window of (N, C, *spatial): (..., *output, taps)."""
    ndim, values = len(kernel), x
    exists, cells = np.ones((1,) * ndim * 2, bool), np.zeros((1,) * ndim * 2, np.int64)
    for axis in range(ndim):
        at, inside = _taps(
            x.shape[2 + axis], output[axis], kernel[axis], stride[axis], padding[axis][0], dilation[axis]
        )
        values = np.take(values, at.reshape(-1), axis=2 + 2 * axis)
        values = values.reshape(*values.shape[: 2 + 2 * axis], *at.shape, *values.shape[3 + 2 * axis :])
        shape = [1] * (2 * ndim)
        shape[2 * axis], shape[2 * axis + 1] = at.shape
        exists = exists & inside.reshape(shape)
        cells = cells * x.shape[2 + axis] + at.reshape(shape)
    order = [*range(0, 2 * ndim, 2), *range(1, 2 * ndim, 2)]
    values = values.transpose(0, 1, *(2 + i for i in order))
    exists, cells = (np.ascontiguousarray(a.transpose(order)).reshape(*output, -1) for a in (exists, cells))
    return values.reshape(*x.shape[:2], *output, -1), exists, cells


def max_by_numpy(x, *geometry):
    """(maxima, indices): the first of equal values, the last NaN, the first cell if all are minus infinity."""
    values, exists, cells = windows(x, *geometry)
    lowest = -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min
    seen = np.where(exists, values, lowest).astype(x.dtype)
    is_nan = np.isnan(seen) if x.dtype.kind == "f" else np.zeros(seen.shape, bool)
    taps = seen.shape[-1]
    last_nan = taps - 1 - is_nan[..., ::-1].argmax(-1)
    # A real cell before the padding where both are the lowest number.
    ordinary = np.where(seen == seen.max(-1, keepdims=True), exists * 2 + 1, 0).argmax(-1)
    chosen = np.where(is_nan.any(-1), last_nan, ordinary)
    maxima = np.take_along_axis(seen, chosen[..., None], -1)[..., 0]
    places = np.take_along_axis(np.broadcast_to(cells, seen.shape), chosen[..., None], -1)[..., 0]
    return maxima, np.where(exists.any(-1), places, -1)


def average_by_numpy(x, output, kernel, stride, padding, dilation, include):
    """Averages over the cells of the input, or of the input and its padding."""
    values, exists, _ = windows(x, output, kernel, stride, padding, dilation)
    total = np.where(exists, values, 0).sum(-1)
    if include:
        cells = np.ones((1,) * len(kernel), np.int64)
        for axis, (lo, hi) in enumerate(padding):
            at = np.arange(output[axis])[:, None] * stride[axis] + np.arange(kernel[axis]) * dilation[axis]
            count = (at < x.shape[2 + axis] + lo + hi).sum(1)
            cells = cells * count.reshape([-1 if i == axis else 1 for i in range(len(kernel))])
    else:
        cells = np.maximum(exists.sum(-1), 1)
    return (total / cells.astype(x.dtype)).astype(x.dtype)


def last(x: np.ndarray) -> np.ndarray:
    """The same array with channels last in memory."""
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)


def integers(rng: np.random.Generator, shape, dtype) -> np.ndarray:
    """Small integers: every sum is exact."""
    return rng.integers(-9, 10, shape).astype(dtype)
