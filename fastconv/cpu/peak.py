"""The roof of this machine: multiply-adds and bytes per second that no kernel can exceed.

Measured once (`measure`, about a second), stored in the cache folder, estimated from the instruction set until then.
"""

from __future__ import annotations

import contextlib
import math
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numba.core import types
from numba.core.errors import TypingError
from numba.extending import intrinsic

from fastconv.cpu import isa, store, threads
from fastconv.cpu.caches import sysctl
from fastconv.cpu.jit import cache_folder, kernel
from fastconv.cpu.simd import I64, Emitter, claim, element_dtype, i64

DTYPES = ("float32", "float64", "int32", "int64")
FORM, SCHEMA = "fastconv roof", 1

# A fused multiply-add takes 4 or 5 cycles and two start per cycle: 10 independent ones keep every port busy.
# Three quarters of the registers (12 or 24) are more, and leave room for the two constants.
CHAINS = 3 * isa.registers() // 4
ROUNDS = 200_000  # about 1 ms

#: Bytes of each streamed array: far beyond any L2. An L3 larger than this holds it, as it holds most layers: what is
#: measured is the bandwidth beyond the core's own caches, not that of the memory chips.
STREAM_BYTES = 64 << 20


@intrinsic
def _multiply_adds(typingctx: Any, like: Any, rounds: Any) -> Any:
    """CHAINS independent chains of `rounds` multiply-adds in registers; returns their sum so that they happen."""
    dtype = element_dtype(like)
    if not isinstance(rounds, types.Integer):
        raise TypingError(f"rounds must be an integer, got {rounds}")

    def codegen(context: Any, b: Any, sig: Any, args: Any) -> Any:
        e = Emitter(b, dtype)
        # Converges to 2 in floating point: no denormals, no overflow. Integers wrap. No chain begins at 2, its fixed
        # point: it would be a constant, whose multiply-adds LLVM leaves out.
        factor, term = (e.constant(0.75), e.constant(0.5)) if e.is_float else (e.constant(3), e.constant(7))
        before = b.block
        loop, done = b.function.append_basic_block("loop"), b.function.append_basic_block("done")
        b.branch(loop)
        b.position_at_end(loop)
        i = b.phi(I64)
        chains = [b.phi(e.vector) for _ in range(CHAINS)]
        after = [e.fma(chain, factor, term) for chain in chains]
        step = b.add(i, i64(1))
        i.add_incoming(i64(0), before)
        i.add_incoming(step, loop)
        for n, (chain, value) in enumerate(zip(chains, after, strict=True)):
            chain.add_incoming(e.constant(3 + n), before)
            chain.add_incoming(value, loop)
        b.cbranch(b.icmp_signed("<", step, args[1]), loop, done)
        b.position_at_end(done)
        total = after[0]
        for value in after[1:]:
            total = e.add(total, value)
        return b.extract_element(total, i64(0))

    return like.dtype(like, types.int64), codegen


@kernel
def _compute(thread, counter, tasks, rounds, sums):
    while True:
        task = claim(counter)
        if task >= tasks:
            break
        sums[task] = _multiply_adds(sums, rounds[0])


@kernel
def _read(thread, counter, tasks, source, target):
    part = source.size // tasks
    while True:
        task = claim(counter)
        if task >= tasks:
            break
        total = 0
        for i in range(task * part, (task + 1) * part):
            total += source[i]
        target[task] = total


@kernel
def _copy(thread, counter, tasks, source, target):
    part = source.size // tasks
    while True:
        task = claim(counter)
        if task >= tasks:
            break
        for i in range(task * part, (task + 1) * part):
            target[i] = source[i] + 1  # plain stores: a bare copy becomes memcpy, which may bypass the caches


@kernel
def warm(thread, counter, tasks, done):
    """The least possible kernel: wakes the thread pool, and times a launch."""
    while True:
        task = claim(counter)
        if task >= tasks:
            break
        done[task] = 1


@dataclass(frozen=True)
class Roof:
    """What the machine can do at most.

    flops : per dtype, floating point (integer) operations per second of one core, two per multiply-add.
    flops_all : the same of all threads together.
    read, read_all : bytes per second read beyond the core's own caches, by one and by all threads.
    copy, copy_all : the same for read + write, both counted.
    threads : what "all" means.
    source : "default" (estimated), "measured".
    """

    flops: dict[str, float]
    flops_all: dict[str, float]
    read: float
    read_all: float
    copy: float
    copy_all: float
    threads: int
    source: str

    def peak(self, dtype: str, threads: int = 1) -> float:
        """Operations per second of `threads` threads."""
        one, most = self.flops[dtype], self.flops_all[dtype]
        return one if threads <= 1 else min(threads * one, max(one, most * min(threads / self.threads, 1)))

    def bandwidth(self, threads: int = 1) -> float:
        """Bytes per second of `threads` threads that read and write."""
        return self.copy if threads <= 1 else min(threads * self.copy, max(self.copy, self.copy_all))


def roof(measure: bool = False) -> Roof:
    """The roof of this machine.

    Parameters
    ----------
    measure : bool
        Measure and store it unless that was done before; otherwise what is stored, or an estimate. What is measured
        while other processes use the CPUs is not stored: the next process measures again.
    """
    current = _known()
    if measure and current.source != "measured":
        current, undisturbed = _measured()
        _keep(current)
        store.changed()
        if undisturbed:
            with contextlib.suppress(OSError):  # a full disk: measured again in the next process
                store.write(_path(), FORM, SCHEMA, {"key": _key(), **asdict(current)})
    return current


_roof: Roof | None = None  # None: not read yet


def _known() -> Roof:
    if _roof is not None:
        return _roof
    stored = store.read(_path(), FORM, SCHEMA) or {}
    return _keep(_parsed(stored) if stored.get("key") == _key() else estimate())


def _keep(roof: Roof) -> Roof:
    global _roof
    _roof = roof
    return roof


def forget() -> None:
    """Read the stored roof again at the next use."""
    global _roof
    _roof = None
    store.changed()


def _parsed(stored: dict[str, Any]) -> Roof:
    """The stored roof; the estimate if a hand has spoilt it."""
    try:
        rates = {name: float(stored[name]) for name in ("read", "read_all", "copy", "copy_all")}
        one, most = ({dtype: float(stored[name][dtype]) for dtype in DTYPES} for name in ("flops", "flops_all"))
        found = Roof(one, most, **rates, threads=int(stored["threads"]), source="measured")
    except (KeyError, TypeError, ValueError):
        return estimate()
    numbers = [*rates.values(), *one.values(), *most.values(), found.threads]
    return found if all(0 < number < math.inf for number in numbers) else estimate()


def _path() -> Path:
    return cache_folder() / "roof.json"


def _key() -> str:
    return f"{cpu_model()}, {isa.name()}, {numba.config.NUMBA_NUM_THREADS} threads, {CHAINS} chains"


@cache
def cpu_model() -> str:
    """The processor's name as the system gives it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file:  # the first core's lines are enough: with hundreds of cores the rest takes long
                label, _, value = line.partition(":")
                if label.strip() in ("model name", "Model") and value.strip():
                    return value.strip()
    except OSError:
        pass
    return sysctl("machdep.cpu.brand_string") or platform.processor() or platform.machine() or "unknown"


def estimate() -> Roof:
    """A roof from the instruction set and the nominal clock, for when nothing was measured."""
    # Vector instructions started per cycle: two everywhere, but AMD's first AVX-512 cores split them in halves; without
    # a fused multiply-add every second instruction is the addition.
    intel = "intel" in cpu_model().lower()
    ports = {"AVX-512": 2.0 if intel else 1.0, "AVX2+FMA": 2.0, "NEON": 2.0, "baseline": 1.0}[isa.name()]
    n = numba.config.NUMBA_NUM_THREADS
    flops = {dtype: 2 * ports * isa.width(dtype) * _clock() for dtype in DTYPES}
    # An integer multiply-add is two or three multiplying instructions and an addition.
    flops["int32"] /= 3
    flops["int64"] /= 3
    flops_all = {dtype: n * rate for dtype, rate in flops.items()}
    # One core draws about 10 GB/s from memory or a distant L3; a channel of DDR4 or DDR5 feeds two or three.
    return Roof(flops, flops_all, 10e9, 10e9 * min(n, 3), 10e9, 10e9 * min(n, 3), n, "default")


def _clock() -> float:
    """Nominal cycles per second: the greatest that the system admits, 3 GHz if it does not say."""
    try:
        return 1e3 * float(Path("/sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq").read_text())
    except (OSError, ValueError):
        return 3e9


#: Share of the CPUs' time that a measurement by all threads gets when nobody else wants them, launches included.
UNDISTURBED = 0.9


def _measured() -> tuple[Roof, bool]:
    """The roof, and whether the CPUs were ours all the time."""
    n = numba.config.NUMBA_NUM_THREADS
    _flops(DTYPES[0], n)  # compile and start the threads before the clocks run
    began, used = time.perf_counter(), time.process_time()
    _flops(DTYPES[0], n)
    share = (time.process_time() - used) / (time.perf_counter() - began) / n
    flops, flops_all = {}, {}
    for dtype in DTYPES:
        flops[dtype] = _flops(dtype, 1)
        flops_all[dtype] = max(_flops(dtype, n), flops[dtype]) if n > 1 else flops[dtype]
    source = np.ones(STREAM_BYTES // 8, np.int64)
    target = np.ones_like(source)
    rates = {}
    for name, function, streams in (("read", _read, 1), ("copy", _copy, 2)):
        for label, count in ((name, 1), (f"{name}_all", n)):
            seconds = _best(lambda f=function, c=count: threads.run(f, 8 * c, (source, target), c))  # type: ignore[misc]
            rates[label] = streams * STREAM_BYTES / seconds
        rates[f"{name}_all"] = max(rates[name], rates[f"{name}_all"])
    return Roof(flops=flops, flops_all=flops_all, threads=n, source="measured", **rates), share >= UNDISTURBED


def _flops(dtype: str, count: int) -> float:
    rounds, sums = np.array([ROUNDS]), np.zeros(8 * count, dtype)
    seconds = _best(lambda: threads.run(_compute, 8 * count, (rounds, sums), count))
    return 2 * isa.width(dtype) * CHAINS * ROUNDS * 8 * count / seconds


def _best(call: Callable[[], object], budget: float = 0.06) -> float:
    """Shortest of the runs that fit into the budget: a roof is what can be reached."""
    call()  # compile, wake the pool, touch the pages
    best, end = np.inf, time.perf_counter() + budget
    runs = 0
    while runs < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
        runs += 1
    return best
