"""Times algorithms on one problem, taking turns, so that a busy machine disturbs them alike."""

from __future__ import annotations

import time
from collections.abc import Sequence
from math import prod
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from fastconv.kernels.epilogue import Epilogue
from fastconv.spec import ConvSpec

SAMPLE = 100e-6  # a shorter call is repeated until a sample is this long: far above the clock's resolution
MIN_ROUNDS = 3


def random_operands(spec: ConvSpec) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Input, weight and output of a problem, all but the weight flat; small numbers, the same at every call."""
    rng = np.random.default_rng(0)

    def fill(shape: tuple[int, ...]) -> np.ndarray:
        return rng.integers(-8, 9, shape, np.int8).astype(spec.dtype)

    return fill((prod(spec.x_shape),)), fill(spec.weight_shape), fill((prod(spec.out_shape),))


class Timing(NamedTuple):
    """Seconds of a call with prepared weights, and of preparing them."""

    run: float
    prepare: float


def measure(
    spec: ConvSpec, runners: Sequence[tuple[Any, Any]], budget: float = 0.3, direction: str = "forward"
) -> list[Timing]:
    """Time each (algorithm, parameters): the median of its calls, and one preparation.

    `budget` is the seconds to spend on the calls of all of them, after one to compile; at least three rounds are made.
    """
    x, weight, out = random_operands(spec)
    result = weight.reshape(-1).copy()
    source, target = (out, x) if direction == "input" else (x, out)
    epilogue = Epilogue.make(spec.dtype)
    calls, loops, preparing = [], [], []
    for module, params in runners:
        arguments: tuple[Any, ...] = (spec, params, x, out, result)
        seconds = 0.0
        if direction != "weight":
            module.prepare(spec, params, weight)  # compile
            start = time.perf_counter()
            packed = module.prepare(spec, params, weight)
            seconds = time.perf_counter() - start
            arguments = (spec, params, source, packed, target, epilogue)
        preparing.append(seconds)
        module.run(*arguments)  # compile
        once = _seconds(module, arguments, 1)
        calls.append((module, arguments))
        loops.append(max(1, round(SAMPLE / max(once, 1e-7))))
    samples: list[list[float]] = [[] for _ in calls]
    end = time.perf_counter() + budget
    while len(samples[0]) < MIN_ROUNDS or time.perf_counter() < end:
        for (module, arguments), count, found in zip(calls, loops, samples, strict=True):
            module.run(*arguments)  # its data and code back into the caches
            found.append(_seconds(module, arguments, count))
    return [Timing(median(found), prepare) for found, prepare in zip(samples, preparing, strict=True)]


def _seconds(module: Any, arguments: tuple[Any, ...], count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        module.run(*arguments)
    return (time.perf_counter() - start) / count
