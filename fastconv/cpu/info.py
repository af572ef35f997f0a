"""What this machine and installation are, for people and bug reports."""

from __future__ import annotations

import importlib.metadata
import os
import platform

import numba
import numpy as np

from fastconv.cpu import isa, peak, threads
from fastconv.cpu.caches import cache_sizes
from fastconv.cpu.jit import cache_folder


def system_info(measure: bool = False) -> dict[str, str]:
    """Describe the machine and the versions in use.

    Parameters
    ----------
    measure : bool
        Measure the multiply-add peak and the memory bandwidth if no earlier process did (about a second);
        otherwise rows that were never measured are marked as estimates.

    Returns
    -------
    dict of str to str
        Label and value, in reading order.
    """
    roof = peak.roof(measure)
    note = "" if roof.source == "measured" else " (estimate, not measured yet)"
    n = threads.get_num_threads()
    l1, l2, l3 = cache_sizes()
    where = f"{peak.STREAM_BYTES >> 20} MiB array{note}"
    return {
        "CPU": peak.cpu_model(),
        "cores": str(os.cpu_count() or "unknown"),
        "instruction set": isa.name(),
        "vector width": f"{isa.width('float32')} float32, {isa.width('float64')} float64, {isa.registers()} registers",
        "L1d cache per core": _size(l1),
        "L2 cache per core": _size(l2),
        "L3 cache share": f"{_size(l3)} per core",
        "threads": f"{n} of {numba.config.NUMBA_NUM_THREADS}",
        "threading layer": "fastconv's own crew, whichever numba uses",
        "float32 FMA peak": _peak(roof, "float32", n) + note,
        "float64 FMA peak": _peak(roof, "float64", n) + note,
        "memory read": f"{_rate(roof.read)} one thread, {_rate(roof.read_all)} all; {where}",
        "memory read + write": f"{_rate(roof.copy)} one thread, {_rate(roof.copy_all)} all; {where}",
        "fastconv": _version("fastconv"),
        "numba": _version("numba"),
        "llvmlite": _version("llvmlite"),
        "numpy": np.__version__,
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        "system": platform.platform(),
        "cache folder": str(cache_folder()),
    }


def show_versions() -> None:
    """Print what a bug report should say about the machine and the installed versions."""
    rows = system_info()
    width = max(map(len, rows))
    for label, value in rows.items():
        print(f"{label:<{width}}  {value}")


def _peak(roof: peak.Roof, dtype: str, n: int) -> str:
    return f"{roof.peak(dtype) / 1e9:.1f} GFLOP/s a core, {roof.peak(dtype, n) / 1e9:.1f} with {n} threads"


def _size(count: int) -> str:
    if count == 0:
        return "none"
    return f"{count / 2**20:.4g} MiB" if count >= 2**20 else f"{count / 2**10:.4g} KiB"


def _rate(value: float) -> str:
    return f"{value / 1e9:.1f} GB/s"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed (source tree)"
