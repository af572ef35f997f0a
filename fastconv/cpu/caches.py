"""Cache sizes, from which kernels derive their blocking. Imports nothing heavy."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path

#: (L1d, L2, L3) bytes per core where the system tells nothing: what every server and laptop core since about 2017 has.
DEFAULT = (32 << 10, 512 << 10, 1 << 20)

_SYSFS = Path("/sys/devices/system/cpu/cpu0/cache")
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


@cache
def cache_sizes() -> tuple[int, int, int]:
    """(L1d, L2, L3) in bytes per core; a cache shared by several cores counts as its share.

    A level that does not exist is 0 only for L3; unknown levels are the defaults above. A virtual machine may report
    an L3 of which other machines use the most: do not rely on it.
    """
    found = _from_sysfs(_SYSFS)
    if not found and sys.platform == "darwin":
        found = _from_sysctl()
    l1, l2, l3 = DEFAULT
    return found.get(1, l1), found.get(2, l2), found.get(3, 0 if 2 in found else l3)


def _from_sysfs(folder: Path) -> dict[int, int]:
    """Level -> bytes per core from Linux's sysfs; empty where there is none."""
    levels: dict[int, tuple[int, int]] = {}  # level -> (bytes, logical CPUs that share it)
    for index in sorted(folder.glob("index*")):
        try:
            if (index / "type").read_text().strip() not in ("Data", "Unified"):
                continue
            level, size = int((index / "level").read_text()), _bytes((index / "size").read_text().strip())
            shared = _listed((index / "shared_cpu_list").read_text())
        except (OSError, ValueError):
            continue
        if size > 0:
            levels[level] = size, shared
    # The logical CPUs that share an L1 are the hyperthreads of one core.
    hyperthreads = levels.get(1, (0, 1))[1]
    return {level: size // max(shared // hyperthreads, 1) for level, (size, shared) in levels.items()}


def _from_sysctl() -> dict[int, int]:
    """The same from macOS; on Apple silicon the performance cores' caches."""
    found = {}
    for level, name in ((1, "l1dcachesize"), (2, "l2cachesize"), (3, "l3cachesize")):
        for prefix in ("hw.perflevel0.", "hw."):
            value = sysctl(prefix + name)
            if value.isdecimal() and int(value) > 0:
                found[level] = int(value)
                break
    cores = sysctl("hw.perflevel0.cpusperl2")
    if 2 in found and cores.isdecimal() and int(cores) > 0:
        found[2] //= int(cores)
    return found


def sysctl(name: str) -> str:
    """One value of macOS's `sysctl`, or an empty string."""
    try:
        done = subprocess.run(["/usr/sbin/sysctl", "-n", name], capture_output=True, text=True, timeout=2, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _bytes(text: str) -> int:
    return int(text[:-1]) * _UNITS[text[-1]] if text[-1:] in _UNITS else int(text)


def _listed(text: str) -> int:
    """How many CPUs a list such as ``0-3,8`` names."""
    count = 0
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        count += int(last or first) - int(first) + 1
    return count
