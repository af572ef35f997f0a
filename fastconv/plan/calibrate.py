"""The cost model's constants for this machine: measured on request, stored, never on the way of a first call.

`machine()` answers at once, from the stored file or with estimates. `calibrate()` measures: peak and bandwidth, and
each algorithm on a few layers, about a second each when its kernels are compiled.
"""

from __future__ import annotations

import contextlib
import math
import zlib
from pathlib import Path
from typing import Any

import numba

from fastconv.cpu import isa, peak, store
from fastconv.cpu.jit import cache_folder
from fastconv.plan import cost
from fastconv.plan.candidates import CANDIDATES
from fastconv.plan.cost import Machine
from fastconv.plan.measure import measure as measure_runs
from fastconv.spec import ConvSpec

FORM, SCHEMA = "fastconv calibration", 1
SPREAD = 4.0  # a scale beyond this is a disturbed measurement, not a machine
LIMIT = 256 << 20

#: Layers that every algorithm is timed on if it takes them: (x, weight, options). About 5 to 500 MFLOP, square, thin,
#: pointwise, depthwise, large kernel.
LAYERS: tuple[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]], ...] = (
    ((1, 64, 28, 28), (64, 64, 3, 3), {"padding": 1}),
    ((1, 256, 14, 14), (128, 256, 1, 1), {}),
    ((1, 64, 56, 56), (64, 1, 3, 3), {"padding": 1, "groups": 64}),
    ((1, 1, 512, 512), (1, 1, 15, 15), {"padding": 7}),
)  # fmt: skip
COMMON = "direct"  # takes them all
SLOWEST = 0.05  # seconds: a candidate that is predicted to take longer on a layer is at home elsewhere


def machine(measure: bool = False) -> Machine:
    """The machine's constants.

    Parameters
    ----------
    measure : bool
        Calibrate unless it was done before; otherwise what is stored, or estimates.
    """
    scale, source = _known()
    if measure and source == "default":
        return calibrate()
    return Machine(peak.roof(), scale, source)


def calibrate() -> Machine:
    """Measure this machine, store the result in the cache folder and use it from the next plan on.

    Returns
    -------
    Machine
        The constants measured.
    """
    roof = peak.roof(measure=True)
    found: dict[str, list[float]] = {}
    for x_shape, weight_shape, options in LAYERS:
        ratios = _ratios(ConvSpec.make(x_shape, weight_shape, **options), Machine(roof))
        if COMMON not in ratios:
            continue
        # A machine may be slower on one layer than on the next, as its neighbours are busy: algorithms are compared on
        # the same layer, in turns.
        for name, ratio in ratios.items():
            found.setdefault(name, []).append(ratio if name == COMMON else ratio / ratios[COMMON])
    scale = {name: math.exp(math.fsum(map(math.log, ratios)) / len(ratios)) for name, ratios in found.items()}
    scale = {name: value if name == COMMON else value * scale[COMMON] for name, value in scale.items()}
    scale = {name: min(max(value, 1 / SPREAD), SPREAD) for name, value in scale.items()}
    scale = {name: round(value, 4) for name, value in scale.items()}
    _keep(scale, "measured")
    store.changed()
    with contextlib.suppress(OSError):  # a full disk: measured again in the next process
        store.write(_path(), FORM, SCHEMA, {"key": _key(), "scale": scale})
    return Machine(roof, scale, "measured")


#: Scales in use and where they come from; None: not read yet.
_scale: tuple[dict[str, float], str] | None = None


def forget() -> None:
    """Read the stored constants again at the next use."""
    global _scale
    _scale = None
    store.changed()


def _ratios(spec: ConvSpec, bare: Machine) -> dict[str, float]:
    """Measured over predicted time of each algorithm on one thread."""
    runners, predictions = [], []
    for module in CANDIDATES:
        if module.NAME == "reference" or module.refuses(spec) is not None:
            continue  # nobody chooses the reference for its speed
        params = module.parameters(spec, 1, LIMIT)
        if isinstance(params, str):
            continue
        predicted = cost.seconds(module.NAME, module.cost(spec, params), spec, 1, bare)
        if predicted <= SLOWEST:
            runners.append((module, params))
            predictions.append(predicted)
    times = measure_runs(spec, runners, budget=0.05 * len(runners)) if runners else []
    return {m.NAME: t.run / p for (m, _), t, p in zip(runners, times, predictions, strict=True)}


def _known() -> tuple[dict[str, float], str]:
    if _scale is not None:
        return _scale
    stored = store.read(_path(), FORM, SCHEMA) or {}
    scale = stored.get("scale")
    good = isinstance(scale, dict) and all(isinstance(v, float) and 0 < v < math.inf for v in scale.values())
    if stored.get("key") == _key() and isinstance(scale, dict) and good:
        return _keep(scale, str(_path()))
    return _keep({}, "default")


def _keep(scale: dict[str, float], source: str) -> tuple[dict[str, float], str]:
    global _scale
    _scale = scale, source
    return _scale


def _path() -> Path:
    return cache_folder() / "calibration.json"


def _key() -> str:
    # A scale corrects certain rates: when an algorithm is fitted anew, so is its scale.
    rates = zlib.crc32(repr(cost.RATES).encode())
    return f"{peak.cpu_model()}, {isa.name()}, {numba.config.NUMBA_NUM_THREADS} threads, rates {rates:08x}"
