"""Compile the demo's kernels before anything is timed, half of them in a process beside this one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import numpy as np

import fastconv
from fastconv.demo.measure import ACCURACY
from fastconv.demo.problems import Problem, filter_bank, layer_stack

__all__ = ["compile_all"]

#: What the other process compiles: about as much as all the rest.
BESIDE = {"fft", "winograd", "winograd_fast"}

#: Height and width of the miniature that each kernel runs on, larger than half of the largest filter.
SIZE = 32


def compile_all(problems: list[Problem], report: Callable[[str], None]) -> None:
    """Fill the cache of compiled kernels from two processes, then load them here."""
    other = subprocess.Popen(
        [sys.executable, "-m", __name__], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        run_miniatures(problems, lambda algorithm: algorithm not in BESIDE, report)
        report("fft and winograd, in another process")
    finally:
        other.wait()  # what it failed to compile is compiled here
    run_miniatures(problems, lambda algorithm: algorithm in BESIDE, report)


def run_miniatures(problems: list[Problem], wanted: Callable[[str], bool], report: Callable[[str], None]) -> None:
    """Run each problem on a small input by each algorithm wanted that accepts it."""
    for problem in problems:
        weight, options = problem.weight, problem.options
        x = np.ones((1, weight.shape[1] * options.get("groups", 1), SIZE, SIZE), np.float32)
        geometry = {name: value for name, value in options.items() if name != "activation"}
        for row in fastconv.explain(x.shape, weight.shape, accuracy=ACCURACY, **geometry).rows:
            if row.predicted_ms is not None and wanted(row.algorithm):
                report(row.algorithm)
                layer = fastconv.prepare(weight, problem.bias, algorithm=row.algorithm, accuracy=ACCURACY, **options)
                layer(x, residual=x if problem.residual else None)


if __name__ == "__main__":
    run_miniatures(filter_bank() + layer_stack(), BESIDE.__contains__, lambda algorithm: None)
