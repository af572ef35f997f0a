"""Transforms along one axis: which sizes, which passes, which twiddles. Pure Python; kernels only read the tables."""

from __future__ import annotations

from cmath import exp, pi
from dataclasses import dataclass
from functools import cache

from fastconv.cpu.fft_codelets import TWIDDLES

#: Sizes with no other prime factors than 2, 3 and 5.
SMOOTH = tuple(n for n in range(1, 4097) if 30**12 % n == 0)


def radices(n: int) -> list[int]:
    """Radices of the passes of a transform of size n, forward order: as few passes as possible."""
    found = []
    for p in (5, 3):
        while n % p == 0:
            found.append(p)
            n //= p
    twos = n.bit_length() - 1
    if n != 1 << twos:
        raise ValueError(f"{n} has a prime factor other than 2, 3 and 5")
    # 8 = 2^3 most of the time; 2^(3k+1) ends in 4 4 rather than 8 2.
    if twos % 3 == 1 and twos > 1:
        eights, rest = (twos - 4) // 3, [4, 4]
    else:
        eights, rest = twos // 3, {0: [], 1: [2], 2: [4]}[twos % 3]
    return [8] * eights + rest + found


@dataclass(frozen=True, eq=False)
class AxisPlan:
    """A transform of `n` points; `passes` is forward passes, then backward passes, PASS integers each.

    A pass is radix, first twiddle in `constants`, outer count and step, inner count and step, leg, in points.

    roots : the point of the unit circle that each place of the transform is the value at, as (a, b): e^(2 pi i a/b).
    """

    n: int
    count: int
    passes: tuple[int, ...]
    constants: tuple[float, ...]
    roots: tuple[tuple[int, int], ...]


@cache
def axis_plan(n: int, quarters: int) -> AxisPlan:
    """Passes of the transform of polynomials modulo y^n - i^quarters."""
    steps = radices(n)
    passes: list[int] = []
    constants: list[float] = []

    def add(radix: int, angles: list[int], denominator: int, *shape: int) -> None:
        passes.extend((radix, len(constants), *shape))
        for angle in angles:
            for power, eighths in TWIDDLES[radix]:
                w = root(8 * power * angle + eighths * denominator, 8 * denominator)
                constants.extend((w.real, w.imag))

    # Block b is the ring modulo y^size - e^(2 pi i blocks[b] / parts): integers, so that angles are exact.
    blocks, parts, size = [quarters], 4, n
    for r in steps:
        m = size // r
        add(r, blocks, parts * r, len(blocks), size, m, 1, m)
        blocks = [z - s * parts for z in blocks for s in range(r)]
        parts, size = parts * r, m
    m = 1
    for r in reversed(steps):
        add(r, [-j for j in range(m)], r * m, m, 1, n // (r * m), r * m, m)
        m *= r
    return AxisPlan(n, len(steps), tuple(passes), tuple(constants), tuple((z, parts) for z in blocks))


def root(numerator: int, denominator: int) -> complex:
    """e^(2 pi i numerator / denominator)"""
    return exp(2j * pi * (numerator % denominator / denominator))
