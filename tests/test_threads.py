"""The task runner under every threading layer, each scenario in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import numba
import numpy as np
import pytest

from fastconv.cpu import threads

TESTS = Path(__file__).parent
SCENARIOS = (
    "bitwise_equal", "really_parallel", "late_caller", "few_tasks", "eight_threads", "oversubscribed", "asleep",
    "first_call", "exit_while_busy", "fork_fresh", "fork_after_use", "fork_while_busy", "set_num_threads_1",
    "signal_handler", "user_prange", "user_prange_beside",
)  # fmt: skip


def in_process(code: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(filter(None, (str(TESTS.parent), os.environ.get("PYTHONPATH"))))
    return subprocess.run(
        [sys.executable, *code],
        env={**os.environ, "PYTHONPATH": path, "NUMBA_NUM_THREADS": "2", **environment},
        capture_output=True,
        text=True,
        timeout=180,
    )


def scenario(name: str, layer: str, **environment: str) -> None:
    done = in_process([str(TESTS / "thread_scenarios.py"), name], NUMBA_THREADING_LAYER=layer, **environment)
    assert done.returncode == 0, f"{name} under {layer} ended with {done.returncode}:\n{done.stderr[-3000:]}"


@cache
def missing(layer: str) -> str | None:
    """Why numba cannot use this layer here."""
    module = {"omp": "omppool", "tbb": "tbbpool", "workqueue": "workqueue"}[layer]
    done = in_process(["-c", f"import numba.np.ufunc.{module}"])
    return done.stderr.strip().splitlines()[-1] if done.returncode else None


@pytest.fixture(params=["omp", "tbb", "workqueue"])
def layer(request):
    if reason := missing(request.param):
        pytest.skip(f"numba cannot load {request.param}: {reason}")
    return request.param


@pytest.mark.parametrize("name", SCENARIOS)
def test_scenario(name, layer):
    scenario(name, layer)


def test_one_thread(layer):
    scenario("one_numba_thread", layer, NUMBA_NUM_THREADS="1")


def test_more_threads_than_cpus(layer):
    scenario("many_numba_threads", layer, NUMBA_NUM_THREADS="8")


def test_get_and_set():
    before = threads.get_num_threads()
    assert 1 <= before <= numba.config.NUMBA_NUM_THREADS
    try:
        threads.set_num_threads(np.int32(1))
        assert threads.get_num_threads() == 1
        assert type(threads.get_num_threads()) is int
    finally:
        threads.set_num_threads(before)


@pytest.mark.parametrize("n", [0, -1, 10**9])
def test_set_out_of_range(n):
    with pytest.raises(ValueError, match=f"n must be from 1 to .*, got {n}"):
        threads.set_num_threads(n)


@pytest.mark.parametrize("n", [1.0, True, "1", None])
def test_set_wrong_type(n):
    with pytest.raises(TypeError, match="n must be an int"):
        threads.set_num_threads(n)


def test_nothing_is_kept_after_a_run():
    """A long-running process must not grow."""
    import gc
    import weakref

    from thread_scenarios import ROW, TASKS, X, waves

    out = np.zeros(TASKS * ROW, np.float32)
    seen = weakref.ref(out)
    threads.run(waves, TASKS, (X, out), 2)
    started = len(threads._crew.helpers)
    for _ in range(10):
        threads.run(waves, TASKS, (X, out), 2)
    assert len(threads._crew.helpers) == started >= 1  # other tests of this process may have asked for more
    del out
    gc.collect()
    assert seen() is None
