"""What bias, activation and residual cost in the epilogue, beside the bare convolution."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from statistics import geometric_mean
from typing import Any

import numpy as np

import fastconv
from fastconv.bench.report import text_table
from fastconv.bench.runner import Timing, interleave
from fastconv.bench.shapes import Layer

#: What is timed, in the order of the table.
BARE, STEPS = "bare", ("bias", "bias, relu", "bias, relu, residual")


def time_fusion(layer: Layer, dtype: str = "float32", seconds: float = 1.0) -> tuple[str, dict[str, Timing]]:
    """The algorithm, and timings of a prepared layer with more and more behind it, all by the same plan."""
    x, weight = layer.data(dtype)
    plan = fastconv.plan(x.shape, weight.shape, dtype=dtype, **layer.options)
    bias = np.ones(layer.oc, dtype)
    options = layer.options | {"algorithm": plan.algorithm}
    bare, biased = fastconv.prepare(weight, **options), fastconv.prepare(weight, bias, **options)
    relu = fastconv.prepare(weight, bias, activation="relu", **options)
    out = np.empty(layer.spec.out_shape, dtype)
    steps = partial(biased, x), partial(relu, x), partial(relu, x, residual=np.ones_like(out))
    calls: dict[str, Callable[[], Any]] = {BARE: partial(bare, x, out=out)}
    calls |= {name: partial(step, out=out) for name, step in zip(STEPS, steps, strict=True)}
    for call in calls.values():
        call()  # packs weights, and compiles
    return plan.algorithm, interleave(calls, seconds)


def fusion_report(layers: Sequence[Layer], dtype: str = "float32", seconds: float = 1.0) -> str:
    """A table of layers: how much longer each step takes than the bare convolution."""
    rows, ratios = [], []
    for layer in layers:
        algorithm, found = time_fusion(layer, dtype, seconds)
        bare = found[BARE].best
        ratios.append([found[step].best / bare for step in STEPS])
        rows.append([f"{layer.suite}/{layer.short_name}", algorithm, f"{1e3 * bare:.3g}", *map(_percent, ratios[-1])])
    means = [_percent(geometric_mean(column)) for column in zip(*ratios, strict=True)]
    return text_table(["layer", "algorithm", "ms", *STEPS], [*rows, ["geometric mean", "", "", *means]])


def _percent(ratio: float) -> str:
    return f"{100 * (ratio - 1):+.1f} %"
