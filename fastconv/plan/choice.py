"""Asking every algorithm about a problem, and choosing among the answers."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from fastconv.plan import calibrate, candidates, cost, wisdom
from fastconv.plan.measure import Timing, measure
from fastconv.spec import ConvSpec

#: Strictest first. An algorithm of one class also serves every later one.
ACCURACIES = ("exact", "default", "fast")

#: An algorithm predicted to take this many times the best prediction is not worth timing,
HOPELESS = 30
#: unless it takes no longer than this many seconds.
SHORT = 0.05


@dataclass(frozen=True)
class Request:
    """What a plan was asked for.

    `algorithm` is "auto" or a name; `prepared` says that weights are prepared once for many calls, not in each.
    """

    spec: ConvSpec
    algorithm: str
    accuracy: str
    threads: int
    workspace_limit: int
    prepared: bool = True
    direction: str = "forward"


@dataclass(frozen=True, eq=False)
class Candidate:
    """An algorithm's answer: parameters and seconds, or the reason why it cannot take the problem."""

    module: Any
    params: Any = None
    predicted: float = math.inf
    measured: float | None = None
    reason: str | None = None

    @property
    def name(self) -> str:
        return self.module.NAME


def consider(request: Request, only: str | None = None) -> list[Candidate]:
    """Ask the algorithms of the table, or only the one named."""
    machine = calibrate.machine()
    known = wisdom.lookup(request.spec, request.threads, request.direction)
    modules = [module for module in candidates.table(request.direction) if only in (None, module.NAME)]
    return [_ask(module, request, machine, known.get(module.NAME)) for module in modules]


def _ask(module: Any, request: Request, machine: cost.Machine, known: wisdom.Measured | None) -> Candidate:
    spec, threads, limit = request.spec, request.threads, request.workspace_limit
    reason = module.refuses(spec)
    if reason is None and ACCURACIES.index(module.ACCURACY) > ACCURACIES.index(request.accuracy):
        reason = f"its accuracy class is {module.ACCURACY!r}, asked for was {request.accuracy!r}"
    if reason is not None:
        return Candidate(module, reason=reason)
    params = module.parameters(spec, threads, limit)
    if isinstance(params, str):
        return Candidate(module, reason=params)
    if known is not None and known.variant:
        params = variants(module, spec, threads, limit).get(known.variant, params)
    if not request.prepared and hasattr(module, "once"):
        params = module.once(spec, params, threads, limit)
    predicted = _seconds(module, request, params, machine)
    return Candidate(module, params, predicted, None if known is None else known.total(request.prepared))


def _seconds(module: Any, request: Request, params: Any, machine: cost.Machine) -> float:
    """Of a call, and of preparing the weights where each call does."""
    spec, threads = request.spec, request.threads
    name = cost.rates_name(module.NAME, request.direction)
    predicted = cost.seconds(name, module.cost(spec, params), spec, threads, machine)
    if not request.prepared and hasattr(module, "prepare_cost"):
        predicted += cost.seconds(module.NAME, module.prepare_cost(spec, params), spec, threads, machine)
    return predicted


def variants(module: Any, spec: ConvSpec, threads: int, limit: int) -> dict[str, Any]:
    """Other blockings that the algorithm offers for measuring, by name."""
    offered = getattr(module, "variants", None)
    return {} if offered is None else offered(spec, threads, limit)


def choose(found: list[Candidate]) -> Candidate | None:
    """The fastest of those that accept; None if all refuse."""
    correction = model_error(found)
    able = [c for c in found if c.reason is None]
    return min(able, key=lambda c: expected(c, correction), default=None)


def expected(candidate: Candidate, correction: float) -> float:
    """Measured seconds, or predicted ones made comparable with measured ones."""
    return candidate.predicted * correction if candidate.measured is None else candidate.measured


def model_error(found: list[Candidate]) -> float:
    """What the model is off by on this problem: for an algorithm that has no measurement to compete with others'."""
    return min((c.measured / c.predicted for c in found if c.measured is not None), default=1.0)


def time_all(request: Request, found: list[Candidate], budget: float = 1.0) -> dict[str, Timing]:
    """The candidates' times measured now, by name; those that refuse or are hopelessly slow are left out."""
    limit = max(SHORT, HOPELESS * min(c.predicted for c in found))
    timed = [c for c in found if c.reason is None and c.predicted <= limit]
    times = measure(request.spec, [(c.module, c.params) for c in timed], budget, request.direction)
    return {c.name: timing for c, timing in zip(timed, times, strict=True)}


def with_times(found: list[Candidate], times: dict[str, Timing], prepared: bool) -> list[Candidate]:
    """The candidates with these times for their own."""
    totals = {name: timing.run + (0.0 if prepared else timing.prepare) for name, timing in times.items()}
    return [replace(c, measured=totals.get(c.name)) for c in found]
