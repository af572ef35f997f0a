"""The answer in float64, straight from the definition and with nothing but NumPy: shares no code with the kernels."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["convolve"]

PAD_MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def convolve(x: np.ndarray, weight: np.ndarray, options: dict[str, Any]) -> np.ndarray:
    """Cross-correlate ``(N, C, H, W)`` with ``(OC, C / groups, kh, kw)`` in float64, one kernel tap at a time.

    ``options`` are those of ``conv2d`` that the demo uses: stride, padding (a number or "same" at stride 1),
    dilation, groups, padding_mode. Activations are the caller's.
    """
    stride, dilation, groups = (options.get(name, 1) for name in ("stride", "dilation", "groups"))
    reach = [dilation * (k - 1) for k in weight.shape[2:]]  # how far a kernel extends past its first tap
    pad = options.get("padding", 0)
    pads = [(r // 2, r - r // 2) if pad == "same" else (pad, pad) for r in reach]
    mode: Any = PAD_MODES[options.get("padding_mode", "zeros")]
    padded = np.pad(x.astype(np.float64), [(0, 0), (0, 0), *pads], mode=mode)
    weight = weight.astype(np.float64).reshape(groups, -1, *weight.shape[1:])
    height, width = ((size - r - 1) // stride + 1 for size, r in zip(padded.shape[2:], reach, strict=True))
    out = np.zeros((x.shape[0], groups, weight.shape[1], height, width))
    for plane, result in zip(padded, out, strict=True):
        for taps, channels, accumulator in zip(weight, np.split(plane, groups), result, strict=True):
            for i, j in np.argwhere(taps.any(axis=(0, 1))):
                top, left = i * dilation, j * dilation
                window = channels[:, top : top + stride * height : stride, left : left + stride * width : stride]
                if taps.shape[:2] == (1, 1):
                    accumulator += taps[0, 0, i, j] * window
                else:
                    accumulator += np.tensordot(taps[:, :, i, j], window, axes=1)
    return out.reshape(x.shape[0], -1, height, width)
