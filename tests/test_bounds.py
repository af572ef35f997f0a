"""No kernel reads or writes beyond an array.

Twice over: numba's bounds checks see every index that kernels compute themselves, but not what vector intrinsics do
with pointers; pages that may not be touched, on either side of every array, see every access. `bounds_calls.py` makes
the calls, in processes of their own.
"""

from __future__ import annotations

import inspect
import os
import signal
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from bounds_calls import FAMILIES

import fastconv
from fastconv.cpu.jit import cache_folder

PROGRAM = Path(__file__).with_name("bounds_calls.py")
WORKING = [family for family in FAMILIES if family != "overrun"]

#: What computes nothing with arrays, or only hands them to what does.
EXEMPT = {
    "autotune", "conv_parameters", "conv_to_linear", "explain", "flatten_kernel", "get_num_threads", "kernel_rank",
    "linear_to_conv", "locally_connected_shape", "output_size", "plan", "prepare", "prepare_transpose",
    "receptive_field", "separate", "separate3d", "set_num_threads", "show_versions", "toeplitz", "conv1d_input",
    "conv1d_weight", "conv1d_backward", "conv3d_input", "conv3d_weight", "conv3d_backward",
}  # fmt: skip

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="pages are guarded by Linux's mprotect"),
]


@cache
def run(guard: str, family: str) -> subprocess.CompletedProcess[str]:
    """A process of calls. Kernels with bounds checks have a cache of their own."""
    environment = {**os.environ, "FASTCONV_CACHE_DIR": str(cache_folder())}
    if guard == "numba":
        environment |= {"FASTCONV_CACHE_DIR": str(cache_folder() / "checked"), "NUMBA_BOUNDSCHECK": "1"}
    command = [sys.executable, str(PROGRAM), guard, family]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("guard", ["numba", "pages"])
@pytest.mark.parametrize("family", WORKING)
def test_in_bounds(family, guard, report):
    done = run(guard, family)
    assert done.returncode == 0, f"ended by {done.returncode}\n{done.stderr[-2000:]}"
    by = "numba's bounds checks" if guard == "numba" else "guard pages on both sides of every array"
    report(f"{family}: {len(done.stdout.split())} functions within bounds, {by}")


def test_a_mistake_is_found():
    assert run("pages", "overrun").returncode == -signal.SIGSEGV
    assert "IndexError: index is out of bounds" in run("numba", "overrun").stderr


def test_every_operation_is_called():
    called = {name for family in WORKING for name in run("pages", family).stdout.split()}
    modules = (fastconv, fastconv.grad)
    public = {name for m in modules for name in m.__all__ if inspect.isfunction(getattr(m, name))}
    assert public - called - EXEMPT == set()
    assert public >= EXEMPT
