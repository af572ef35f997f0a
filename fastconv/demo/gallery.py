"""The demo's picture: the photograph, every filter's result with its kernel, and the layers' feature maps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import hsv_to_rgb
from matplotlib.figure import Figure

from fastconv.demo.measure import Result
from fastconv.demo.table import milliseconds

__all__ = ["draw"]

BACKGROUND, FOREGROUND, FAINT = "#14161a", "#f2f2f2", "#9aa0aa"
COLUMNS = 5
SIDE = 3  # feature maps of a layer are shown SIDE x SIDE


def draw(image: np.ndarray, filters: list[Result], layers: list[Result], heading: str, path: Path) -> None:
    """Write the gallery in the format that the path's suffix names."""
    by_name = {result.problem.name: result for result in filters}
    horizontal, vertical = (by_name[name].output[:, 0].mean(axis=0) for name in ("Sobel x", "Sobel y"))
    panels: list[tuple[str, str, np.ndarray, np.ndarray | None]] = [
        ("photograph", f"{image.shape[2]} × {image.shape[1]}, float32", image.transpose(1, 2, 0), None)
    ]
    for result in filters:
        panels.append((result.problem.name, caption(result), picture(result), result.problem.weight[0, 0]))
        if result.problem.name == "Sobel y":
            panels.append(("edge strength", "length of (Sobel x, Sobel y)", strength(horizontal, vertical), None))
            panels.append(("edge direction", "its angle as hue", direction(horizontal, vertical), None))
    panels.append(("unsharp mask", "photograph + 1.5 (photograph − Gaussian 15)", unsharp(image, by_name), None))
    for index, result in enumerate(layers):
        filters_shown = result.problem.weight if index == 0 else None
        line = f"{caption(result)} · {result.problem.note}"
        panels.append(
            (f"layer {index + 1}: {result.problem.name}", line, mosaic(result.output[0], filters_shown), None)
        )

    # Everything is placed in inches, so that titles keep their size whatever the photograph's shape.
    rows = -(-len(panels) // COLUMNS)
    cell, gap, titles, top, bottom = 3.2, 0.1, 0.62, 0.6, 0.1
    picture_height = cell * image.shape[1] / image.shape[2]
    width = COLUMNS * cell + (COLUMNS + 1) * gap
    height = top + rows * (picture_height + titles) + bottom
    figure = Figure(figsize=(width, height), facecolor=BACKGROUND)
    FigureCanvasAgg(figure)
    middle = 1 - 0.62 * top / height
    figure.text(gap / width, middle, "fastconv", color=FOREGROUND, fontsize=22, weight="bold", va="center")
    figure.text(1 - gap / width, middle, heading, color=FAINT, fontsize=12, va="center", ha="right")
    for index, (title, line, pixels, kernel) in enumerate(panels):
        row, column = divmod(index, COLUMNS)
        left, under = gap + column * (cell + gap), height - top - (row + 1) * (picture_height + titles)
        axes = figure.add_axes((left / width, under / height, cell / width, picture_height / height))
        axes.imshow(pixels, vmin=0, vmax=1, cmap="gray", interpolation="lanczos", aspect="auto")
        axes.set_axis_off()
        above: dict[str, Any] = {
            "xycoords": "axes fraction",
            "textcoords": "offset points",
            "va": "bottom",
            "annotation_clip": False,
        }
        axes.annotate(title, (0, 1), (0, 17), color=FOREGROUND, fontsize=12.5, weight="bold", **above)
        axes.annotate(line, (0, 1), (0, 5), color=FAINT, fontsize=8.5, **above)
        if kernel is not None:
            side = 0.62  # inches
            edge = ((cell - side - 0.05) / cell, 0.05 / picture_height, side / cell, side / picture_height)
            inset(axes.inset_axes(edge), kernel)
    figure.savefig(path, dpi=100, facecolor=BACKGROUND)


def caption(result: Result) -> str:
    return f"{result.chosen.algorithm} · {milliseconds(result.chosen.ms)} ms"


def inset(axes: Any, kernel: np.ndarray) -> None:
    """The kernel itself in a corner: where taps have both signs, red ones add and blue ones subtract."""
    limit = np.abs(kernel).max()
    signed = kernel.min() < 0
    axes.imshow(kernel, cmap="RdBu_r" if signed else "magma", vmin=-limit if signed else 0, vmax=limit)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color(FOREGROUND)
        spine.set_linewidth(0.8)


def picture(result: Result) -> np.ndarray:
    """A result as pixels: sums to one as it is, others around middle grey or by size."""
    planes = result.output[:, 0].transpose(1, 2, 0)
    kernel = result.problem.weight
    if kernel.sum() > 0.5:  # keeps brightness: colours as they are
        return np.clip(planes, 0, 1)
    grey = planes.mean(axis=2)
    if result.problem.name == "edge":
        return np.clip(np.abs(grey) / np.percentile(np.abs(grey), 99), 0, 1) ** 0.7
    return 0.5 + 0.5 * np.clip(grey / np.percentile(np.abs(grey), 98), -1, 1)


def strength(horizontal: np.ndarray, vertical: np.ndarray) -> np.ndarray:
    length = np.hypot(horizontal, vertical)
    return mpl.colormaps["magma"](np.clip(length / np.percentile(length, 99.3), 0, 1) ** 0.8)[..., :3]


def direction(horizontal: np.ndarray, vertical: np.ndarray) -> np.ndarray:
    length = np.hypot(horizontal, vertical)
    hue = (np.arctan2(vertical, horizontal) / np.pi) % 1  # an edge has no sign: half a turn is all hues
    return hsv_to_rgb(
        np.stack([hue, np.full_like(hue, 0.75), np.clip(length / np.percentile(length, 98), 0, 1) ** 0.7], -1)
    )


def unsharp(image: np.ndarray, by_name: dict[str, Result]) -> np.ndarray:
    blurred = by_name["Gaussian 15"].output[:, 0]
    return np.clip(image + 1.5 * (image - blurred), 0, 1).transpose(1, 2, 0)


def mosaic(maps: np.ndarray, weight: np.ndarray | None) -> np.ndarray:
    """Nine feature maps, spread over all channels; each has its own scale. Filters of three colours sit in a corner."""
    chosen = np.linspace(0, len(maps) - 1, SIDE * SIDE).round().astype(int)
    height, width = maps.shape[1:]
    gap = max(1, height // 60)
    pixels = np.empty((SIDE * (height + gap) - gap, SIDE * (width + gap) - gap, 3))
    pixels[:] = mpl.colors.to_rgb(BACKGROUND)
    for index, channel in enumerate(chosen):
        row, column = divmod(index, SIDE)
        top, left = row * (height + gap), column * (width + gap)
        limit = np.percentile(maps[channel], 99.5) or 1.0
        scaled = np.clip(maps[channel] / limit, 0, 1) ** 0.7  # most of a map is small: lift it
        tile = mpl.colormaps["magma"](scaled)[..., :3]
        if weight is not None:
            filter_ = weight[channel].transpose(1, 2, 0)
            zoom = max(1, min(height, width) // 4 // len(filter_))
            patch = (0.5 + 0.5 * filter_ / np.abs(filter_).max()).repeat(zoom, axis=0).repeat(zoom, axis=1)
            tile[-len(patch) :, -len(patch) :] = patch
        pixels[top : top + height, left : left + width] = tile
    return pixels
