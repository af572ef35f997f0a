"""Seconds that an algorithm will take, from the work it reports and what this machine can do."""

from __future__ import annotations

from dataclasses import dataclass, field

from fastconv.cpu.peak import Roof
from fastconv.kernels.common import Cost
from fastconv.spec import ConvSpec


@dataclass(frozen=True)
class Rates:
    """How well an algorithm uses the machine.

    efficiency : share of the multiply-add peak that its inner loop reaches.
    transform : packing and transform work per second, as a share of the same peak.
    memory : seconds for each second that its bytes take at the measured bandwidth; below 1 where the memory works
        while the core computes, and where a layer's arrays stay in L2.
    call : seconds of each call that no thread shares: Python, tables, the first task.
    plane : seconds for each image and group: the start of every loop below.
    """

    efficiency: float
    transform: float
    memory: float
    call: float
    plane: float


# Fitted to the times of every accepting algorithm on 190 layers of networks, images and signals (the benchmark's
# speed suite), one thread, AVX-512 at 177 GFLOP/s a core: least squares of the logarithm of predicted / measured time,
# layers weighted by how close the algorithm comes to the best there. What remains (root mean square of the logarithm)
# is 0.11 for direct and 0.18 for winograd, which report the cycles of their own estimates, 0.25 for depthwise, 0.29 for
# fft, 0.33 for im2col. The algorithm so chosen takes 1.03 times as long as the fastest (geometric mean).
# An algorithm may count `transform` in any unit: its rate follows.
RATES = {
    "fft": Rates(efficiency=0.31, transform=0.079, memory=0.30, call=3.8e-6, plane=67e-9),
    "winograd_fast": Rates(efficiency=1.04, transform=1.25, memory=0.40, call=4e-6, plane=1e-6),
    "winograd": Rates(efficiency=1.04, transform=1.25, memory=0.40, call=4e-6, plane=1e-6),
    "depthwise": Rates(efficiency=0.8, transform=0.027, memory=0.56, call=1.9e-6, plane=0.0),
    "direct": Rates(efficiency=0.91, transform=0.79, memory=0.24, call=1.2e-6, plane=41e-9),
    "im2col": Rates(efficiency=0.7, transform=0.027, memory=0.55, call=3.8e-6, plane=2e-6),
    "depthwise-strided": Rates(efficiency=1.04, transform=0.03, memory=0.0, call=3e-6, plane=150e-9),
    "reference": Rates(efficiency=0.0047, transform=0.01, memory=0.0, call=3e-6, plane=0.0),
    "weight direct": Rates(efficiency=0.91, transform=0.79, memory=0.24, call=4e-6, plane=0.0),
    "weight dots": Rates(efficiency=0.83, transform=0.83, memory=0.60, call=4e-6, plane=0.0),
}
# The weight gradient's algorithms stand under "weight <name>"; those of the input gradient are the forward pass's.
UNKNOWN = Rates(0.5, 0.03, 0.5, 5e-6, 0.5e-6)  # an algorithm nobody has fitted yet

#: Seconds that a call on several threads takes longer than its share of the work: 1 us measured, and caches start cold.
LAUNCH = 2e-6


def rates_name(algorithm: str, direction: str) -> str:
    """The key of `RATES` for an algorithm in a direction."""
    key = f"weight {algorithm}"
    return key if direction == "weight" and key in RATES else algorithm


@dataclass(frozen=True)
class Machine:
    """The machine as the cost model sees it.

    roof : peak and bandwidth.
    scale : per algorithm, measured time over the model's time on a few layers; 1 where nobody has measured.
    source : "default" (nothing measured), "measured" or the file that an earlier measurement came from.
    """

    roof: Roof
    scale: dict[str, float] = field(default_factory=dict)
    source: str = "default"

    def peak_flops(self, dtype: str, threads: int = 1) -> float:
        """Operations per second of `threads` threads."""
        return self.roof.peak(dtype, threads)

    def bandwidth(self, threads: int = 1) -> float:
        """Bytes per second beyond the cores' own caches."""
        return self.roof.bandwidth(threads)

    def roof_seconds(self, spec: ConvSpec, threads: int = 1) -> float:
        """Time that no direct method can beat: all multiply-adds at peak, or every array moved once."""
        return max(spec.flops / self.peak_flops(spec.dtype, threads), spec.moved_bytes / self.bandwidth(threads))


def seconds(algorithm: str, cost: Cost, spec: ConvSpec, threads: int, machine: Machine) -> float:
    """Predicted time of one call.

        call + launch + (flops / efficiency + transform / rate) / peak / speedup + planes / speedup + bytes / bandwidth

    Tasks are all alike, so `threads` threads finish after ceil(tasks / threads) of them: 3 tasks on 2 threads take
    as long as 4.
    """
    rates = RATES.get(algorithm, UNKNOWN)
    threads = max(1, min(threads, cost.tasks))
    speedup = cost.tasks / -(-cost.tasks // threads)
    work = (cost.flops / rates.efficiency + cost.transform / rates.transform) / machine.peak_flops(spec.dtype)
    work += rates.plane * spec.N * spec.groups
    moving = rates.memory * cost.bytes / machine.bandwidth(threads)
    launch = LAUNCH if threads > 1 else 0.0
    return rates.call + launch + machine.scale.get(algorithm, 1.0) * (work / speedup + moving)
