"""What a call costs besides arithmetic, and what the first call of a process costs."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import fastconv
from fastconv.bench.peers import Peer
from fastconv.bench.report import text_table
from fastconv.bench.runner import Timing, interleave
from fastconv.bench.shapes import Layer

TINY = Layer("overhead", "tiny", 1, 3, (8, 8), 4, (3, 3), (1, 1), (1, 1), (1, 1), 1)

# First calls that lead to different kernels.
FIRST_CALLS = {
    "3x3 on 1x3x8x8": "conv2d(ones(1, 3, 8, 8), ones(4, 3, 3, 3), padding=1)",
    "3x3 on 1x64x56x56": "conv2d(ones(1, 64, 56, 56), ones(64, 64, 3, 3), padding=1)",
    "depthwise 3x3 on 1x96x56x56": "conv2d(ones(1, 96, 56, 56), ones(96, 1, 3, 3), padding=1, groups=96)",
    "31x31 on 1x1x1024x1024": "conv2d(ones(1, 1, 1024, 1024), ones(1, 1, 31, 31), padding=15)",
}
SCRIPT = """
from time import perf_counter
begin = perf_counter()
{imports}
imported = perf_counter()
{call}
print(imported - begin, perf_counter() - imported)
"""
OURS = "import numpy as np\nfrom fastconv import conv2d\ndef ones(*shape): return np.ones(shape, np.float32)"
TORCH = "from torch import ones\nfrom torch.nn.functional import conv2d"


def call_overhead(peers: Sequence[Peer], seconds: float = 1.0) -> dict[str, Timing]:
    """Timings of a layer so small that nearly all of its time is overhead."""
    x, weight = TINY.data()
    calls: dict[str, Callable[[], Any]] = {
        "fastconv.conv2d": partial(fastconv.conv2d, x, weight, **TINY.options),
        "fastconv.prepare(...)(x)": partial(fastconv.prepare(weight, **TINY.options), x),
    }
    calls |= {peer.name: peer.prepare(TINY, x, weight) for peer in peers if peer.refuses(TINY, "float32") is None}
    for call in calls.values():
        call()  # compiles
    return interleave(calls, seconds)


def first_call(imports: str, call: str, cache: str | None = None) -> tuple[float, float]:
    """Seconds that a new process takes to import and to make its first call."""
    environment = dict(os.environ)
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package has its bytecode
    if cache is not None:
        environment["FASTCONV_CACHE_DIR"] = environment["NUMBA_CACHE_DIR"] = cache
    script = SCRIPT.format(imports=imports, call=call)
    run = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    imported, called = map(float, run.stdout.split())
    return imported, called


def startup_rows(with_torch: bool, repeats: int = 3) -> list[tuple[str, float | None, float, float]]:
    """(what, cold seconds, warm import seconds, warm call seconds); torch compiles nothing and has no cold time."""
    rows: list[tuple[str, float | None, float, float]] = []
    for name, call in FIRST_CALLS.items():
        with tempfile.TemporaryDirectory(prefix="fastconv-cold-") as cache:
            cold = sum(first_call(OURS, call, cache))
            warm = min((first_call(OURS, call, cache) for _ in range(repeats)), key=sum)
        rows.append((f"fastconv, {name}", cold, *warm))
    if with_torch:
        name, call = next(iter(FIRST_CALLS.items()))
        rows.append((f"torch, {name}", None, *min((first_call(TORCH, call) for _ in range(repeats)), key=sum)))
    return rows


def overhead_report(peers: Sequence[Peer]) -> str:
    """Both measurements as text."""
    calls = [[name, f"{1e6 * t.best:.2f}", f"{1e6 * t.median:.2f}"] for name, t in call_overhead(peers).items()]
    starts = [
        [what, "-" if cold is None else f"{cold:.2f}", f"{imported:.2f}", f"{called:.2f}", f"{imported + called:.2f}"]
        for what, cold, imported, called in startup_rows(any(peer.name == "torch" for peer in peers))
    ]
    return "\n\n".join(
        (
            f"## one call of {TINY.spec}, microseconds",
            text_table(["call", "best", "median"], calls),
            "## a new process: import and first call, seconds",
            text_table(["first call", "cold cache", "warm: import", "call", "both"], starts),
        )
    )
