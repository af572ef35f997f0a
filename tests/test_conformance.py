"""Every algorithm against the plain loops, on benchdnn's problems, with numbers for which every sum is exact.

Direct, im2col and the other summing algorithms must agree to the last bit; transform algorithms within the bound they
declare. Every problem also draws a memory order, a convention, an epilogue, a thread count and a workspace limit.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from math import prod

import numpy as np
import pytest
from cases import accepts, integers, is_transform, norm_scale, problems, reduced, run, sample

from fastconv.kernels import reference
from fastconv.kernels.epilogue import Epilogue
from fastconv.plan.candidates import CANDIDATES
from fastconv.spec import ConvSpec

QUICK, THOROUGH = 1 << 21, 1 << 23  # multiply-adds of one problem

MOST_FAILURES = 20  # a broken kernel fails thousands of problems: these are enough to see the pattern


def drawn(p) -> tuple[ConvSpec, int, int]:
    """The problem's spec, threads and workspace limit; what the list leaves open is drawn from its seed."""
    bits = p.seed
    spec = p.spec(
        channels_last=bool(bits & 1),
        flip=bits & 6 == 0,
        dtype="float64" if bits & 0x70 == 0 else "float32",
    )
    return spec, 1 + (bits >> 8 & 1), (256 << 20, 256 << 20, 4 << 20, 256 << 10)[bits >> 9 & 3]


def data(p, spec: ConvSpec) -> tuple[np.ndarray, np.ndarray, Epilogue]:
    rng = np.random.default_rng(p.seed)
    x = integers(rng, prod(spec.x_shape), spec.dtype)
    weight = integers(rng, prod(spec.weight_shape), spec.dtype).reshape(spec.weight_shape)
    kind = p.seed >> 12 & 3
    bias = integers(rng, spec.OC, spec.dtype, 50) if kind & 1 else None
    residual = integers(rng, prod(spec.out_shape), spec.dtype, 50) if kind == 3 else None
    return x, weight, Epilogue.make(spec.dtype, bias, residual, "relu" if kind & 2 else None)


def allowed(module, spec: ConvSpec, x: np.ndarray, weight: np.ndarray) -> float:
    """The largest error of a transform algorithm, whose bound holds norm-wise; 0 for all others."""
    if not is_transform(module):
        return 0.0
    return module.ERROR_BOUND * np.finfo(spec.dtype).eps / 2 * norm_scale(spec, x, weight)


def compare(p) -> tuple[list[str], list[str]]:
    """Names of the algorithms that took the problem, and what went wrong."""
    spec, threads, limit = drawn(p)
    x, weight, epilogue = data(p, spec)
    expected = run(reference, spec, reference.parameters(spec, threads, limit), x, weight, epilogue)
    took, wrong = ["reference"], []
    for module in CANDIDATES:
        if module is reference:
            continue
        params = accepts(module, spec, threads, limit)
        if params is None:
            continue
        took.append(module.NAME)
        where = f"{module.NAME}: {spec} threads {threads} limit {limit} seed {p.seed}, {p}"
        try:
            got = run(module, spec, params, x, weight, epilogue)
        except Exception as error:
            wrong.append(f"{where}: {type(error).__name__}: {error}")
            continue
        bad = ~(np.abs(got - expected) <= allowed(module, spec, x, weight))  # NaN is bad
        if bad.any():
            first = int(np.argmax(bad))
            wrong.append(
                f"{where}: {bad.sum()} of {bad.size} outputs wrong, first out[{first}] = {got[first]}, "
                f"expected {expected[first]}"
            )
    return took, wrong


def check(chosen, budget: int, progress=lambda done: None) -> Counter:
    counts: Counter = Counter()
    failures: list[str] = []
    for done, p in enumerate(chosen):
        progress(done)
        took, wrong = compare(reduced(p, budget))
        counts.update(took)
        failures += wrong
        if len(failures) >= MOST_FAILURES:
            break
    assert not failures, f"{len(failures)} failures:\n" + "\n".join(failures)
    return counts


def summary(counts: Counter, total: int) -> str:
    return f"conformance: {total} problems; accepted by " + ", ".join(
        f"{module.NAME} {counts[module.NAME]}" for module in CANDIDATES
    )


def test_a_sample_of_all_sources(report):
    chosen = sample(2300)
    assert len(chosen) >= 2000
    assert {p.source for p in chosen} == {p.source for p in problems()}
    counts = check(chosen, QUICK)
    report(summary(counts, len(chosen)))
    assert all(counts[module.NAME] > 0 for module in CANDIDATES), counts
    assert counts["reference"] == len(chosen)


@pytest.mark.slow
def test_all_problems(report, capsys):
    everything = problems()
    assert len(everything) == 34_141
    started = shown = time.monotonic()

    def progress(done: int) -> None:
        nonlocal shown
        now = time.monotonic()
        if now - shown < 2:
            return
        shown = now
        left = (now - started) / done * (len(everything) - done)
        with capsys.disabled():
            print(f"\r{done:,} of {len(everything):,} problems, {left / 60:.1f} minutes left ", end="", file=sys.stderr)

    counts = check(everything, THOROUGH, progress)
    report(summary(counts, len(everything)))


def test_reduction_keeps_what_breaks_kernels():
    """Remainders modulo 16 of channels and sizes, strides, dilations and paddings; and it does reduce."""
    changed = 0
    for p in problems():
        r = reduced(p, QUICK)
        assert (r.stride, r.dilation, r.padding) == (p.stride, p.dilation, p.padding)
        assert (r.IC % 16, r.OC % 16) == (p.IC % 16, p.OC % 16)
        assert r.output[-1] % 16 == p.output[-1] % 16, p
        assert min(r.input) >= 1
        changed += r != p
    assert changed > 10_000
