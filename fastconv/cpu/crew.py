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
from numba.core.errors import TypingError
from numba.extending import intrinsic

from fastconv.cpu.cached import cached, inline
from fastconv.cpu.simd import I32, I64, array_pointer, i64

# Words of a board. Those that different threads write are two cache lines apart: the prefetcher brings pairs.
STATE, FUNCTION, DATA, WANTED = 0, 1, 2, 3
LEFT = 16
BUSY = 32
YIELD = 48  #: address of a C function ``int f(void)`` that gives the core to another thread; 0 for none
WORDS = 64

CLOSED = 1 << 15
JOINED = CLOSED - 1
GENERATION = 1 << 16

# ---- atomic words ----------------------------------------------------------------------------------------------------

_WORDS = types.int64[::1]


def _word(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return array_pointer(context, builder, sig.args[0], args[0], args[1])


@intrinsic
def _read(typingctx: Any, board: Any, index: Any) -> Any:
    """board[index]; what its writer wrote before is seen from here on."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.load_atomic(_word(context, builder, sig, args), "acquire", 8)

    return types.int64(_WORDS, types.int64), codegen


@intrinsic
def _write(typingctx: Any, board: Any, index: Any, value: Any) -> Any:
    """board[index] = value, after all that this thread wrote before."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        builder.store_atomic(args[2], _word(context, builder, sig, args), "release", 8)
        return context.get_dummy_value()

    return types.void(_WORDS, types.int64, types.int64), codegen


def _update(operation: str) -> Any:
    @intrinsic
    def update(typingctx: Any, board: Any, index: Any, value: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            return builder.atomic_rmw(operation, _word(context, builder, sig, args), args[2], "acq_rel")

        return types.int64(_WORDS, types.int64, types.int64), codegen

    return update


# board[index] op= value in one step; they return what was there.
_exchange, _add, _or = _update("xchg"), _update("add"), _update("or")


@intrinsic
def _replace(typingctx: Any, board: Any, index: Any, old: Any, new: Any) -> Any:
    """board[index] = new if it is `old`, in one step; whether it was."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pair = builder.cmpxchg(_word(context, builder, sig, args), args[2], args[3], "acq_rel", "monotonic")
        return builder.extract_value(pair, 1)

    return types.boolean(_WORDS, types.int64, types.int64, types.int64), codegen


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
def _call(typingctx: Any, function: Any, data: Any, thread: Any) -> Any:
    """function(data, thread), of addresses."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [I64, I64])
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), args[1:])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen


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
    if rounds % _ROUNDS == 0 and board[YIELD]:
        _yield(board[YIELD])


# ---- the caller ------------------------------------------------------------------------------------------------------


@intrinsic
def new_counter(typingctx: Any) -> Any:
    """A counter at 0 in the caller's stack frame, alone on its cache lines."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        memory = cgutils.alloca_once(builder, ir.ArrayType(I64, 16))
        memory.align = 128
        builder.store(ir.Constant(I64, 0), builder.gep(memory, [ir.Constant(I32, 0)] * 2))
        counter = context.make_array(sig.return_type)(context, builder)
        counter.data = builder.bitcast(memory, I64.as_pointer())
        counter.nitems, counter.itemsize = i64(16), i64(8)
        counter.shape, counter.strides = (cgutils.pack_array(builder, [i64(n)]) for n in (16, 8))
        return counter._getvalue()

    return _WORDS(), codegen


@intrinsic
def job(typingctx: Any, body: Any, counter: Any, tasks: Any, arrays: Any) -> Any:
    """Addresses of a C function and of its data in the caller's stack frame: f(data, thread) runs the kernel `body`."""
    if not isinstance(body, types.Dispatcher) or not isinstance(arrays, types.BaseTuple):
        raise TypingError("job takes a kernel's body and a tuple of arrays")
    kinds = (types.int64, _WORDS, types.int64, *arrays.types)
    body.get_call_type(typingctx, kinds, {})

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        compiled = body.dispatcher.overloads[kinds]
        context.add_linking_libs([compiled.library])
        values = [args[1], args[2], *(builder.extract_value(args[3], i) for i in range(len(arrays.types)))]
        record = ir.LiteralStructType([value.type for value in values])
        data = cgutils.alloca_once(builder, record)
        for i, value in enumerate(values):
            builder.store(value, cgutils.gep_inbounds(builder, data, 0, i))

        function = ir.Function(
            builder.module, ir.FunctionType(ir.VoidType(), [I64, I64]), f"{builder.function.name}.job"
        )
        function.linkage = "internal"
        inner = ir.IRBuilder(function.append_basic_block())
        source = inner.inttoptr(function.args[0], record.as_pointer())
        loaded = [inner.load(cgutils.gep_inbounds(inner, source, 0, i)) for i in range(len(values))]
        arguments = [function.args[1], *loaded]
        context.call_internal_no_propagate(inner, compiled.fndesc, types.void(*kinds), arguments)
        inner.ret_void()
        pair = [builder.ptrtoint(function, I64), builder.ptrtoint(data, I64)]
        return context.make_tuple(builder, sig.return_type, pair)

    return types.UniTuple(types.int64, 2)(body, _WORDS, types.int64, arrays), codegen


@inline
def enter(board):  # type: ignore[no-untyped-def]
    """Whether the board was free; it is now this caller's, until `share` is done."""
    return _exchange(board, BUSY, 1) == 0


@inline
def share(board, threads, function, data):  # type: ignore[no-untyped-def]
    """Run a job with up to ``threads - 1`` helpers."""
    board[FUNCTION], board[DATA], board[WANTED], board[LEFT] = function, data, threads - 1, 0
    _write(board, STATE, (board[STATE] // GENERATION + 1) * GENERATION)
    _call(function, data, 0)
    joined = _or(board, STATE, CLOSED) & JOINED
    rounds = 0
    while _read(board, LEFT) != joined:
        rounds += 1
        _wait(board, rounds)
    _write(board, BUSY, 0)


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
            _call(board[FUNCTION], board[DATA], (state & JOINED) + 1)
            _add(board, LEFT, 1)
            idle = 0
