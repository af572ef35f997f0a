"""Dropout: a random bit for every element, made from its number, so that any thread can make it, and again."""

from __future__ import annotations

import numpy as np

from fastconv.cpu.jit import inline, kernel
from fastconv.cpu.simd import claim, unpack

_GOLDEN, _FIRST, _SECOND = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


@inline
def random_bits(seed, index):  # type: ignore[no-untyped-def]
    """64 random bits: output `index` of the generator splitmix64 (Steele, Lea & Flood 2014)."""
    z = seed + (np.uint64(index) + np.uint64(1)) * _GOLDEN
    z = (z ^ (z >> np.uint64(30))) * _FIRST
    z = (z ^ (z >> np.uint64(27))) * _SECOND
    return z ^ (z >> np.uint64(31))


# geometry: seed, elements of a unit (of one random number), units of a task


@kernel
def dropout(thread, counter, tasks, geometry, constants, x, out):  # type: ignore[no-untyped-def]
    """out = x / (1 - p) where kept, 0 else; constants: the threshold p * 2**32 and the scale."""
    seed, size, block = unpack(geometry, 3)
    threshold, scale = np.uint64(constants[0]), x.dtype.type(constants[1])
    units = x.size // size
    while True:
        task = claim(counter)
        if task >= tasks:
            break
        for unit in range(task * block, min(units, task * block + block)):
            kept = random_bits(np.uint64(seed), unit) >> np.uint64(32) >= threshold
            for i in range(unit * size, unit * size + size):
                out[i] = x[i] * scale if kept else x.dtype.type(0)
