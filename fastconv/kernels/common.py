"""What every algorithm module shares: the cost it reports to the dispatcher."""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt

from fastconv.cpu import isa
from fastconv.spec import ConvSpec

# Blocked summation of K terms in chains of n errs by at most (n + K/n) u of the sum of magnitudes, and rigorously so
# (Higham 1993). Two kinds of data come near their own limits:
#   positive terms of many sizes    0.33 sqrt(n) u, four times that in the worst of many outputs: 15 u at n = 128
#   equal terms, a flat image area under a box filter: every rounding goes the same way, 0.44 (n + K/n) u as measured
# Networks see the first kind. One input channel per output may be an image filter, where n near sqrt(K) is best; the
# floor of 30 keeps the additions to C rare: 14 u at 9x9, 16 u at 15x15. (`depthwise` cuts its sums by kernel rows.)
LONGEST_CHAIN, SHORTEST_CHAIN = 128, 30


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def chain(spec: ConvSpec) -> int:
    """Longest run of terms that may be added up before the run is added to the total."""
    if spec.C > spec.groups:
        return LONGEST_CHAIN
    return min(max(2 * isqrt(spec.K), SHORTEST_CHAIN), LONGEST_CHAIN)


def channel_chain(spec: ConvSpec) -> tuple[int, int]:
    """(terms of a chain, channels it spans): whole channels, or a part of one channel's taps.

    Where the input is cut between chains, sums do not depend on how many channels a tile packs at a time.
    """
    taps = spec.K * spec.groups // spec.C
    channels = max(1, chain(spec) // taps)
    return min(chain(spec), channels * taps), channels


@dataclass(frozen=True)
class Cost:
    """Work of one convolution by one algorithm, the input of the cost model.

    flops : multiply-adds times two that the microkernel really executes, tile waste included.
    bytes : traffic to and from memory beyond the core's own caches.
    transform : flops and element moves outside the microkernel (packing, transforms, epilogue).
    tasks : independent tasks; more threads than tasks are useless.
    """

    flops: float
    bytes: float
    transform: float
    tasks: int

    @classmethod
    def of_cycles(cls, spec: ConvSpec, compute: float, other: float, moved: float, tasks: int, threads: int) -> Cost:
        """From the cycles of one core in the microkernel and outside, two vector multiply-adds each at peak."""
        per_cycle = 4.0 * isa.width(spec.dtype)
        return cls(per_cycle * compute, moved, per_cycle * other, tasks if threads > 1 else 1)

    @property
    def work(self) -> float:
        """All of it as operations, to compare the ways of one algorithm: a byte takes as long as four."""
        return self.flops + self.transform + 4.0 * self.bytes
