"""One threading scenario per call, in a process of its own: ``python thread_scenarios.py SCENARIO``.

Numba settles on one threading layer per process, and what goes wrong here kills the process; `test_threads.py` runs
each scenario under each layer and looks at the exit status.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import warnings

import numba
import numpy as np

import fastconv.integrations.numba  # noqa: F401  (teaches numba conv2d)
from fastconv import conv2d
from fastconv.cpu import threads
from fastconv.cpu.jit import kernel
from fastconv.cpu.simd import claim

TASKS, ROW = 40, 256


@kernel
def waves(thread, counter, tasks, x, out):
    """Each task writes one row; the sum's rounding would show if the order depended on the thread."""
    while True:
        task = claim(counter)
        if task >= tasks:
            break
        total = out.dtype.type(0)
        for i in range(ROW):
            total += x[i] * x[(i * (task + 1)) % ROW]
            out[task * ROW + i] = total


@kernel
def meeting(thread, counter, tasks, patience, present, out):
    """Every task waits, up to `patience` rounds, until all tasks have begun: only with that many threads they do."""
    while True:
        task = claim(counter)
        if task >= tasks:
            break
        claim(present)
        rounds = 0
        while rounds < patience[0]:
            rounds += 1
            arrived = claim(present)
            claim_back(present)
            if arrived >= tasks:
                break
        out[task] = arrived >= tasks


@numba.extending.intrinsic
def claim_back(typingctx, counter):
    from llvmlite import ir
    from numba.core import types

    from fastconv.cpu.simd import array_pointer, i64

    def codegen(context, builder, sig, args):
        pointer = array_pointer(context, builder, sig.args[0], args[0], i64(0))
        builder.atomic_rmw("sub", pointer, ir.Constant(ir.IntType(64), 1), "monotonic")
        return context.get_dummy_value()

    return types.void(types.int64[::1]), codegen


X = np.random.default_rng(0).standard_normal(ROW).astype(np.float32)
IMAGES = np.random.default_rng(1).standard_normal((2, 8, 40, 41), np.float32)
FILTERS = np.random.default_rng(2).standard_normal((8, 8, 3, 3), np.float32)
ALGORITHMS = ("direct", "im2col", "fft", "depthwise")


def convolve(algorithm: str, n: int) -> np.ndarray:
    before = threads.get_num_threads()
    threads.set_num_threads(min(n, numba.config.NUMBA_NUM_THREADS))
    try:
        if algorithm == "depthwise":
            return conv2d(IMAGES, FILTERS[:, :1].copy(), padding=1, groups=8, algorithm=algorithm)
        return conv2d(IMAGES, FILTERS, padding=1, algorithm=algorithm)
    finally:
        threads.set_num_threads(before)


def work(n: int = 2) -> np.ndarray:
    """A kernel of this file and every parallel algorithm, end to end."""
    out = np.full(TASKS * ROW, np.nan, np.float32)
    threads.run(waves, TASKS, (X, out), n)
    return np.concatenate([out, *(convolve(a, n).ravel() for a in ALGORITHMS)])


def parallel(n: int = 2, seconds: float = 5, workers: int | None = None) -> bool:
    """Whether `n` tasks run at the same time."""
    out = np.zeros(n, np.int64)
    threads.run(meeting, 1, (np.array([0]), np.zeros(1, np.int64), out), 1)  # compiled: helpers fall asleep meanwhile
    threads.run(meeting, n, (np.array([int(seconds * 1e8)]), np.zeros(1, np.int64), out), workers or n)
    return bool(out.all())


EXPECTED = work(1)


def check(result: np.ndarray | None = None) -> None:
    result = work() if result is None else result
    assert result.tobytes() == EXPECTED.tobytes(), "the result depends on how the threads ran"


def bitwise_equal() -> None:
    for n in (1, 2, 3, 8, 64):
        check(work(n))


def really_parallel() -> None:
    assert parallel(), "the tasks ran one after another"
    for _ in range(300):
        check()


def late_caller() -> None:
    """It looks for sleepers while its helper is still awake, and loses its core before it opens the job."""
    assert parallel()
    launch = threads._launch

    def late(*arguments: int) -> int:
        time.sleep(0.05)
        return launch(*arguments)

    for _ in range(5):
        out = np.zeros(2, np.int64)
        job = np.array([int(5e8)]), np.zeros(1, np.int64), out
        threads.run(meeting, 2, job, 2)  # the helper is awake
        assert out.all()
        out[:], job[1][:] = 0, 0
        threads._launch = late
        threads.run(meeting, 2, job, 2)
        threads._launch = launch
        assert out.all(), "the tasks ran one after another"
    check()


def few_tasks() -> None:
    out = np.zeros(3, np.int64)
    threads.run(meeting, 1, (np.array([1]), np.zeros(1, np.int64), out), 8)
    assert out.tolist() == [1, 0, 0]
    threads.run(meeting, 0, (np.array([1]), np.zeros(1, np.int64), out), 8)


def eight_threads() -> None:
    failures: list[BaseException] = []

    def caller() -> None:
        try:
            for _ in range(100):
                check()
        except BaseException as error:
            failures.append(error)

    callers = [threading.Thread(target=caller) for _ in range(8)]
    for t in callers:
        t.start()
    for t in callers:
        t.join()
    assert not failures, failures
    assert parallel()


def in_child(action) -> None:
    """Fork, run `action` in the child, and expect it to end well within a minute."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of forking with threads about
        child = os.fork()
    if child == 0:
        status = 1
        try:
            action()
            status = 0
        finally:
            os._exit(status)
    end = time.monotonic() + 60
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            assert status == 0, f"the child ended with status {status:#x}"
            return
        time.sleep(0.005)
    os.kill(child, 9)
    os.waitpid(child, 0)
    raise AssertionError("the child hangs")


def in_the_child() -> None:
    check()
    assert parallel()


def fork_fresh() -> None:
    in_child(in_the_child)
    in_the_child()


def fork_after_use() -> None:
    assert parallel()

    def child() -> None:
        in_the_child()
        in_child(in_the_child)  # a grandchild, after its parent's crew has worked

    in_child(child)
    in_the_child()
    in_child(in_the_child)


def oversubscribed() -> None:
    """Thousands of short jobs of several threads, with more helpers than cores: they join and leave all the time."""
    expected = np.full(TASKS * ROW, np.nan, np.float32)
    threads.run(waves, TASKS, (X, expected), 1)
    failures: list[BaseException] = []

    def caller(seed: int) -> None:
        random = np.random.default_rng(seed)
        try:
            for i in range(3000):
                tasks = int(random.integers(1, TASKS + 1))
                out = np.full(TASKS * ROW, np.nan, np.float32)
                threads.run(waves, tasks, (X, out), int(random.integers(1, 9)))
                assert out[: tasks * ROW].tobytes() == expected[: tasks * ROW].tobytes()
                assert np.isnan(out[tasks * ROW :]).all()
                if i % 500 == 0:
                    time.sleep(2 * threads.PATIENCE)  # helpers fall asleep
        except BaseException as error:
            failures.append(error)

    callers = [threading.Thread(target=caller, args=(seed,)) for seed in range(3)]
    for t in callers:
        t.start()
    for t in callers:
        t.join()
    assert not failures, failures


def asleep() -> None:
    """Helpers that have gone to sleep come again, and sleep when nothing comes."""
    assert parallel(4, workers=4)
    for _ in range(5):
        end = time.monotonic() + 10
        while len(threads._crew.asleep) < 3:
            assert time.monotonic() < end, "helpers do not sleep"
            time.sleep(0.01)
        assert parallel(4, workers=4)
        if hasattr(os, "sched_getaffinity"):  # they wake up on cores that are free, and may then run anywhere again
            # One that came by itself, just when it was rung, looks at its bell when the job is done.
            end = time.monotonic() + 10
            while any(os.sched_getaffinity(h.native_id) != os.sched_getaffinity(0) for h in threads._crew.helpers):
                assert time.monotonic() < end, "a helper stays bound to a core"
                time.sleep(0.01)


def first_call() -> None:
    """Helpers that fall asleep while a kernel is compiled for its first call are woken for it."""
    check()
    assert len(meeting.signatures) == 0
    present = np.zeros(2, np.int64)
    threads.run(meeting, 2, (np.array([10**9]), np.zeros(1, np.int64), present), 2)
    assert present.all()


def exit_while_busy() -> None:
    """The interpreter goes down while helpers watch and a daemon thread computes."""
    threading.Thread(target=lambda: [parallel(3, 0.01, workers=2) for _ in range(10**6)], daemon=True).start()
    time.sleep(0.3)
    check()


def fork_while_busy() -> None:
    started = threading.Event()
    stop = threading.Event()

    def hold() -> None:
        started.set()
        while not stop.is_set():  # the first round compiles: numba's lock is held as well
            parallel(3, 0.1, workers=2)  # three tasks never meet on two threads, so the pool is held for 0.1 s and more

    holder = threading.Thread(target=hold)
    holder.start()
    started.wait()
    for pause in (0.01, 0.3, 0.01, 0.02):
        time.sleep(pause)
        in_child(in_the_child)
    stop.set()
    holder.join()
    in_the_child()


def set_num_threads_1() -> None:
    numba.set_num_threads(1)
    bitwise_equal()
    assert numba.get_num_threads() == 1
    threads.set_num_threads(1)
    assert threads.get_num_threads() == 1
    check(work(threads.get_num_threads()))


def one_numba_thread() -> None:
    assert threads.get_num_threads() == 1
    bitwise_equal()


def many_numba_threads() -> None:
    assert threads.get_num_threads() == 8
    bitwise_equal()
    assert parallel(8)
    assert numba.get_num_threads() == 8


def signal_handler() -> None:
    """A handler that computes, at any moment of a computation of the same thread."""
    import signal

    hits = []

    def handler(signum, frame) -> None:
        hits.append(work())
        signal.setitimer(signal.ITIMER_REAL, 0.002)

    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.002)
    while len(hits) < 50:
        check()
    signal.setitimer(signal.ITIMER_REAL, 0)
    for result in hits:
        check(result)


@numba.njit
def _by_objmode(i):
    with numba.objmode(y="float32[::1]"):
        y = work()
    return y  # noqa: RET504 (what objmode returns must have a name)


@numba.njit(parallel=True)
def _user_loop(n):
    out = np.empty((n, EXPECTED.size), np.float32)
    for i in numba.prange(n):
        out[i] = _by_objmode(i)
    return out


@numba.njit(parallel=True)
def _user_blur(images, filters):
    out = np.empty_like(images)
    for i in numba.prange(len(images)):
        out[i] = conv2d(images[i], filters, padding=1)
    return out


def user_prange() -> None:
    for _ in range(3):
        for row in _user_loop(16):
            check(row)
    many = np.concatenate([IMAGES] * 8)
    assert np.allclose(_user_blur(many, FILTERS), conv2d(many, FILTERS, padding=1, algorithm="direct"), atol=1e-4)
    in_the_child()


@numba.njit(parallel=True, nogil=True)
def _user_sum(x):
    total = np.zeros(x.size)
    for i in numba.prange(x.size):
        total[i] = x[i] * 2
    return total


def user_prange_beside() -> None:
    """The user's own parallel loops in one thread, convolutions in others."""
    stop = threading.Event()
    failures: list[BaseException] = []

    def convolutions() -> None:
        try:
            while not stop.is_set():
                check()
        except BaseException as error:
            failures.append(error)

    callers = [threading.Thread(target=convolutions) for _ in range(2)]
    for t in callers:
        t.start()
    data = np.arange(10_000.0)
    end = time.monotonic() + 1
    while time.monotonic() < end:
        assert _user_sum(data)[-1] == 2 * data[-1]
    stop.set()
    for t in callers:
        t.join()
    assert not failures, failures


SCENARIOS = {
    f.__name__: f
    for f in (
        bitwise_equal, really_parallel, late_caller, few_tasks, eight_threads, oversubscribed, asleep, first_call,
        exit_while_busy, fork_fresh, fork_after_use, fork_while_busy, set_num_threads_1, one_numba_thread,
        many_numba_threads, signal_handler, user_prange, user_prange_beside,
    )
}  # fmt: skip


if __name__ == "__main__":
    SCENARIOS[sys.argv[1]]()
