"""Measure instead of predicting, and remember the result."""

from __future__ import annotations

from fastconv.plan import wisdom
from fastconv.plan.choice import Candidate, Request, consider, time_all, variants
from fastconv.plan.dispatch import Plan, plan_spec
from fastconv.plan.measure import Timing, measure
from fastconv.spec import ConvSpec


def autotune_spec(
    spec: ConvSpec,
    *,
    algorithm: str = "auto",
    accuracy: str = "default",
    threads: int | None = None,
    workspace_limit: int | None = None,
    seconds: float = 1.0,
    direction: str = "forward",
) -> Plan:
    """Time the algorithms that accept a problem and write the times to the wisdom file.

    Later plans of the problem with as many threads use them, whatever accuracy they ask for.

    Parameters
    ----------
    spec : ConvSpec
        The problem.
    algorithm, accuracy, threads, workspace_limit, direction
        As for `plan_spec`; only algorithms that these allow are timed.
    seconds : float
        Time to spend, compilation not counted. Each algorithm is run at least three times; those predicted to be
        hopelessly slow are left out.

    Returns
    -------
    Plan
        The plan that the problem has from now on; its `explain` shows the times.
    """

    def plan() -> Plan:
        return plan_spec(
            spec, algorithm=algorithm, accuracy=accuracy, threads=threads, workspace_limit=workspace_limit,
            direction=direction,
        )  # fmt: skip

    request = plan().request
    found = consider(request, only=None if algorithm == "auto" else algorithm)
    times = time_all(request, found, seconds)
    learned = {}
    for candidate in found:
        if candidate.name in times:
            learned[candidate.name] = _best_variant(request, candidate, times[candidate.name], seconds / len(times))
    wisdom.remember(request.spec, request.threads, learned, direction)
    return plan()


def _best_variant(request: Request, candidate: Candidate, usual: Timing, budget: float) -> wisdom.Measured:
    """The candidate against the other blockings of its algorithm, if it has any."""
    others = variants(candidate.module, request.spec, request.threads, request.workspace_limit)
    if not others:
        return wisdom.Measured(*usual)
    contenders = {"": candidate.params} | others
    times = measure(
        request.spec, [(candidate.module, params) for params in contenders.values()], budget, request.direction
    )
    timing, name = min(zip(times, contenders, strict=True))
    return wisdom.Measured(*timing, name)
