"""Oracles and problems for gradients and transposed convolutions. They share no code with the package."""

from __future__ import annotations

import csv
import gzip
from functools import cache
from pathlib import Path

import numpy as np
from cases import AXES, Problem

from fastconv.spec import ConvSpec

DECONV = Path(__file__).parent / "data" / "benchdnn_deconv.csv.gz"
PAD_MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def _taps(spec: ConvSpec):
    """Each tap's place in the weight, and the slices of the padded input that the outputs see through it."""
    for tap in np.ndindex(*spec.kernel):
        seen = tuple(
            slice(t * d, t * d + (n - 1) * s + 1, s)
            for t, d, n, s in zip(tap, spec.dilation, spec.output, spec.stride, strict=True)
        )
        yield tuple(k - 1 - t for t, k in zip(tap, spec.kernel, strict=True)) if spec.flip else tap, seen


def input_by_numpy(spec: ConvSpec, weight: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """Every output hands its gradient back, tap by tap; then every padded cell to the cell that it showed.

    Logical arrays; complex weights are conjugated.
    """
    G = spec.groups
    w = weight.reshape(G, spec.OC // G, spec.C // G, *spec.kernel).conj()
    g = gradient.reshape(spec.N, G, spec.OC // G, *spec.output)
    padded = np.zeros((spec.N, spec.C, *spec.padded), np.result_type(w, g))
    for place, seen in _taps(spec):
        part = np.einsum("goc,ngo...->ngc...", w[(..., *place)], g)
        padded[(..., *seen)] += part.reshape(spec.N, spec.C, *spec.output)
    for axis, (size, pair) in enumerate(zip(spec.input, spec.padding, strict=True), start=2):
        shows = np.pad(np.arange(1, size + 1), pair, mode=PAD_MODES[spec.padding_mode])  # 0 shows nothing
        cells = np.moveaxis(padded, axis, 0)
        folded = np.zeros((size + 1, *cells.shape[1:]), padded.dtype)
        np.add.at(folded, shows, cells)
        padded = np.moveaxis(folded[1:], 0, axis)
    return padded


def weight_by_numpy(spec: ConvSpec, x: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """The product of the output's gradient with what each tap has seen; complex inputs are conjugated."""
    G = spec.groups
    padded = np.pad(x, ((0, 0), (0, 0), *spec.padding), mode=PAD_MODES[spec.padding_mode]).conj()
    g = gradient.reshape(spec.N, G, spec.OC // G, -1)
    result = np.zeros(spec.weight_shape, np.result_type(x, g))
    for place, seen in _taps(spec):
        cells = padded[(..., *seen)].reshape(spec.N, G, spec.C // G, -1)
        part = np.einsum("ngop,ngcp->goc", g, cells)
        result[(..., *place)] = part.reshape(spec.OC, -1)
    return result


def transpose_by_loops(x, weight, *, stride, padding, output_padding, dilation, groups=1) -> np.ndarray:
    """A transposed convolution as PyTorch defines it: each input cell adds the kernel to the output, one by one."""
    N, C, *size = x.shape
    OC = weight.shape[1] * groups
    kernel = weight.shape[2:]
    full = [(n - 1) * s + (k - 1) * d + 1 for n, s, k, d in zip(size, stride, kernel, dilation, strict=True)]
    out = np.zeros((N, OC, *(f + o for f, o in zip(full, output_padding, strict=True))), x.dtype)
    w = weight.reshape(groups, C // groups, OC // groups, *kernel)
    for cell in np.ndindex(*size):
        here = tuple(
            slice(c * s, c * s + (k - 1) * d + 1, d) for c, s, k, d in zip(cell, stride, kernel, dilation, strict=True)
        )
        values = x[(..., *cell)].reshape(N, groups, C // groups)
        out[(..., *here)] += np.einsum("ngc,gco...->ngo...", values, w).reshape(N, OC, *kernel)
    cut = tuple(slice(p, n + o - p) for p, n, o in zip(padding, full, output_padding, strict=True))
    return out[(..., *cut)]


@cache
def deconvolutions() -> tuple[Problem, ...]:
    """The deconvolutions of the list, each as the convolution that it is the adjoint of."""
    found = []
    with gzip.open(DECONV, "rt", newline="") as file:
        for line, row in enumerate(csv.DictReader(file), start=2):
            axes = AXES[3 - int(row["ndim"]) :]
            sizes = {kind: tuple(int(row[kind + a]) for a in axes) for kind in "iokspr"}
            groups = int(row["groups"])
            assert all(-hi < step for hi, step in zip(sizes["r"], sizes["s"], strict=True)), line
            found.append(
                Problem(
                    source=f"deconv {row['source']}",
                    name=row["name"],
                    line=line,
                    N=int(row["n"]),
                    groups=groups,
                    IC=int(row["oc"]) // groups,
                    OC=int(row["ic"]) // groups,
                    input=sizes["o"],
                    output=sizes["i"],
                    kernel=sizes["k"],
                    stride=sizes["s"],
                    dilation=tuple(int(row["d" + a]) for a in axes),
                    # A negative right pad adds to the deconvolution's output: cells that the convolution leaves over.
                    padding=tuple((lo, max(hi, 0)) for lo, hi in zip(sizes["p"], sizes["r"], strict=True)),
                )
            )
    return tuple(found)


def in_memory(array: np.ndarray, channels_last: bool) -> np.ndarray:
    """A logical array flat in memory order."""
    return np.ascontiguousarray(np.moveaxis(array, 1, -1) if channels_last else array).reshape(-1)


def as_channels_last(array: np.ndarray) -> np.ndarray:
    """The same logical array in channels-last memory."""
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(array, 1, -1)), -1, 1)


def small_integers(rng: np.random.Generator, shape, dtype) -> np.ndarray:
    """Small integers of any dtype: sums of them are exact in any order."""
    kind = np.dtype(dtype).kind
    x = rng.integers(0 if kind == "u" else -2, 3, shape).astype(dtype)
    return x + (1j * rng.integers(-2, 3, shape)).astype(dtype) if kind == "c" else x
