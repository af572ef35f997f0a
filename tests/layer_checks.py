"""What tests of layers share: memory orders, and derivatives by finite differences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


def channels_last(x: np.ndarray) -> np.ndarray:
    """The same array with (N, *spatial, C) memory."""
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)


def orders(x: np.ndarray) -> list[np.ndarray]:
    """x in both memory orders, and strided, reversed and read-only."""
    wide = np.repeat(x, 2, axis=-1)[..., ::2]
    fixed = x.copy()
    fixed.flags.writeable = False
    return [x, channels_last(x), wide, x[..., ::-1].copy()[..., ::-1], fixed]


def numeric_gradient(f: Callable[[], float], x: np.ndarray, count: int = 12, step: float = 1e-6) -> Any:
    """Places in x and the derivative of f with respect to them, by central differences; x is changed and restored."""
    random = np.random.default_rng(0)
    flat = x.reshape(-1)
    places = random.choice(flat.size, min(count, flat.size), replace=False)
    slopes = []
    for at in places:
        before = flat[at]
        flat[at] = before + step
        above = f()
        flat[at] = before - step
        below = f()
        flat[at] = before
        slopes.append((above - below) / (2 * step))
    return places, np.array(slopes)


def assert_gradient(f: Callable[[], float], x: np.ndarray, gradient: np.ndarray, tolerance: float = 1e-6) -> None:
    """`gradient` is the derivative of f with respect to x (float64, contiguous), at some of its elements."""
    assert gradient.shape == x.shape
    assert x.flags.c_contiguous
    places, slopes = numeric_gradient(f, x)
    scale = max(1.0, float(np.abs(slopes).max()))
    np.testing.assert_allclose(gradient.reshape(-1)[places], slopes, atol=tolerance * scale, rtol=0)
