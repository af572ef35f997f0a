"""The instruction set the kernels are generated for: vector width and register count.

Numba compiles for the host unless ``NUMBA_CPU_NAME`` / ``NUMBA_CPU_FEATURES`` say otherwise; the same
settings are read here, so that the generated vectors always match what the compiler may use.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from llvmlite import binding
from numba.core import config


@cache
def features() -> frozenset[str]:
    """Names of the CPU features the compiler may use, such as ``"avx512f"``."""
    if config.CPU_FEATURES is not None:
        listed = config.CPU_FEATURES.split(",")
    elif config.CPU_NAME == "generic":
        listed = []
    else:
        try:
            listed = binding.get_host_cpu_features().flatten().split(",")
        except RuntimeError:  # LLVM knows no feature probe for this CPU
            listed = []
    return frozenset(item[1:] for item in listed if item.startswith("+"))


@cache
def name() -> str:
    """Short name of the vector instruction set in use."""
    have = features()
    if "avx512f" in have:
        return "AVX-512"
    if "avx2" in have and "fma" in have:
        return "AVX2+FMA"
    if "neon" in have:
        return "NEON"
    return "baseline"


VECTOR_BYTES = {"AVX-512": 64, "AVX2+FMA": 32, "NEON": 16, "baseline": 16}
VECTOR_REGISTERS = {"AVX-512": 32, "AVX2+FMA": 16, "NEON": 32, "baseline": 16}


def has_fma() -> bool:
    """Whether a fused multiply-add is one instruction; without it `llvm.fma` would call libm per lane."""
    return name() != "baseline"


def width(dtype: np.dtype | str) -> int:
    """Elements of `dtype` in one vector register."""
    return VECTOR_BYTES[name()] // np.dtype(dtype).itemsize


def registers() -> int:
    """Number of vector registers."""
    return VECTOR_REGISTERS[name()]
