"""Run every algorithm that accepts a problem: check it against the float64 oracle, time it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

import numpy as np

import fastconv
from fastconv.demo.oracle import convolve
from fastconv.demo.problems import Problem

__all__ = ["Result", "Run", "measure", "measure_all"]

UNIT = 2.0**-24  # half the spacing of the float32 numbers just above 1
#: Their rounding errors spread over a whole tile: their bounds hold for the largest |w| * |x|.
NORMWISE = {"fft", "winograd", "winograd_fast"}

ACCURACY = "fast"  # lets every algorithm in; each is still held to its own bound

# Calls of one algorithm on one problem: until the first limit of seconds, but three calls until the second.
REPEATS, BUDGET, PATIENCE = 10, 0.03, 0.5


@dataclass(frozen=True)
class Run:
    """One algorithm on one problem. ``error`` is in units of u (|w| * |x|), as is the ``bound`` it must keep."""

    algorithm: str
    predicted_ms: float
    ms: float
    error: float
    bound: float

    @property
    def passed(self) -> bool:
        return self.error <= self.bound  # False for NaN


@dataclass(frozen=True)
class Result:
    """All runs of one problem: the dispatcher's choice first, then the others from fast to slow."""

    problem: Problem
    flops: int
    roof_gflops: float
    runs: tuple[Run, ...]
    output: np.ndarray

    @property
    def chosen(self) -> Run:
        return self.runs[0]

    @property
    def gflops(self) -> float:
        return self.flops / self.chosen.ms / 1e6

    @property
    def regret(self) -> float:
        """Time of the chosen algorithm over the fastest one's."""
        return self.chosen.ms / min(run.ms for run in self.runs)


def measure_all(
    image: np.ndarray, filters: list[Problem], layers: list[Problem], progress: Callable[[str, float], None]
) -> list[Result]:
    """Measure the filters on the image's three planes and the layers one after another on the whole image.

    ``progress`` is told what runs now and which share of the problems is done.
    """
    planes = image[:, None]  # a filter treats the colours as a batch of three grey pictures
    inputs: dict[str | None, np.ndarray] = {None: (image - image.mean(axis=(1, 2), keepdims=True))[None]}
    problems = [(filter_, planes) for filter_ in filters] + [(layer, None) for layer in layers]
    results = []
    for index, (problem, x) in enumerate(problems):

        def report(algorithm: str, share: float, index: int = index, name: str = problem.name) -> None:
            progress(f"{name}: {algorithm}", (index + share) / len(problems))

        result = measure(problem, inputs[problem.after] if x is None else x, report)
        if x is None:
            inputs[problem.name] = result.output
        results.append(result)
    progress("done", 1.0)
    return results


def measure(problem: Problem, x: np.ndarray, report: Callable[[str, float], None]) -> Result:
    """Run one problem with every algorithm that accepts it."""
    weight, bias, options = problem.weight, problem.bias, problem.options
    residual = x if problem.residual else None
    geometry = {name: value for name, value in options.items() if name != "activation"}
    explanation = fastconv.explain(x.shape, weight.shape, accuracy=ACCURACY, **geometry)
    able = [(row, row.predicted_ms) for row in explanation.rows if row.predicted_ms is not None]
    chosen = explanation.chosen
    assert chosen.gflops  # whoever is chosen accepts the problem
    assert chosen.roof_percent

    report("float64 oracle", 0.0)
    exact = convolve(x, weight, geometry)
    # |w| * |x| is what rounding errors are proportional to.
    positive = x.min() >= 0 and weight.min() >= 0
    scale = exact.copy() if positive else convolve(np.abs(x), np.abs(weight), geometry)
    if bias is not None:
        exact += bias[:, None, None]
        scale += np.abs(bias)[:, None, None]
    if residual is not None:
        exact += residual
        scale += np.abs(residual)
    if options.get("activation") == "relu":
        np.maximum(exact, 0, out=exact)

    output = exact
    runs = []
    for index, (row, predicted_ms) in enumerate(able):
        report(row.algorithm, (index + 1) / (len(able) + 1))
        layer = fastconv.prepare(weight, bias, algorithm=row.algorithm, accuracy=ACCURACY, **options)
        least = 1 if row.algorithm == "reference" else 2  # the first call may find something left to compile
        result, seconds = fastest(lambda: layer(x, residual=residual), least)  # noqa: B023
        error = worst_error(result - exact, scale.max() if row.algorithm in NORMWISE else scale)
        runs.append(Run(row.algorithm, predicted_ms, 1e3 * seconds, error, row.error_bound))
        if row.chosen:
            output = result
    runs.sort(key=lambda run: (run.algorithm != chosen.algorithm, run.ms))
    spec_flops = 2 * output.size * weight[0].size
    return Result(problem, spec_flops, 100 * chosen.gflops / chosen.roof_percent, tuple(runs), output)


def worst_error(difference: np.ndarray, scale: np.ndarray | float) -> float:
    """Largest |difference| in units of u * scale; where scale is 0 any difference is infinitely wrong."""
    with np.errstate(divide="ignore", invalid="ignore"):
        errors = np.where(difference == 0, 0.0, np.abs(difference) / (UNIT * scale))
    return float(errors.max())  # NaN stays NaN


def fastest(call: Callable[[], np.ndarray], least: int) -> tuple[np.ndarray, float]:
    """The result, and the seconds of the fastest of a few calls, `least` at least; a slow call is not repeated."""
    times: list[float] = []
    while len(times) < least or (len(times) < REPEATS and sum(times) < (BUDGET if len(times) >= 3 else PATIENCE)):
        start = perf_counter()
        result = call()
        times.append(perf_counter() - start)
    return result, min(times)
