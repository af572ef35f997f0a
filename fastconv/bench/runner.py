"""Times layers: all contestants in one process, taking turns, so that a busy machine disturbs them alike."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import repeat
from statistics import median
from typing import Any

import numpy as np

import fastconv
from fastconv.bench import directions
from fastconv.bench.peers import PAUSE, Peer
from fastconv.bench.shapes import Layer
from fastconv.cpu.peak import roof
from fastconv.plan import candidates
from fastconv.plan.candidates import CANDIDATES

Call = Callable[[], Any]
Maker = Callable[[], Call]

PREPARED, FUNCTIONAL = "fastconv", "fastconv-functional"
MODES = ("prepared", "functional", "both")
FAILED, DIFFERS = "failed", "differs"  # how the notes begin that a run must not end well with

SAMPLE_SECONDS = 200e-6  # shorter calls are repeated until the clock's own 50 ns no longer count
WARM_SECONDS = 10e-3  # longer calls fill the caches and wake their threads themselves
HOPELESS = 8  # a contestant this many times slower than the best is not sampled more often than it takes to know
MIN_ROUNDS = 3
REFERENCE_FLOPS = 5e7  # the reference algorithm is not run on larger layers

# Relative to the largest output. Half precision is off by more, any float32 algorithm by less.
TOLERANCE = {"float32": 1e-4, "float64": 1e-10}


@dataclass(frozen=True)
class Timing:
    """Seconds per call."""

    best: float
    median: float
    samples: int


@dataclass
class Result:
    """One layer at one number of threads: what ran, how long it took, and why others did not run.

    roof, bandwidth : multiply-add peak (operations/s) and memory bandwidth (bytes/s) measured for so many threads.
    workspace : bytes of scratch memory that each algorithm plans, timed or not.
    """

    layer: Layer
    threads: int
    dtype: str
    algorithm: str
    roof: float
    bandwidth: float
    direction: str = "forward"
    timings: dict[str, Timing] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    workspace: dict[str, int] = field(default_factory=dict)

    def seconds(self, *names: str) -> float | None:
        """The shortest time among the contestants named, None if none of them ran."""
        return min((self.timings[name].best for name in names if name in self.timings), default=None)

    def algorithms(self) -> dict[str, Timing]:
        """Every algorithm timed, the chosen one by the prepared contestant."""
        found = {name: self.timings[name] for name in algorithm_names() if name in self.timings}
        if self.ours in self.timings:
            found.setdefault(self.algorithm, self.timings[self.ours])
        return found

    @property
    def ours(self) -> str:
        """The contestant that runs the algorithm chosen: gradients have no prepared form."""
        return PREPARED if self.direction in ("forward", "transpose") else FUNCTIONAL

    @property
    def problems(self) -> dict[str, str]:
        """Notes on contestants that should have run and did not."""
        return {name: note for name, note in self.notes.items() if note.startswith((FAILED, DIFFERS))}

    @property
    def flops(self) -> int:
        """Operations of the direct method."""
        return self.layer.spec.flops * (2 if self.direction == "backward" else 1)

    @property
    def intensity(self) -> float:
        """Operations of the direct method for each byte of input, weight and output, all moved once."""
        spec = self.layer.spec
        elements = spec.moved_bytes // spec.itemsize
        return spec.flops / (elements * np.dtype(self.dtype).itemsize)

    def gflops(self, timing: Timing) -> float:
        """Speed counted as the direct method, whatever the algorithm really computes."""
        return self.flops / timing.best / 1e9

    def roof_percent(self, timing: Timing) -> float:
        return 100e9 * self.gflops(timing) / self.roof


def algorithm_names() -> tuple[str, ...]:
    """The algorithms of all directions, each name once."""
    return tuple(dict.fromkeys(name for direction in candidates.DIRECTIONS for name in candidates.names(direction)))


class Neighbours:
    """How much of the machine others used since this was made: the first thing to know about a surprising number."""

    def __init__(self) -> None:
        self.begin, self.busy, self.own = time.perf_counter(), self._busy(), time.process_time()

    @staticmethod
    def _busy() -> float | None:
        """Seconds that the cores of this machine were not idle, time stolen by other virtual machines included."""
        try:
            with open("/proc/stat", encoding="ascii") as file:
                user, nice, system, _, _, irq, softirq, steal = map(int, file.readline().split()[1:9])
        except (OSError, ValueError):
            return None
        return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")

    def cores(self) -> float | None:
        """Cores kept busy by others, on average; None where the system does not tell."""
        now = self._busy()
        if now is None or self.busy is None:
            return None
        others = (now - self.busy) - (time.process_time() - self.own)
        return max(0.0, others / (time.perf_counter() - self.begin))


@contextmanager
def no_collector() -> Iterator[None]:
    """Keep Python's garbage collector out of the timings."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def sample(call: Call, loops: int, warm: bool = True) -> float:
    """Mean seconds of `loops` calls; `warm` makes an untimed one first."""
    if warm:
        call()
    clock = time.perf_counter
    begin = clock()
    for _ in repeat(None, loops):
        call()
    return (clock() - begin) / loops


def interleave(
    calls: dict[str, Call],
    seconds: float,
    min_rounds: int = 7,
    pause: float = 0.0,
    first: dict[str, float] | None = None,
) -> dict[str, Timing]:
    """Time the calls in turns for about `seconds` in all, and at least `min_rounds` rounds.

    A round takes one sample of each call. Layers so long that `min_rounds` would take many times `seconds` get fewer
    rounds, but at least `MIN_ROUNDS`. Where `first`, the duration of calls already made, shows a contestant to be
    hopeless and longer than `seconds`, that is its only sample.
    """
    estimate: dict[str, float] = {}
    samples: dict[str, list[float]] = {name: [] for name in calls}
    with no_collector():
        for name, call in calls.items():
            once = (first or {}).get(name, 0.0)
            if once > seconds and once > HOPELESS * min(estimate.values(), default=once):
                samples[name].append(once)
            else:
                once = sample(call, 1, warm=False)
                if once < WARM_SECONDS:
                    once = min(once, *(sample(call, 1) for _ in range(2)))
            estimate[name] = once
        hopeless = HOPELESS * min(estimate.values())
        order = list(calls)
        begin = time.perf_counter()
        rounds = 0
        while True:
            for name in order:
                once, taken = estimate[name], len(samples[name])
                if once > hopeless and (taken >= MIN_ROUNDS or taken * once > seconds):
                    continue
                if pause:
                    time.sleep(pause)
                loops = max(1, round(SAMPLE_SECONDS / max(once, 1e-7) + 0.5))
                samples[name].append(sample(calls[name], loops, warm=once < WARM_SECONDS))
            order.append(order.pop(0))  # nobody always follows the same neighbour
            rounds += 1
            elapsed = time.perf_counter() - begin
            if rounds >= MIN_ROUNDS and elapsed >= (seconds if rounds >= min_rounds else 8 * seconds):
                break
    return {name: Timing(min(times), median(times), len(times)) for name, times in samples.items()}


def our_contestants(
    layer: Layer,
    plan: Any,
    data: tuple[np.ndarray, np.ndarray],
    mode: str,
    algorithms: Sequence[str],
    options: dict[str, Any],
) -> tuple[dict[str, Maker], dict[str, str]]:
    """How to make each of our own calls, and why some algorithms have none."""
    x, weight = data
    functional = (fastconv.conv1d, fastconv.conv2d, fastconv.conv3d)[layer.ndim - 1]

    def prepared(algorithm: str) -> Call:
        return partial(fastconv.prepare(weight, algorithm=algorithm, **options), x)

    makers: dict[str, Maker] = {}
    if mode != "functional":
        makers[PREPARED] = partial(prepared, "auto")
    if mode != "prepared":
        makers[FUNCTIONAL] = lambda: partial(functional, x, weight, **options)
    notes = {}
    for module in CANDIDATES:
        name = module.NAME
        if name not in algorithms and "all" not in algorithms:
            continue
        reason = module.refuses(plan.spec)
        if reason is None and name == "reference" and plan.spec.flops > REFERENCE_FLOPS:
            reason = "too large for the reference"
        if reason is not None:
            notes[name] = reason
        elif name != plan.algorithm or PREPARED not in makers:  # else the prepared contestant is the same call
            makers[name] = partial(prepared, name)
    return makers, notes


def our_gradients(
    layer: Layer,
    direction: str,
    data: tuple[np.ndarray, np.ndarray, np.ndarray],
    chosen: str,
    algorithms: Sequence[str],
    options: dict[str, Any],
) -> dict[str, Maker]:
    """The same for a gradient or a transposed convolution."""
    make = partial(directions.make_call, layer, direction, data)
    makers: dict[str, Maker] = {PREPARED if direction == "transpose" else FUNCTIONAL: partial(make, options)}
    for name in directions.algorithms(direction):
        small = name != "reference" or layer.spec.flops <= REFERENCE_FLOPS
        if name != chosen and small and (name in algorithms or "all" in algorithms):
            makers[name] = partial(make, options | {"algorithm": name})
    return makers


def planned_workspace(plans: Sequence[Any]) -> dict[str, int]:
    """Bytes of scratch memory by algorithm; of two plans, which run one after the other, the larger."""
    found: dict[str, int] = {}
    for plan in plans:
        for row in plan.explain().rows:
            if row.workspace is not None:
                found[row.algorithm] = max(found.get(row.algorithm, 0), row.workspace)
    if len(plans) > 1:
        found["+".join(plan.algorithm for plan in plans)] = max(plan.workspace for plan in plans)
    return found


def difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Largest difference relative to the largest output; infinite for another shape or a NaN."""
    if ours.shape != theirs.shape:
        return float("inf")
    off = float(np.abs(ours - theirs).max() / np.abs(ours).max())
    return off if off >= 0 else float("inf")


def time_layer(
    layer: Layer,
    peers: Sequence[Peer],
    *,
    threads: int,
    dtype: str = "float32",
    mode: str = "prepared",
    algorithms: Sequence[str] = (),
    accuracy: str = "default",
    seconds: float = 2.0,
    min_rounds: int = 7,
    direction: str = "forward",
) -> Result:
    """Check that all contestants compute the same, then time them.

    Must be called inside `contest`, which sets the number of threads.

    Parameters
    ----------
    layer : Layer
    peers : sequence of Peer
    threads : int
        Recorded in the result; the roof is that of so many cores.
    dtype : str
    mode : {"prepared", "functional", "both"}
        Our own contestants: weights prepared ahead, or passed with each call.
    algorithms : sequence of str
        Algorithms timed besides the one that the dispatcher chooses; ``"all"`` means all that accept the layer.
    accuracy : {"exact", "default", "fast"}
        Asked of the dispatcher.
    seconds, min_rounds
        See `interleave`.
    direction : str
        What to time, of `directions.DIRECTIONS`.
    """
    x, weight = layer.data(dtype)
    options = layer.options | {"accuracy": accuracy}
    forward = direction == "forward"
    data = (x, weight, x if forward else directions.gradient(layer, dtype))
    plans = directions.plans(layer, direction, dtype, accuracy) if not forward else [
        fastconv.plan(x.shape, weight.shape, dtype=dtype, **options)
    ]  # fmt: skip
    chosen = "+".join(plan.algorithm for plan in plans)
    machine = roof(measure=True)
    rates = machine.peak(dtype, threads), machine.bandwidth(threads)
    result = Result(layer, threads, dtype, chosen, *rates, direction, workspace=planned_workspace(plans))
    if forward:
        makers, result.notes = our_contestants(layer, plans[0], (x, weight), mode, algorithms, options)
    else:
        makers = our_gradients(layer, direction, data, chosen, algorithms, options)
    read: dict[str, Callable[[Any], np.ndarray]] = {}
    for peer in peers:
        reason = peer.refuses(layer, dtype) if forward else peer.refuses_gradients(layer, direction)
        if reason is None and forward:
            makers[peer.name], read[peer.name] = partial(peer.prepare, layer, x, weight), peer.numpy
        elif reason is None:
            extra = directions.output_padding(layer)
            makers[peer.name] = partial(peer.prepare_gradient, layer, direction, data, extra)
            read[peer.name] = peer.numpy
        else:
            result.notes[peer.name] = reason

    calls: dict[str, Call] = {}
    first: dict[str, float] = {}
    expected: np.ndarray | None = None
    for name, make in makers.items():
        try:
            call = make()
            begin = time.perf_counter()
            value = call()
            if name in read:  # the first call of ours may have compiled
                first[name] = time.perf_counter() - begin
            array = read.get(name, directions.as_array)(value)
        except Exception as error:  # another library may raise anything, and must not end a long run
            if expected is None:
                raise  # our own
            message = next(iter(str(error).strip().splitlines()), type(error).__name__)
            refused = name not in read and isinstance(error, ValueError)  # an algorithm that needs too much scratch
            result.notes[name] = message if refused else f"{FAILED}: {message}"
            continue
        if expected is None:
            expected = np.array(array)
        elif (off := difference(expected, array)) > TOLERANCE[dtype]:
            result.notes[name] = f"{DIFFERS}: off by {off:.1e} of the largest output"
            continue
        calls[name] = call
    result.timings = interleave(calls, seconds, min_rounds, PAUSE if threads > 1 else 0.0, first)
    return result


@contextmanager
def contest(peers: Sequence[Peer], threads: int) -> Iterator[None]:
    """Everybody uses `threads` threads inside; ours is restored afterwards."""
    before = fastconv.get_num_threads()
    fastconv.set_num_threads(threads)
    with ExitStack() as sessions:
        for peer in peers:
            peer.set_threads(threads)
            sessions.enter_context(peer.session())
        try:
            yield
        finally:
            fastconv.set_num_threads(before)
