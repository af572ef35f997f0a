"""Measured times, remembered: a readable JSON file that overrules the cost model.

    {"format": "fastconv wisdom", "schema": 1,
     "machines": {"Intel(R) Xeon(R) Processor, AVX-512": {"2 threads": {
         "1x64x56x56 * 64x64x3x3 pad 1 float32": {
             "direct": {"ms": 0.68, "prepare_ms": 0.0}, "im2col": {"ms": 0.91, "prepare_ms": 0.02}}}}}}

`FASTCONV_WISDOM` names another file, or is ``off`` to use none. Entries of other machines in the same file are kept
and never used here.
"""

from __future__ import annotations

import math
import os
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from fastconv.cpu import isa, peak, store
from fastconv.cpu.jit import cache_folder
from fastconv.spec import ConvSpec

FORM, SCHEMA = "fastconv wisdom", 1

#: machine -> threads -> problem -> algorithm -> {"ms": ..., "variant": ...}
Machines = dict[str, Any]

_known: Machines | None = None  # None: not read yet


@dataclass(frozen=True)
class Measured:
    """What one algorithm took on a problem.

    seconds : of a call with prepared weights.
    prepare : seconds of preparing them.
    variant : the blocking that was fastest, "" for the usual one.
    """

    seconds: float
    prepare: float = 0.0
    variant: str = ""

    def total(self, prepared: bool) -> float:
        """Seconds of a call, preparation counted unless that was done before."""
        return self.seconds if prepared else self.seconds + self.prepare


def path() -> Path | None:
    """The wisdom file, or None where the environment variable turns wisdom off."""
    asked = os.environ.get("FASTCONV_WISDOM")
    if asked is None:
        return cache_folder() / "wisdom.json"
    return None if asked.strip().lower() in ("", "0", "off", "none") else Path(asked).expanduser()


def lookup(spec: ConvSpec, threads: int, direction: str = "forward") -> dict[str, Measured]:
    """What is known of a problem on this machine with this many threads: algorithm -> measurement."""
    entry = _loaded().get(machine_name(), {}).get(_threads(threads), {}).get(_problem(spec, direction), {})
    return {
        name: Measured(item["ms"] * 1e-3, item.get("prepare_ms", 0.0) * 1e-3, item.get("variant", ""))
        for name, item in entry.items()
    }


def remember(spec: ConvSpec, threads: int, times: dict[str, Measured], direction: str = "forward") -> None:
    """Add or replace the measurements of a problem, in memory and in the file."""
    entry: dict[str, dict[str, Any]] = {}
    for name, time in times.items():
        entry[name] = {"ms": _ms(time.seconds), "prepare_ms": _ms(time.prepare)}
        if time.variant:
            entry[name]["variant"] = time.variant
    _add({machine_name(): {_threads(threads): {_problem(spec, direction): entry}}})


def _problem(spec: ConvSpec, direction: str) -> str:
    return str(spec) if direction == "forward" else f"{direction} gradient of {spec}"


def _ms(seconds: float) -> float:
    return float(f"{seconds * 1e3:.4g}")


def export_wisdom(target: str | os.PathLike[str]) -> int:
    """Write everything known to a file, for another installation on the same kind of machine.

    Parameters
    ----------
    target : path
        File to write; it is replaced.

    Returns
    -------
    int
        Number of problems written.
    """
    machines = _loaded()
    store.write(Path(target), FORM, SCHEMA, {"machines": machines})
    return _count(machines)


def import_wisdom(source: str | os.PathLike[str]) -> int:
    """Add the measurements of a file that `export_wisdom` wrote; they replace older ones of the same problems.

    Parameters
    ----------
    source : path
        File to read.

    Returns
    -------
    int
        Number of problems read.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no wisdom file.
    """
    machines = _checked(store.load(Path(source), FORM, SCHEMA))
    _add(machines)
    return _count(machines)


def forget() -> None:
    """Drop what is in memory; the file is read again at the next use."""
    global _known
    _known = None
    store.changed()


@cache
def machine_name() -> str:
    """What the measurements of this machine are filed under."""
    return f"{peak.cpu_model()}, {isa.name()}"


def _threads(threads: int) -> str:
    return f"{threads} thread{'s' if threads > 1 else ''}"


def _loaded() -> Machines:
    global _known
    if _known is None:
        file = path()
        _known = {} if file is None else _checked(store.read(file, FORM, SCHEMA))
    return _known


def _checked(content: dict[str, Any] | None) -> Machines:
    """Only well-formed entries: a hand-edited line must not break a convolution."""
    good: Machines = {}
    for machine, by_threads in _items((content or {}).get("machines")):
        for threads, problems in _items(by_threads):
            for problem, entry in _items(problems):
                times = {name: item for name, item in _items(entry) if _is_time(item)}
                if times:
                    good.setdefault(machine, {}).setdefault(threads, {})[problem] = times
    return good


def _items(value: Any) -> list[tuple[str, Any]]:
    return list(value.items()) if isinstance(value, dict) else []


def _is_time(item: Any) -> bool:
    if not isinstance(item, dict) or not isinstance(item.get("variant", ""), str):
        return False
    ms, prepare_ms = item.get("ms"), item.get("prepare_ms", 0.0)
    numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in (ms, prepare_ms))
    return numbers and 0 < ms < math.inf and 0 <= prepare_ms < math.inf  # type: ignore[operator]


def _add(new: Machines) -> None:
    global _known
    _known = _merged(_loaded(), new)
    file = path()
    if file is not None:
        try:
            with store.locked(file):
                # Another process may have written since this one read: its entries stay.
                _known = _merged(_merged(_known, _checked(store.read(file, FORM, SCHEMA))), new)
                store.set_aside(file, FORM, SCHEMA)
                store.write(file, FORM, SCHEMA, {"machines": _known})
        except OSError as error:
            warnings.warn(f"fastconv cannot write {file} ({error}); its wisdom ends with this process.",
                          RuntimeWarning, stacklevel=3)  # fmt: skip
    store.changed()


def _merged(old: Machines, new: Machines) -> Machines:
    """A copy of `old` with the measurements of `new`; algorithms that `new` did not measure keep their times."""
    result = {m: {t: dict(problems) for t, problems in by_threads.items()} for m, by_threads in old.items()}
    for machine, by_threads in new.items():
        for threads, problems in by_threads.items():
            known = result.setdefault(machine, {}).setdefault(threads, {})
            for problem, entry in problems.items():
                known[problem] = known.get(problem, {}) | entry
    return result


def _count(machines: Machines) -> int:
    return sum(len(problems) for by_threads in machines.values() for problems in by_threads.values())
