"""Kernels are compiled once for each dtype, whatever else a caller varies: compile time must not creep in."""

import importlib
import json
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastconv
from fastconv import kernels
from fastconv.cpu.jit import Kernel

TESTS = Path(__file__).parent

#: A kernel is compiled once for a dtype, but for these.
EXCEPTIONS = {
    "fft_kernels._make_channelwise.locals.channelwise": 2,  # one for each memory order
    "fft_kernels._make_pointwise.locals.pointwise": 2,
}
#: `kernel_calls.py` comes by these at least, and by so many kernels at most.
HOME = {
    "depthwise._planes", "direct_kernels.channels", "direct_kernels.pixels", "direct_taps.taps", "im2col.im2col",
    "transpose_kernels.interleave", "weight_grad_dots_kernels.planes", "weight_grad_kernels.accumulate",
    "winograd_kernels.winograd", "winograd_rows.winograd_rows", *EXCEPTIONS,
}  # fmt: skip
KERNELS = 27


@pytest.mark.slow  # compiles every convolution kernel
def test_every_kernel_is_compiled_as_often_as_documented(tmp_path):
    environment = os.environ | {
        "FASTCONV_CACHE_DIR": str(tmp_path), "NUMBA_NUM_THREADS": "2", "PYTHONPATH": str(TESTS.parent)
    }  # fmt: skip
    command = [sys.executable, str(TESTS / "kernel_calls.py"), "float32"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found.pop("crew.attend") == found.pop("crew.launch") == 1
    assert set(found) >= HOME
    assert len(found) <= KERNELS
    assert found == {name: EXCEPTIONS.get(name, 1) for name in found}


def compiled():
    """Every kernel, by name."""
    found = {}
    for info in pkgutil.iter_modules(kernels.__path__):
        module = importlib.import_module(f"{kernels.__name__}.{info.name}")
        for name, value in vars(module).items():
            if isinstance(value, Kernel) and value.__module__ == module.__name__:
                found[f"{info.name}.{name}"] = value
    return found


def test_no_kernel_is_compiled_twice_for_the_same_dtypes():
    """Looks at everything that this process has compiled so far; the calls below are the least."""
    values = np.arange(2 * 3 * 11 * 12, dtype=np.float32).reshape(2, 3, 11, 12)
    weight = np.ones((4, 3, 3, 3), np.float32)
    frozen, swapped = values.copy(), np.ascontiguousarray(values.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    frozen.flags.writeable = False
    for x in (values, frozen, values[:, :, ::-1], values.astype(">f4"), swapped, values[:1]):
        for options in ({}, {"padding": 1, "stride": 2}, {"dilation": 3, "activation": "tanh"}):
            for bias in (None, np.ones(4, np.float32)):
                fastconv.conv2d(x, weight, bias, algorithm="direct", **options)
    found = {name: kernel.signatures for name, kernel in compiled().items()}
    assert found["direct_kernels.channels"] or found["direct_kernels.pixels"]
    for name, signatures in found.items():  # whatever integers their tables are of
        floats = [tuple(kind for kind in kinds if kind.kind == "f") for kinds in signatures]
        floats = [kinds for kinds in floats if kinds]
        assert len(set(floats)) == len(floats), (name, signatures)
