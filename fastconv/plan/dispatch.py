"""From a problem to a plan: ask every algorithm, take the fastest.

Choosing is apart from running: a `Plan` holds everything its algorithm needs, and can say why it was chosen.
"""

from __future__ import annotations

import operator
import warnings
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from fastconv.cpu import store
from fastconv.cpu.threads import get_num_threads
from fastconv.kernels.epilogue import Epilogue
from fastconv.plan import candidates
from fastconv.plan.choice import ACCURACIES, Candidate, Request, choose, consider
from fastconv.plan.explain import Explanation, explain_request, size
from fastconv.spec import ConvSpec

#: Scratch memory a call may use unless `workspace_limit` says otherwise.
WORKSPACE_LIMIT = 256 << 20

#: Plans remembered. Each holds tables of some kilobytes; a stream of ever new shapes must not grow forever.
PLANS = 512

#: Falling to the reference is reported from here on: about 10 ms of plain loops.
LARGE = 10_000_000  # operations


@dataclass(frozen=True, eq=False)
class Plan:
    """How a problem will be computed.

    Attributes
    ----------
    spec : ConvSpec
        The problem.
    algorithm : str
        Name of the algorithm chosen.
    params : object
        Its blocking and tables.
    workspace : int
        Bytes of scratch memory that a call uses, all threads together.
    threads : int
        Threads that a call may use.
    predicted : float
        Seconds of a call with prepared weights, by the cost model.
    measured : float or None
        The same as `autotune` measured it on this machine.
    """

    spec: ConvSpec
    algorithm: str
    params: Any
    workspace: int
    threads: int
    predicted: float
    measured: float | None
    request: Request
    module: Any

    @property
    def direction(self) -> str:
        """What is computed: "forward", or the gradient of the "input" or of the "weight"."""
        return self.request.direction

    def prepare(self, weight: np.ndarray) -> np.ndarray:
        """The weights (contiguous, of the spec's dtype) in the form that `run` reads."""
        return self.module.prepare(self.spec, self.params, weight)

    def run(self, x: np.ndarray, packed: np.ndarray, out: np.ndarray, epilogue: Epilogue) -> None:
        """Compute: x and out are flat in the spec's memory order, `packed` comes from `prepare`.

        For an input gradient x and out are the gradients of the output and of the input.
        """
        self.module.run(self.spec, self.params, x, packed, out, epilogue)

    def explain(self, measure: bool = False) -> Explanation:
        """Why this algorithm was chosen; with `measure`, every algorithm is timed now."""
        return explain_request(self.request, measure)

    def __repr__(self) -> str:
        seconds, how = (self.predicted, "predicted") if self.measured is None else (self.measured, "measured")
        what = "" if self.direction == "forward" else f"{self.direction} gradient of "
        return (
            f"Plan({what}{self.spec}: {self.algorithm}, {self.threads} thread{'s' if self.threads > 1 else ''}, "
            f"workspace {size(self.workspace)}, {seconds * 1e3:.3g} ms {how})"
        )


def plan_spec(
    spec: ConvSpec,
    *,
    algorithm: str = "auto",
    accuracy: str = "default",
    threads: int | None = None,
    workspace_limit: int | None = None,
    prepared: bool = True,
    direction: str = "forward",
) -> Plan:
    """The plan for a problem, from the cache if it was asked for before.

    Parameters
    ----------
    spec : ConvSpec
        The problem; an empty batch is planned as a batch of one.
    algorithm : str
        "auto", or the name of the one algorithm to use.
    accuracy : {"default", "exact", "fast"}
        Which algorithms may compete: "exact" leaves out those whose rounding errors exceed a plain sum's or depend on
        distant values, "fast" lets in the loosest.
    threads : int, optional
        Threads that a call may use; as `set_num_threads` says by default.
    workspace_limit : int, optional
        Bytes of scratch memory that a call may use, 256 MiB by default.
    prepared : bool
        Whether weights are prepared once for many calls; if not, the time this takes counts in the choice.
    direction : {"forward", "input", "weight"}
        What to compute: the convolution, or the gradient of its input or of its weight.

    Raises
    ------
    ValueError, TypeError
        If an argument is not understood, or the algorithm asked for refuses the problem.
    """
    count = get_num_threads() if threads is None else threads
    # The edition makes plans stale when calibration or wisdom have changed.
    return _plan(spec, algorithm, accuracy, count, workspace_limit, prepared, direction, store.edition)


def clear() -> None:
    """Forget every plan."""
    _plan.cache_clear()


@lru_cache(maxsize=PLANS, typed=True)  # 1.0 must not find the plan of 1
def _plan(
    spec: ConvSpec,
    algorithm: str,
    accuracy: str,
    threads: int,
    workspace_limit: int | None,
    prepared: bool,
    direction: str,
    edition: int,
) -> Plan:
    request = _request(spec, algorithm, accuracy, threads, workspace_limit, prepared, direction)
    found = consider(request, only=None if algorithm == "auto" else algorithm)
    best = choose(found)
    if best is None:
        if algorithm != "auto":
            raise ValueError(f"algorithm={algorithm!r} cannot compute {spec}: {found[0].reason}")
        raise ValueError(f"no algorithm can compute {spec} ({_refusals(found)})")
    if best.name == "reference" and algorithm == "auto" and spec.flops >= LARGE:
        _warn_slow(spec, found)
    module, params = best.module, best.params
    return Plan(
        request.spec,
        best.name,
        params,
        params.workspace,
        params.threads,
        best.predicted,
        best.measured,
        request,
        module,
    )


def _refusals(found: list[Candidate]) -> str:
    return "; ".join(f"{c.name}: {c.reason}" for c in found if c.reason is not None)


def _request(
    spec: ConvSpec, algorithm: Any, accuracy: Any, threads: Any, limit: Any, prepared: bool, direction: str
) -> Request:
    """Arguments validated; the empty batch replaced, because no algorithm has to know about it."""
    if direction not in candidates.DIRECTIONS:
        raise ValueError(f"direction must be one of {', '.join(candidates.DIRECTIONS)}, got {direction!r}")
    names = candidates.names(direction)
    if algorithm not in ("auto", *names):
        raise ValueError(f"algorithm must be 'auto' or one of {', '.join(names)}, got {algorithm!r}")
    if accuracy not in ACCURACIES:
        raise ValueError(f"accuracy must be one of {', '.join(ACCURACIES)}, got {accuracy!r}")
    limit = WORKSPACE_LIMIT if limit is None else _integer("workspace_limit", limit, 0)
    if spec.N == 0:
        spec = replace(spec, N=1)
    return Request(spec, algorithm, accuracy, _integer("threads", threads, 1), limit, prepared, direction)


def _integer(name: str, value: Any, least: int) -> int:
    expected = f"an integer of at least {least}"
    if isinstance(value, bool):
        raise TypeError(f"{name} must be {expected}, got {value!r} (a bool)")
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be {expected}, got {value!r} ({type(value).__name__})") from None
    if number < least:
        raise ValueError(f"{name} must be {expected}, got {number}")
    return number


_warned = False


def _warn_slow(spec: ConvSpec, found: list[Candidate]) -> None:
    """Once in a process: a network of such layers needs one warning, not fifty."""
    global _warned
    if _warned:
        return
    _warned = True
    message = (
        f"fastconv computes {spec} by the slow reference algorithm, because the others refuse ({_refusals(found)}). "
        "This is said once; fastconv.explain tells it of every problem."
    )
    warnings.warn(message, RuntimeWarning, stacklevel=3)
