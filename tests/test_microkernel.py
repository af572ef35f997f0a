"""The microkernels against their scalar twins at every tile and tail, for every instruction set this CPU can run.

The instruction set is fixed when numba starts, so the others run this same file in a process of their own.
"""

import os
import subprocess
import sys
from itertools import product

import numpy as np
import pytest

from fastconv.cpu import isa
from fastconv.cpu.cached import cached
from fastconv.cpu.dots import most_products, product_block
from fastconv.cpu.microkernel import (
    gemm_block,
    gemm_channels,
    microkernel,
    microkernel_channels,
    microkernel_channels_twin,
    microkernel_twin,
    tiles,
    transpose_finished,
    widest,
)
from fastconv.cpu.rows import add_row, add_rows, copy_every_second, copy_row, fill_row
from fastconv.cpu.simd import transpose_block

DTYPES = ("float32", "float64", "int32", "int64")
AVX2 = "+avx,+avx2,+fma,+sse,+sse2,+sse3,+ssse3,+sse4.1,+sse4.2,+popcnt,+bmi,+bmi2,+f16c,+lzcnt,+movbe,+cx16"
OTHER_CPUS = {"haswell": AVX2, "generic": ""}
INSIDE = "FASTCONV_TEST_CPU"


@cached
def _tile(
    mr, nv, A, a0, a_row, a_col, B, b0, off, k0, K, C, c0, c_row, accumulate, D, d0, d_row, last, bias, oc, residual,
    add, relu, times, down,
):  # fmt: skip
    microkernel(
        mr, nv, A, a0, a_row, a_col, B, b0, off, k0, K, C, c0, c_row, accumulate, D, d0, d_row, last, bias, oc,
        residual, add, relu, times, down, B, b0, k0, 1, last,
    )  # fmt: skip


@cached
def _tile_channels(mr, nv, A, a0, at, p0, off, k0, K, B, b0, C, c0, c_row, accumulate, times):
    microkernel_channels(mr, nv, A, a0, at, p0, off, k0, K, B, b0, C, c0, c_row, accumulate, times, b0, 1)


@cached
def _block(
    rows, cols, mr, A, a0, a_row, B, b0, off, k0, K, C, c0, c_row, accumulate, last, out, target, bias, oc, residual,
    relu,
):  # fmt: skip
    gemm_block(
        rows, cols, mr, A, a0, a_row, B, b0, off, k0, K, C, c0, c_row, accumulate, last, out,
        (target[0], target[1], target[2], target[3], target[4], target[5]), bias, oc, residual, relu, B, b0, k0, 2,
    )  # fmt: skip


@cached
def _channels(pixels, nv, A, a0, at, p0, off, k0, K, B, b0, C, c0, c_row, accumulate):
    gemm_channels(pixels, nv, A, a0, at, p0, off, k0, K, B, b0, C, c0, c_row, accumulate)


@cached
def _rows(which, src, s0, other, dst, d0, n):
    if which == 0:
        copy_row(src, s0, dst, d0, n)
    elif which == 1:
        copy_every_second(src, s0, dst, d0, n)
    elif which == 2:
        fill_row(dst, d0, n)
    elif which == 3:
        add_row(src, s0, dst, d0, n, other[0])
    else:
        add_rows(src, s0, other, s0, dst, d0, n)


@cached
def _transpose_finished(src, s0, src_row, dst, d0, dst_row, bias, c, residual, relu):
    transpose_finished(src, s0, src_row, dst, d0, dst_row, bias, c, residual, relu)


@cached
def _products(rows, nt, Y, y0, y_row, X, x0, off, j0, vectors, C, c0, c_row, accumulate):
    product_block(rows, nt, Y, y0, y_row, X, x0, off, j0, vectors, C, c0, c_row, accumulate)


@cached
def _transpose(src, s0, src_row, dst, d0, dst_row):
    transpose_block(src, s0, src_row, dst, d0, dst_row)


def _integers(rng, size, dtype):
    return rng.integers(-4, 5, size).astype(dtype)


def test_every_register_tile_fits_the_registers():
    for mr, nv in tiles():
        assert mr * nv + nv + 1 <= isa.registers()
    assert {1, 2, 4} <= set(widest())  # any number of rows can be made of them


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("accumulate", [False, True])
def test_pixel_tiles_equal_their_twin(dtype, accumulate):
    rng, W = np.random.default_rng(1), isa.width(dtype)
    for mr, nv in tiles():
        for K in (1, 2, 5):
            for a_row, a_col in ((K + 3, 1), (1, mr)):  # weights as they lie, and a packed panel
                A, B = _integers(rng, 200, dtype), _integers(rng, 4 * W + 60, dtype)
                off = rng.integers(0, 50, K + 2)
                C = _integers(rng, mr * (4 * W + 5) + 2, dtype)
                want, got = C.copy(), C.copy()
                C_row = 4 * W + 5
                residual = _integers(rng, 2 * C.size, dtype)
                for last, with_bias, add, relu in product((False, True), repeat=4):
                    want, got = np.full(2 * C.size, 99, dtype), np.full(2 * C.size, 99, dtype)
                    bias = _integers(rng, (mr + 4) * with_bias, dtype)
                    arguments = (mr, nv, A, 3, a_row, a_col, B, 1, off, 2, K, C, 2, C_row, accumulate)
                    microkernel_twin(*arguments, want, 7, C_row + 3, last, bias, 4, residual, add, relu)
                    _tile(*arguments, got, 7, C_row + 3, last, bias, 4, residual, add, relu, 1, True)
                    np.testing.assert_array_equal(got, want, err_msg=f"{mr}x{nv} K={K} a_row={a_row} {last}")


@pytest.mark.parametrize("down", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_repeated_tiles_equal_their_twins(dtype, down):
    """Three tiles one below another, or beside another: each has its own rows of A and bias, or columns of B."""
    rng, W, K, times = np.random.default_rng(8), isa.width(dtype), 5, 3
    for mr, nv in tiles():
        for a_row, a_col in ((K + 3, 1), (1, 3 * mr)):
            A, B = _integers(rng, 3 * mr * (K + 3) + 9, dtype), _integers(rng, times * nv * W + 60, dtype)
            off, bias = rng.integers(0, 50, K + 2), _integers(rng, 3 * mr + 4, dtype)
            C_row = times * nv * W + 5
            C = _integers(rng, 3 * mr * C_row + 2, dtype)
            want, got = np.full(2 * C.size, 99, dtype), np.full(2 * C.size, 99, dtype)
            residual = _integers(rng, 2 * C.size, dtype)
            for t in range(times):
                i, j = (t * mr, 0) if down else (0, t * nv * W)
                microkernel_twin(
                    mr, nv, A, 3 + i * a_row, a_row, a_col, B, 1 + j, off, 2, K, C, 2 + i * C_row + j, C_row, True,
                    want, 7 + i * (C_row + 3) + j, C_row + 3, True, bias, 4 + i, residual, True, True,
                )  # fmt: skip
            _tile(
                mr, nv, A, 3, a_row, a_col, B, 1, off, 2, K, C, 2, C_row, True, got, 7, C_row + 3, True, bias, 4,
                residual, True, True, times, down,
            )  # fmt: skip
            np.testing.assert_array_equal(got, want, err_msg=f"{mr}x{nv} a_row={a_row}")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("accumulate", [False, True])
def test_channel_tiles_equal_their_twin(dtype, accumulate):
    rng, W = np.random.default_rng(2), isa.width(dtype)
    for mr, nv in tiles():
        for K, times in ((1, 1), (2, 3), (5, 2)):
            A, B = _integers(rng, 120, dtype), _integers(rng, K * nv * W + 3, dtype)
            off, at = rng.integers(0, 50, K + 2), rng.integers(0, 50, times * mr + 1)
            C = _integers(rng, times * mr * (nv * W + 5) + 2, dtype)
            want, got = C.copy(), C.copy()
            arguments = (nv, A, 4, at, 1, off, 2, K, B, 3)
            microkernel_channels_twin(times * mr, *arguments, want, 2, nv * W + 5, accumulate)
            _tile_channels(mr, *arguments, got, 2, nv * W + 5, accumulate, times)
            np.testing.assert_array_equal(got, want, err_msg=f"{mr}x{nv} K={K}")


@pytest.mark.parametrize("dtype", DTYPES)
def test_blocks_at_every_tail(dtype):
    """Any number of rows and columns: the wanted cells are right, and nothing behind the last whole vector changes."""
    rng, W, K = np.random.default_rng(3), isa.width(dtype), 3
    A, off = _integers(rng, 30 * K, dtype), rng.integers(0, 20, K)
    B = _integers(rng, 20 + 7 * W, dtype)
    for mr in [m for m in widest() if m >= 4]:
        for rows in range(1, 20):
            for cols in {1, 2, W - 1, W, W + 1, 2 * W, 3 * W - 1, 3 * W, 4 * W, 5 * W, 5 * W + 1} - {0}:
                padded = -(-cols // W) * W
                C = np.full((rows + 1, 7 * W), 99, dtype)
                block = (rows, cols, mr, A, 0, K, B, 0, off, 0, K, C.reshape(-1), 0, 7 * W)
                none = C[0, :0]
                _block(*block, False, False, none, np.array([0, 0, 1, 0, 0, 0]), none, 0, none, False)
                patches = np.stack([B[o : o + padded] for o in off])
                want = A[: rows * K].reshape(rows, K) @ patches
                np.testing.assert_array_equal(C[:rows, :padded], want, err_msg=f"mr={mr} {rows}x{cols}")
                assert (C[rows] == 99).all()
                assert (C[:, padded:] == 99).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_finished_blocks_go_to_rows(dtype):
    """Rows of a run leave alone what lies between rows of the output, and behind the last."""
    rng, W, K = np.random.default_rng(6), isa.width(dtype), 3
    for _ in range(300):
        rows, height, pitch = int(rng.integers(1, 12)), int(rng.integers(1, 6)), W + int(rng.integers(8 * W))
        width = int(rng.integers(1, pitch + 1))
        if rng.random() < 0.4:
            width = max(1, width // W) * W  # whole vectors: rows are taken one by one
        line = width + int(rng.integers(3))
        plane, cols = height * line + int(rng.integers(3)), (height - 1) * pitch + width
        padded = -(-cols // W) * W
        A, B = _integers(rng, rows * K, dtype), _integers(rng, padded + 20, dtype)
        off, before = rng.integers(0, 20, K), _integers(rng, rows * padded, dtype)
        accumulate, with_bias, with_residual, relu = (bool(flag) for flag in rng.integers(2, size=4))
        got = np.full(rows * plane + 2, 99, dtype)
        bias, residual = _integers(rng, (rows + 2) * with_bias, dtype), _integers(rng, got.size * with_residual, dtype)
        target = np.array([2, plane, pitch, width, height, line])
        _block(
            rows, cols, 8, A, 0, K, B, 0, off, 0, K, before.copy(), 0, padded, accumulate, True, got, target, bias, 2,
            residual, relu,
        )  # fmt: skip
        sums = A.reshape(rows, K) @ np.stack([B[o : o + padded] for o in off])
        sums += before.reshape(rows, padded) if accumulate else 0
        sums += bias[2:, None] if with_bias else 0
        want = np.full(got.size, 99, dtype)
        for i in range(height):
            places = 2 + plane * np.arange(rows)[:, None] + i * line + np.arange(width)
            finished = sums[:, i * pitch : i * pitch + width] + (residual[places] if with_residual else 0)
            want[places] = np.maximum(finished, 0) if relu else finished
        np.testing.assert_array_equal(got, want, err_msg=f"{rows} rows, {target}")


@pytest.mark.parametrize("dtype", DTYPES)
def test_channel_blocks_at_every_tail(dtype):
    rng, W, K = np.random.default_rng(4), isa.width(dtype), 3
    A, off, at = _integers(rng, 60, dtype), rng.integers(0, 20, K), rng.integers(0, 40, 30)
    for nv in range(1, max(widest().values()) + 1):
        B = _integers(rng, K * nv * W, dtype)
        for pixels in range(1, 26):
            C = np.full((pixels + 1, nv * W), 99, dtype)
            _channels(pixels, nv, A, 0, at, 2, off, 0, K, B, 0, C.reshape(-1), 0, nv * W, False)
            want = A[at[2 : 2 + pixels, None] + off[None, :]] @ B.reshape(K, nv * W)
            np.testing.assert_array_equal(C[:pixels], want, err_msg=f"nv={nv} pixels={pixels}")
            assert (C[pixels] == 99).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("accumulate", [False, True])
def test_products_of_rows(dtype, accumulate):
    """Any number of rows against as many as a tile takes: each sum is right, and nothing beside them changes."""
    rng, W = np.random.default_rng(6), isa.width(dtype)
    widest = most_products()[4]
    for vectors in (1, 3):
        Y, X = _integers(rng, 12 * (vectors * W + 5), dtype), _integers(rng, 90 + vectors * W, dtype)
        off = rng.integers(0, 80, widest + 2)
        rows_of_x = np.stack([X[3 + o :][: vectors * W] for o in off[2:]])
        for rows in range(1, 12):
            rows_of_y = np.stack([Y[1 + i * (vectors * W + 5) :][: vectors * W] for i in range(rows)])
            for nt in range(1, widest + 1):
                C = np.full((rows + 2, widest + 3), 99, dtype)
                want = C.copy()
                want[1 : rows + 1, 1 : nt + 1] *= accumulate
                want[1 : rows + 1, 1 : nt + 1] += rows_of_y @ rows_of_x[:nt].T
                _products(
                    rows, nt, Y, 1, vectors * W + 5, X, 3, off, 2, vectors, C.reshape(-1), widest + 4, widest + 3,
                    accumulate,
                )  # fmt: skip
                np.testing.assert_array_equal(C, want, err_msg=f"{rows}x{nt}")


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_at_every_length(dtype):
    rng, W = np.random.default_rng(5), isa.width(dtype)
    other = _integers(rng, 8 * W + 40, dtype)
    for n in range(3 * W + 2):
        source = _integers(rng, 7 + max(2 * n - 1, n), dtype)  # a read past the row's end would leave the array
        wanted = [source[7 : 7 + n], source[7::2][:n], np.zeros(n), source[7 : 7 + n] + other[0]]
        wanted.append(source[7 : 7 + n] + other[7 : 7 + n])
        for which, want in enumerate(wanted):
            target = np.full(n + 9, 99, dtype)
            _rows(which, source, 7, other, target, 5, n)
            np.testing.assert_array_equal(target[5 : 5 + n], want, err_msg=f"row operation {which}, n={n}")
            assert (target[:5] == 99).all()
            assert (target[5 + n :] == 99).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_transpose(dtype):
    W = isa.width(dtype)
    source, target = np.arange(W * (W + 3), dtype=dtype), np.zeros(W * (W + 1), dtype)
    _transpose(source, 2, W + 2, target, 1, W + 1)
    want = np.array([[source[2 + i * (W + 2) + j] for i in range(W)] for j in range(W)])
    np.testing.assert_array_equal(np.array([target[1 + j * (W + 1) :][:W] for j in range(W)]), want)


@pytest.mark.parametrize("dtype", DTYPES)
def test_transpose_finished(dtype):
    rng, W = np.random.default_rng(7), isa.width(dtype)
    source = _integers(rng, W * (W + 3), dtype)
    for with_bias, with_residual, relu in np.ndindex(2, 2, 2):
        target = np.full(W * (W + 1), 99, dtype)
        bias, residual = _integers(rng, (W + 3) * with_bias, dtype), _integers(rng, target.size * with_residual, dtype)
        want = target.copy()
        cells = np.add.outer(1 + (W + 1) * np.arange(W), np.arange(W))
        sums = source[np.add.outer(np.arange(W), 2 + (W + 2) * np.arange(W))]
        sums = sums + (bias[3:, None] if with_bias else 0) + (residual[cells] if with_residual else 0)
        want[cells] = np.maximum(sums, 0) if relu else sums
        _transpose_finished(source, 2, W + 2, target, 1, W + 1, bias, 3, residual, bool(relu))
        np.testing.assert_array_equal(target, want)


@pytest.mark.skipif(INSIDE in os.environ, reason="this process is the other CPU")
@pytest.mark.parametrize("cpu", OTHER_CPUS)
def test_on_other_instruction_sets(cpu, tmp_path):
    environment = {
        **os.environ, INSIDE: cpu, "NUMBA_CPU_NAME": cpu, "NUMBA_CPU_FEATURES": OTHER_CPUS[cpu],
        "FASTCONV_CACHE_DIR": str(tmp_path),
    }  # fmt: skip
    if isa.name() not in ("AVX-512", "AVX2+FMA"):
        pytest.skip(f"this CPU ({isa.name()}) cannot run code for {cpu}")
    code = "from fastconv.cpu import isa; print(isa.name())"
    name = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert name.stdout.strip() == {"haswell": "AVX2+FMA", "generic": "baseline"}[cpu]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", __file__],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
