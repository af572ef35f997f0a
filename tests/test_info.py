"""What is said about the machine."""

from __future__ import annotations

import numba
import numpy as np
import pytest

from fastconv.cpu import caches, info, isa, peak
from fastconv.cpu.jit import cache_folder

ROWS = [
    "CPU", "cores", "instruction set", "vector width", "L1d cache per core", "L2 cache per core", "L3 cache share",
    "threads", "threading layer", "float32 FMA peak", "float64 FMA peak", "memory read", "memory read + write",
    "fastconv", "numba", "llvmlite", "numpy", "python", "system", "cache folder",
]  # fmt: skip


@pytest.fixture
def unmeasured(monkeypatch):
    monkeypatch.setattr(peak, "_known", lambda: peak.estimate())


@pytest.mark.usefixtures("unmeasured")
def test_every_row_is_there():
    rows = info.system_info()
    assert list(rows) == ROWS
    assert all(isinstance(value, str) and value for value in rows.values())
    assert rows["instruction set"] == isa.name()
    assert rows["numba"] == numba.__version__
    assert rows["numpy"] == np.__version__
    assert rows["cache folder"] == str(cache_folder())


@pytest.mark.usefixtures("unmeasured")
def test_estimates_are_called_estimates():
    rows = info.system_info()
    for label in ("float32 FMA peak", "float64 FMA peak", "memory read", "memory read + write"):
        assert rows[label].endswith("(estimate, not measured yet)")


def test_measured_numbers(monkeypatch):
    flops = {"float32": 117.04e9, "float64": 58.5e9}
    roof = peak.Roof(flops, {k: 2 * v for k, v in flops.items()}, 11e9, 21e9, 12e9, 22e9, 2, "measured")
    monkeypatch.setattr(peak, "roof", lambda measure=False: roof)
    monkeypatch.setattr(info.threads, "get_num_threads", lambda: 2)
    rows = info.system_info()
    assert rows["float32 FMA peak"] == "117.0 GFLOP/s a core, 234.1 with 2 threads"
    assert rows["memory read"] == "11.0 GB/s one thread, 21.0 GB/s all; 64 MiB array"


@pytest.mark.usefixtures("unmeasured")
def test_show_versions_prints_aligned(capsys):
    info.show_versions()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(ROWS)
    start = max(map(len, ROWS)) + 2
    for label, line in zip(ROWS, lines, strict=True):
        assert line[:start].rstrip() == label
        assert line[start] != " "


# ---- caches -------------------------------------------------------------------------------------------------------


def test_cache_sizes_are_plausible():
    l1, l2, l3 = caches.cache_sizes()
    assert 8 << 10 <= l1 <= 1 << 20
    assert l1 < l2 <= 64 << 20
    assert l3 >= 0


def write_cache(folder, index, **fields):
    (folder / f"index{index}").mkdir(parents=True)
    for name, value in fields.items():
        (folder / f"index{index}" / name).write_text(value + "\n")


def test_sysfs_shares_are_per_core(tmp_path):
    """Two hyperthreads a core, sixteen cores on one L3."""
    write_cache(tmp_path, 0, type="Data", level="1", size="32K", shared_cpu_list="0,16")
    write_cache(tmp_path, 1, type="Instruction", level="1", size="64K", shared_cpu_list="0,16")
    write_cache(tmp_path, 2, type="Unified", level="2", size="1M", shared_cpu_list="0,16")
    write_cache(tmp_path, 3, type="Unified", level="3", size="32768K", shared_cpu_list="0-31")
    assert caches._from_sysfs(tmp_path) == {1: 32 << 10, 2: 1 << 20, 3: 2 << 20}


def test_broken_sysfs_gives_what_is_left(tmp_path):
    assert caches._from_sysfs(tmp_path / "absent") == {}
    write_cache(tmp_path, 0, type="Data", level="one", size="32K", shared_cpu_list="0")
    write_cache(tmp_path, 1, type="Unified", level="2", size="2M")
    write_cache(tmp_path, 2, type="Unified", level="3", size="0", shared_cpu_list="0")
    assert caches._from_sysfs(tmp_path) == {}


def test_defaults_where_the_system_is_silent(tmp_path, monkeypatch):
    monkeypatch.setattr(caches, "_SYSFS", tmp_path / "absent")
    monkeypatch.setattr(caches.sys, "platform", "unknown")
    assert caches.cache_sizes.__wrapped__() == caches.DEFAULT


def test_sysctl_of_apple_silicon(monkeypatch):
    answers = {
        "hw.perflevel0.l1dcachesize": "131072",
        "hw.perflevel0.l2cachesize": "16777216",
        "hw.perflevel0.cpusperl2": "4",
    }
    monkeypatch.setattr(caches, "sysctl", lambda name: answers.get(name, ""))
    assert caches._from_sysctl() == {1: 128 << 10, 2: 4 << 20}
