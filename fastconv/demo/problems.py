"""What the demo computes: a photograph, the classic image kernels, and a small stack of CNN layers."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["MissingExtra", "Problem", "UnusableImage", "filter_bank", "layer_stack", "photograph"]

PIP_COMMAND = 'python -m pip install ".[demo]"'


class MissingExtra(ImportError):
    """A library of the [demo] extra is not installed."""

    def __init__(self, name: str) -> None:
        super().__init__(f"the demo needs {name}; in fastconv's folder run: {PIP_COMMAND}")


class UnusableImage(ValueError):
    """An image cannot be read or written."""


@dataclass(frozen=True)
class Problem:
    """One convolution: weights, options of ``conv2d``, and whose result it reads.

    ``after`` names the problem whose result is the input, None for the image; ``residual`` adds that input.
    """

    name: str
    weight: np.ndarray
    bias: np.ndarray | None = None
    options: dict[str, Any] = field(default_factory=dict)
    after: str | None = None
    residual: bool = False
    note: str = ""


def photograph(name: str, size: int) -> np.ndarray:
    """Read a photograph as float32 ``(3, height, width)`` in [0, 1], its longer side scaled to ``size``.

    ``name`` is astronaut (scikit-image), china or flower (scikit-learn), or a file.
    """
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise MissingExtra("pillow") from error
    if name == "astronaut":
        try:
            from skimage import data
        except ImportError as error:
            raise MissingExtra("scikit-image") from error
        picture = Image.fromarray(data.astronaut())
    elif name in ("china", "flower"):
        try:
            from sklearn.datasets import load_sample_image
        except ImportError as error:
            raise MissingExtra("scikit-learn") from error
        picture = Image.fromarray(load_sample_image(f"{name}.jpg"))
    else:
        try:
            picture = Image.open(Path(name)).convert("RGB")
        except UnidentifiedImageError as error:
            raise UnusableImage(f"--image {name}: not a picture that pillow can read") from error
        except OSError as error:
            raise UnusableImage(f"--image {name}: {error.strerror or error}") from error
    scale = size / max(picture.size)
    if scale != 1:
        width, height = (max(1, round(side * scale)) for side in picture.size)
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    if min(picture.size) < 32:  # reflecting needs more pixels than half the largest kernel
        raise UnusableImage(f"--image {name} at --size {size} is {picture.width}x{picture.height}; both sides need 32")
    return np.ascontiguousarray(np.asarray(picture, dtype=np.float32).transpose(2, 0, 1) / np.float32(255))


def gaussian(size: int, sigma: float | None = None) -> np.ndarray:
    """A Gaussian of ``size`` x ``size`` taps that sums to one; the default width is OpenCV's for that size."""
    sigma = sigma or 0.3 * ((size - 1) * 0.5 - 1) + 0.8
    line = np.exp(-0.5 * ((np.arange(size) - (size - 1) / 2) / sigma) ** 2)
    kernel = np.outer(line, line)
    return kernel / kernel.sum()


def motion(size: int, degrees: float) -> np.ndarray:
    """A line of ``size`` pixels through the centre: what a camera moving in that direction records."""
    middle = (size - 1) / 2
    along = np.linspace(-middle, middle, 8 * size)
    x = middle + along * np.cos(np.radians(degrees))
    y = middle - along * np.sin(np.radians(degrees))
    kernel = np.zeros((size, size))
    np.add.at(kernel, (np.rint(y).astype(int), np.rint(x).astype(int)), 1.0)
    return kernel / kernel.sum()


def filter_bank() -> list[Problem]:
    """The classic kernels, each for a plane of one channel; edges reflect so that borders stay natural."""
    identity = np.zeros((3, 3))
    identity[1, 1] = 1
    sobel_x = np.outer([1, 2, 1], [-1, 0, 1])
    kernels = {
        "identity": identity,
        "edge": np.array([[-1, -1, -1], [-1, 8, -1], [-1, -1, -1]]),
        "Sobel x": sobel_x,
        "Sobel y": sobel_x.T,
        "sharpen": np.array([[0, -1, 0], [-1, 5, -1], [0, -1, 0]]),
        "emboss": np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]]),
        "box": np.full((9, 9), 1 / 81),
        "Gaussian 5": gaussian(5),
        "Gaussian 15": gaussian(15),
        "Gaussian 31": gaussian(31),
        "motion blur 31": motion(31, 30),
    }
    options = {"padding": "same", "padding_mode": "reflect"}
    return [Problem(name, kernel.astype(np.float32)[None, None], options=options) for name, kernel in kernels.items()]


def gabor(size: int, degrees: float, phase: float) -> np.ndarray:
    """A wave under a Gaussian, zero on a flat surface: it answers to edges or lines of one direction."""
    axis = np.arange(size) - (size - 1) / 2
    x, y = np.meshgrid(axis, axis)
    along = x * np.cos(np.radians(degrees)) + y * np.sin(np.radians(degrees))
    envelope = np.exp(-(x**2 + y**2) / (2 * (size / 4) ** 2))
    wave = envelope * np.cos(2 * np.pi * along / (0.8 * size) + phase)
    wave -= envelope * (wave.sum() / envelope.sum())
    return wave / np.abs(wave).sum()


def layer_stack() -> list[Problem]:
    """Five layers shaped as in real networks. Nothing is trained: the first two are designed, the rest fixed random."""
    first = [
        np.full((3, 1, 1), 1 / 3) * gabor(7, degrees, phase)
        for degrees in range(0, 180, 30)
        for phase in (0.0, -np.pi / 2)
    ]
    opponent = {"red - green": [1, -1, 0], "blue - yellow": [-0.5, -0.5, 1]}
    for weights in opponent.values():
        spot = np.array(weights)[:, None, None] * gaussian(7)
        first += [0.25 * spot, -0.25 * spot]
    random = np.random.default_rng(0)

    def he(*shape: int) -> np.ndarray:  # the spread that keeps activations the same size from layer to layer
        weights = random.standard_normal(shape)
        weights -= weights.mean(axis=(1, 2, 3), keepdims=True)
        return (weights * np.sqrt(2 / np.prod(shape[1:]))).astype(np.float32)

    def bias(channels: int) -> np.ndarray:
        return np.zeros(channels, dtype=np.float32)

    return [
        Problem(
            "Gabor 7x7/2",
            np.array(first, dtype=np.float32),
            bias(16),
            {"stride": 2, "padding": 3, "activation": "relu"},
            note="3→16, waves, colour contrasts",
        ),
        Problem(
            "depthwise 5x5",
            np.broadcast_to(gaussian(5).astype(np.float32), (16, 1, 5, 5)).copy(),
            bias(16),
            {"padding": 2, "groups": 16, "activation": "relu"},
            after="Gabor 7x7/2",
            note="16, local energy",
        ),
        Problem(
            "pointwise 1x1",
            he(32, 16, 1, 1),
            bias(32),
            {"activation": "relu"},
            after="depthwise 5x5",
            note="16→32, fixed random mixture",
        ),
        Problem(
            "dilated 3x3",
            he(32, 32, 3, 3),
            bias(32),
            {"padding": 2, "dilation": 2, "activation": "relu"},
            after="pointwise 1x1",
            residual=True,
            note="32, residual, fixed random",
        ),
        Problem(
            "strided 3x3/2",
            he(64, 32, 3, 3),
            bias(64),
            {"stride": 2, "padding": 1, "activation": "relu"},
            after="dilated 3x3",
            note="32→64, fixed random",
        ),
    ]
