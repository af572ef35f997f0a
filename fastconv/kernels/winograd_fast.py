"""Winograd convolution with larger tiles, such as F(6x6, 3x3), whose errors are a few times larger."""

from __future__ import annotations

from fastconv.kernels import winograd_plan
from fastconv.kernels.winograd import cost, prepare, prepare_cost, run
from fastconv.kernels.winograd import refuses as refuses_winograd
from fastconv.kernels.winograd_plan import Params
from fastconv.spec import ConvSpec

__all__ = [
    "ACCURACY",
    "ERROR_BOUND",
    "NAME",
    "NOTE",
    "cost",
    "once",
    "parameters",
    "prepare",
    "prepare_cost",
    "refuses",
    "run",
]

NAME = "winograd_fast"
ACCURACY = "fast"
ERROR_BOUND = 64.0
NOTE = "norm-wise: an output errs by at most 64 u ||w|| ||x|| of its tile, not of its own terms"


def refuses(spec: ConvSpec) -> str | None:
    reason = refuses_winograd(spec)
    if reason is None and all(winograd_plan.sizes(k, True) == winograd_plan.sizes(k, False) for k in spec.kernel):
        return "for this kernel winograd itself uses the largest tiles"
    return reason


def parameters(spec: ConvSpec, threads: int, limit: int) -> Params | str:
    return winograd_plan.parameters(spec, threads, limit, True)


def once(spec: ConvSpec, params: Params, threads: int, limit: int) -> Params:
    """For weights that are used once."""
    return winograd_plan.once(spec, params, threads, limit, True)
