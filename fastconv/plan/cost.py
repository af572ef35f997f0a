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
    call : seconds of each call that no thread shares: Python, tables, the first task.
    """

    efficiency: float
    transform: float
    call: float


RATES = {
    "fft": Rates(0.5, 0.1, 10e-6),
    "depthwise": Rates(0.3, 0.1, 3e-6),
    "direct": Rates(0.9, 0.03, 3e-6),
    "im2col": Rates(0.85, 0.03, 3e-6),
    "reference": Rates(0.01, 0.01, 3e-6),
}
UNKNOWN = Rates(0.5, 0.03, 5e-6)  # an algorithm nobody has fitted yet

#: Seconds to wake the other threads and wait for the last: a prange launch of 2 us, and their caches start cold.
LAUNCH = 5e-6


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
        moved = spec.input_bytes + spec.weight_bytes + spec.output_bytes
        return max(spec.flops / self.peak_flops(spec.dtype, threads), moved / self.bandwidth(threads))


def seconds(algorithm: str, cost: Cost, dtype: str, threads: int, machine: Machine) -> float:
    """Predicted time of one call with prepared weights.

        call + launch + max((flops / efficiency + transform / rate) / peak / speedup, bytes / bandwidth)

    Tasks are all alike, so `threads` threads finish after ceil(tasks / threads) of them: 3 tasks on 2 threads take
    as long as 4.
    """
    rates = RATES.get(algorithm, UNKNOWN)
    threads = max(1, min(threads, cost.tasks))
    speedup = cost.tasks / -(-cost.tasks // threads) if threads > 1 else 1.0
    work = (cost.flops / rates.efficiency + cost.transform / rates.transform) / machine.peak_flops(dtype)
    moving = cost.bytes / machine.bandwidth(threads)
    fixed = rates.call + (LAUNCH if threads > 1 else 0.0)
    return fixed + machine.scale.get(algorithm, 1.0) * max(work / speedup, moving)
