"""What every algorithm module shares: the cost it reports to the dispatcher."""

from __future__ import annotations

from dataclasses import dataclass


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
