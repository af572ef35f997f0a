"""The register-blocked SIMD microkernel behind every matrix product.

    C[i, j] (+)= sum_k A[i, k] * B[off[k] + j]        0 <= i < MR, 0 <= j < NV * W

MR x NV vectors of C stay in registers while k runs; each step loads NV vectors of B and broadcasts MR scalars of A.
B's rows are wherever the offset table says, so a convolution is this product without an im2col in memory: row
k = (c, r, s) of B starts at the place of channel c shifted by r rows and s columns of the padded input. A has any two
strides: weights are used as they lie in memory or packed in panels.

The sum over k starts at zero and is added to C at the end: the chain of roundings is as long as one k block, however
many blocks there are (Higham 1993, pairwise and blocked summation).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba.core import types
from numba.extending import intrinsic

from fastconv.cpu import isa
from fastconv.cpu.jit import inline
from fastconv.cpu.simd import I64, Emitter, array_pointer, element_dtype, i64, vector_width

# (MR, NV): accumulators + NV vectors of B + one broadcast must fit the registers, and a step's MR + 2 NV loads (an
# unaligned vector costs two cache lines) should take no longer than its MR * NV multiply-adds. With 32 registers
# (AVX-512, NEON) 8x3 and 6x4 keep 24 sums; with 16 registers 4x3 and 6x2 keep 12. The narrower ones serve the edges.
_WIDEST_32 = {8: 3, 6: 4, 4: 4, 2: 4, 1: 4}
_WIDEST_16 = {6: 2, 4: 3, 2: 4, 1: 4}


def widest() -> dict[int, int]:
    """The register tiles of this CPU: MR -> its largest NV; every smaller NV exists too."""
    return _WIDEST_32 if isa.registers() >= 32 else _WIDEST_16


def tiles() -> list[tuple[int, int]]:
    """Every compiled (MR, NV)."""
    return [(mr, nv) for mr, most in widest().items() for nv in range(1, most + 1)]


def _emit_tile(context: Any, b: Any, e: Emitter, mr: int, nv: int, pointers: Any, strides: Any, K: Any, add: Any) -> None:
    """Emit one register tile at the builder's position and leave the builder after it."""
    pa, pb, po, pc = pointers
    a_row, a_col, c_row = strides
    cells = [(i, j) for i in range(mr) for j in range(nv)]
    a_rows = [b.gep(pa, [b.mul(a_row, i64(i))]) for i in range(mr)]
    c_cells = {(i, j): b.gep(pc, [b.add(b.mul(c_row, i64(i)), i64(j * e.width))]) for i, j in cells}

    entry = b.block
    loop, leave, update, fresh, done = (b.append_basic_block(f"{n}{mr}x{nv}") for n in ("k", "leave", "add", "set", "end"))
    b.branch(loop)

    b.position_at_end(loop)
    k, a_at = b.phi(I64), b.phi(I64)  # a_at = k * a_col, an induction variable of its own
    sums = {cell: b.phi(e.vector) for cell in cells}
    row = b.gep(pb, [b.load(b.gep(po, [k]))])
    vectors = [e.load(b.gep(row, [i64(j * e.width)])) for j in range(nv)]
    new = {}
    for i in range(mr):
        a = e.splat(b.load(b.gep(a_rows[i], [a_at])))
        for j in range(nv):
            new[i, j] = e.fma(a, vectors[j], sums[i, j])
    k_next, a_next = b.add(k, i64(1)), b.add(a_at, a_col)
    for phi, first, following in ((k, i64(0), k_next), (a_at, i64(0), a_next)):
        phi.add_incoming(first, entry)
        phi.add_incoming(following, loop)
    for cell in cells:
        sums[cell].add_incoming(e.constant(0), entry)
        sums[cell].add_incoming(new[cell], loop)
    b.cbranch(b.icmp_signed("<", k_next, K), loop, leave)

    b.position_at_end(leave)
    b.cbranch(add, update, fresh)
    b.position_at_end(update)
    for cell in cells:
        e.store(e.add(e.load(c_cells[cell]), new[cell]), c_cells[cell])
    b.branch(done)
    b.position_at_end(fresh)
    for cell in cells:
        e.store(new[cell], c_cells[cell])
    b.branch(done)
    b.position_at_end(done)


@intrinsic
def microkernel(
    typingctx: Any, mr: Any, nv: Any, A: Any, a0: Any, a_row: Any, a_col: Any, B: Any, b0: Any, off: Any, k0: Any,
    K: Any, C: Any, c0: Any, c_row: Any, accumulate: Any,
) -> Any:  # fmt: skip
    """C[c0 + i*c_row + j] (+)= sum_k A[a0 + i*a_row + k*a_col] * B[b0 + off[k0 + k] + j], 0 <= k < K, K >= 1.

    (mr, nv) is one of `tiles()`; anything else computes nothing.
    """
    dtype = element_dtype(A, B, C)
    n = types.int64
    signature = types.void(n, n, A, n, n, n, B, n, off, n, n, C, n, n, types.boolean)

    def codegen(context: Any, b: Any, sig: Any, args: Any) -> Any:
        e = Emitter(b, dtype)
        mr_, nv_, A_, a0_, a_row_, a_col_, B_, b0_, off_, k0_, K_, C_, c0_, c_row_, accumulate_ = args
        pointers = (
            array_pointer(context, b, sig.args[2], A_, a0_),
            array_pointer(context, b, sig.args[6], B_, b0_),
            array_pointer(context, b, sig.args[8], off_, k0_),
            array_pointer(context, b, sig.args[11], C_, c0_),
        )
        end = b.append_basic_block("microkernel_end")
        choice = b.switch(b.add(b.mul(mr_, i64(16)), nv_), end)
        for mr, nv in tiles():
            block = b.append_basic_block(f"tile{mr}x{nv}")
            choice.add_case(i64(mr * 16 + nv), block)
            b.position_at_end(block)
            _emit_tile(context, b, e, mr, nv, pointers, (a_row_, a_col_, c_row_), K_, accumulate_)
            b.branch(end)
        b.position_at_end(end)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def widest_tile(typingctx: Any, mr: Any) -> Any:
    """The largest NV compiled for `mr` rows (0 if there is none)."""
    table = widest()

    def codegen(context: Any, b: Any, sig: Any, args: Any) -> Any:
        result = i64(0)
        for rows, most in table.items():
            result = b.select(b.icmp_signed("==", args[0], i64(rows)), i64(most), result)
        return result

    return types.int64(types.int64), codegen


@inline
def gemm_block(rows, cols, mr, A, a0, a_row, a_col, B, b0, off, k0, K, C, c0, c_row, accumulate):  # type: ignore[no-untyped-def]
    """The microkernel over `rows` x `cols`, in tiles of `mr` rows; `cols` is rounded up to whole vectors.

    B must be readable, and C writable, up to the rounded end of every row.
    """
    W = vector_width(C)
    vectors = (cols + W - 1) // W
    i = 0
    while i < rows:  # 1. mr rows of A: a panel that stays in L1
        while mr > rows - i or widest_tile(mr) == 0:
            mr -= 1
        most = widest_tile(mr)
        j = 0
        while j < vectors:  # 2. nv vectors of B
            left = vectors - j
            nv = min(left, most)
            if most < left < most + 2:
                nv = (left + 1) // 2  # two middling tiles run faster than a full one and a sliver
            microkernel(
                mr, nv, A, a0 + i * a_row, a_row, a_col, B, b0 + j * W, off, k0, K, C, c0 + i * c_row + j * W, c_row,
                accumulate,
            )  # fmt: skip
            j += nv
        i += mr


def microkernel_twin(
    MR: int, NV: int, A: np.ndarray, a0: int, a_row: int, a_col: int, B: np.ndarray, b0: int, off: np.ndarray, k0: int,
    K: int, C: np.ndarray, c0: int, c_row: int, accumulate: bool,
) -> None:  # fmt: skip
    """The microkernel in plain Python, its oracle in the tests."""
    for i in range(MR):
        for j in range(NV * isa.width(C.dtype)):
            total = C.dtype.type(0)
            for k in range(K):
                total += A[a0 + i * a_row + k * a_col] * B[b0 + off[k0 + k] + j]
            cell = c0 + i * c_row + j
            C[cell] = C[cell] + total if accumulate else total
