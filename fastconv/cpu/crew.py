"""Jobs that several threads work on, in compiled code: no GIL, no system call, no waiting for who is late.

Everything that threads tell each other stands on a *board*, an array of words. The caller writes its job down, opens
it, and at once takes tasks itself. Helpers that watch the board join while the job is open. When no task is left the
caller closes it, in the same atomic operation in which it learns how many have joined, and waits for those alone: a
helper that sleeps, or that another process keeps from its core, costs nothing. The job's data lives in the caller's
stack frame, and is read only by helpers that have joined.

    STATE       generation of the job | CLOSED | how many helpers have joined
    caller      write the job;  STATE = next generation, open, 0  (release);  work;  STATE |= CLOSED;  wait for LEFT
    helper      see STATE open (acquire);  STATE: joined + 1, only if nothing has changed;  work;  LEFT + 1 (release)

A helper reads the job before it joins, and its joining succeeds only if that job is still open: generations never
repeat.
"""

from __future__ import annotations

import platform
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from fastconv.cpu.cached import cached, inline
from fastconv.cpu.frame import fill, new_frame, place, set_word, word
from fastconv.cpu.simd import I32, I64, i64

# Words of a board. Those that different threads write are two cache lines apart: the prefetcher brings pairs.
STATE, FUNCTION, FRAME, WANTED = 0, 1, 2, 3
LEFT = 16
BUSY = 32
YIELD = 48  #: address of a C function ``int f(void)`` that gives the core to another thread; 0 for none
WORDS = 64

CLOSED = 1 << 15
JOINED = CLOSED - 1
GENERATION = 1 << 16

UNKNOWN = 1 << 32  #: what no kernel's status can be

# ---- atomic words ----------------------------------------------------------------------------------------------------


@intrinsic
def _read(typingctx: Any, board: Any, index: Any) -> Any:
    """A word of the board; what its writer wrote before is seen from here on."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.load_atomic(place(builder, *args), "acquire", 8)

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def _write(typingctx: Any, board: Any, index: Any, value: Any) -> Any:
    """Set a word of the board, after all that this thread wrote before."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        builder.store_atomic(args[2], place(builder, *args[:2]), "release", 8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen


def _update(operation: str) -> Any:
    @intrinsic
    def update(typingctx: Any, board: Any, index: Any, value: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            return builder.atomic_rmw(operation, place(builder, *args[:2]), args[2], "acq_rel")

        return types.int64(types.int64, types.int64, types.int64), codegen

    return update


# word op= value in one step; they return what was there.
_exchange, _add, _or = _update("xchg"), _update("add"), _update("or")


@intrinsic
def _replace(typingctx: Any, board: Any, index: Any, old: Any, new: Any) -> Any:
    """Set a word that is `old` to `new`, in one step; whether it was."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pair = builder.cmpxchg(place(builder, *args[:2]), args[2], args[3], "acq_rel", "monotonic")
        return builder.extract_value(pair, 1)

    return types.boolean(types.int64, types.int64, types.int64, types.int64), codegen


# ---- waiting ---------------------------------------------------------------------------------------------------------

#: Rounds of waiting, some 50 us, after which the core is offered to others. Sooner is polite without need: Linux lets
#: who yields wait for milliseconds. Never, and a helper is interrupted in the middle of a task instead, and the caller
#: waits for it: beside a busy process two threads then take longer than one.
_ROUNDS = 1024


@intrinsic
def _pause(typingctx: Any) -> Any:
    """Tell the core that this is a waiting loop."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        machine = platform.machine().lower()
        if machine in ("x86_64", "amd64", "i386", "i686"):
            kind = ir.FunctionType(ir.VoidType(), [])
            builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.sse2.pause"), [])
        elif machine in ("aarch64", "arm64"):
            kind = ir.FunctionType(ir.VoidType(), [I32])
            hint = cgutils.get_or_insert_function(builder.module, kind, "llvm.aarch64.hint")
            builder.call(hint, [ir.Constant(I32, 1)])  # yield
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def _call(typingctx: Any, function: Any, thread: Any, frame: Any) -> Any:
    """Call a kernel's function, of addresses, as numba calls it: its status, 0 if all went well."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        unused = [cgutils.alloca_once_value(builder, i64(0)) for _ in range(2)]  # of a result, of an exception
        kind = ir.FunctionType(I32, [memory.type for memory in unused] + [I64, I64])
        status = builder.call(builder.inttoptr(args[0], kind.as_pointer()), [*unused, *args[1:]])
        return builder.sext(status, I64)

    return types.int64(types.int64, types.int64, types.int64), codegen


@intrinsic
def _yield(typingctx: Any, function: Any) -> Any:
    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        kind = ir.FunctionType(I32, [])
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), [])
        return context.get_dummy_value()

    return types.void(types.int64), codegen


@inline
def _wait(board, rounds):  # type: ignore[no-untyped-def]
    """A moment's pause, the `rounds`-th in a row."""
    _pause()
    if rounds % _ROUNDS == 0 and word(board, YIELD):
        _yield(word(board, YIELD))


# ---- the caller ------------------------------------------------------------------------------------------------------


@inline
def _share(board, threads, function, frame):  # type: ignore[no-untyped-def]
    """Do a job with up to ``threads - 1`` helpers, on a board that is this caller's."""
    set_word(board, FUNCTION, function)
    set_word(board, FRAME, frame)
    set_word(board, WANTED, threads - 1)
    set_word(board, LEFT, 0)
    _write(board, STATE, (word(board, STATE) // GENERATION + 1) * GENERATION)
    status = _call(function, 0, frame)
    joined = _or(board, STATE, CLOSED) & JOINED
    rounds = 0
    while _read(board, LEFT) != joined:
        rounds += 1
        _wait(board, rounds)
    _write(board, BUSY, 0)
    return status


@cached
def launch(table, arrays, tasks, threads, board):  # type: ignore[no-untyped-def]
    """Run a kernel: 0 when its tasks are done, `UNKNOWN` if its table has no function for these arrays.

    All are numbers; table, arrays (a tuple's) and board are addresses.
    """
    frame = new_frame()
    function = fill(frame, table, arrays, tasks)
    if function == 0:
        return UNKNOWN
    if threads > 1 and _exchange(board, BUSY, 1) == 0:
        return _share(board, threads, function, frame)
    return _call(function, 0, frame)


# ---- the helpers -----------------------------------------------------------------------------------------------------


@cached
def attend(board, rounds):  # type: ignore[no-untyped-def]
    """Help with every job, and return when none has come for `rounds` rounds of waiting."""
    idle = 0
    while idle < rounds:
        state = _read(board, STATE)
        if state & CLOSED or state & JOINED >= _read(board, WANTED):
            idle += 1
            _wait(board, idle)
        elif _replace(board, STATE, state, state + 1):
            _call(word(board, FUNCTION), (state & JOINED) + 1, word(board, FRAME))
            _add(board, LEFT, 1)
            idle = 0
