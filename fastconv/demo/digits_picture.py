"""The picture of the demo's second part: how training went, what the first layer learned, and the page it read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fastconv.demo.digits import NOTHING, STRIDE, WINDOW, Data, Found, Page, Training, framed, matched
from fastconv.demo.gallery import BACKGROUND, FAINT, FOREGROUND

__all__ = ["draw"]

COLOURS = np.array([mpl.colors.to_rgb(name) for name in (
    "#e6194b", "#3cb44b", "#ffe119", "#4363d8", "#f58231", "#b56cf0", "#46f0f0", "#f032e6", "#bcf60c", "#fabebe",
)])  # fmt: skip


def draw(data: Data, training: Training, page: Page, found: Found, heading: str, path: Path) -> None:
    """Write the picture in the format that the path's suffix names."""
    width, margin = 16.0, 0.35
    page_width = width - 2 * margin
    page_height = page_width * page.pixels.shape[0] / page.pixels.shape[1]
    top, upper, caption = 0.75, 3.3, 0.75
    height = top + upper + caption + page_height + margin
    figure = Figure(figsize=(width, height), facecolor=BACKGROUND)
    FigureCanvasAgg(figure)

    def place(left: float, under: float, wide: float, high: float) -> Any:
        return figure.add_axes((left / width, under / height, wide / width, high / height))

    middle = 1 - 0.5 * top / height
    title = "fastconv · a LeNet learns to read"
    figure.text(margin / width, middle, title, color=FOREGROUND, fontsize=22, weight="bold", va="center")
    figure.text(1 - margin / width, middle, heading, color=FAINT, fontsize=12, va="center", ha="right")
    under = height - top - upper
    curves(place(margin + 0.45, under + 0.4, 4.6, upper - 0.85), training)
    filters(place(6.05, under + 0.05, 3.9, upper - 0.5), training.network[0].weight.data[:, 0])
    examples(place(10.45, under + 0.05, width - margin - 10.45, upper - 0.5), data, training)
    right, wrong, extra = matched(page, found)
    axes = place(margin, margin, page_width, page_height)
    read(axes, page, found)
    label(
        axes,
        f"The same network, fully convolutional, on a page of {len(page.digits)} test digits",
        f"its full layers read as convolutions: {found.probabilities[0].size} windows in {1e3 * found.seconds:.1f} ms. "
        f"Colour is the class, brightness its probability. {right} read rightly, {wrong} wrongly, {extra} seen where "
        "there are none",
    )
    figure.savefig(path, dpi=100, facecolor=BACKGROUND)


def label(axes: Any, title: str, line: str) -> None:
    """A title and a line below it, above the axes."""
    above: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points", "va": "bottom"}
    axes.annotate(title, (0, 1), (0, 19), color=FOREGROUND, fontsize=12.5, weight="bold", **above)
    axes.annotate(line, (0, 1), (0, 6), color=FAINT, fontsize=9, **above)


def curves(axes: Any, training: Training) -> None:
    """Loss and test accuracy over the epochs."""
    epochs = np.arange(1, len(training.losses) + 1)
    axes.set_facecolor(BACKGROUND)
    axes.plot(epochs, training.losses, color="#ff9f43", linewidth=1.8)
    axes.set_yscale("log")
    axes.set_xlabel("epoch", color=FAINT, fontsize=9)
    axes.set_ylabel("training loss", color="#ff9f43", fontsize=9)
    other = axes.twinx()
    errors = 100 * (1 - np.array(training.accuracies))
    other.plot(epochs, np.maximum(errors, 0.1), color="#54c6eb", linewidth=1.8)
    other.set_yscale("log")
    other.set_ylim(0.1, 100)
    other.set_yticks([0.1, 1, 10, 100], ["0.1 %", "1 %", "10 %", "100 %"])
    other.set_ylabel("test errors", color="#54c6eb", fontsize=9)
    for part in (axes, other):
        part.tick_params(which="both", colors=FAINT, labelsize=8)
        for spine in part.spines.values():
            spine.set_color("#3a3f47")
    label(axes, "Training", f"{100 * training.accuracy:.1f} % of unseen digits after {training.seconds:.1f} s")


def tiles(pictures: np.ndarray, columns: int, gap: int = 1, value: float = np.nan) -> np.ndarray:
    """Pictures side by side in a grid."""
    n, height, width = pictures.shape
    rows = -(-n // columns)
    grid = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap), value)
    for index, picture in enumerate(pictures):
        row, column = divmod(index, columns)
        y, x = row * (height + gap), column * (width + gap)
        grid[y : y + height, x : x + width] = picture
    return grid


def filters(axes: Any, weight: np.ndarray) -> None:
    """The first layer: red adds, blue subtracts; each filter has its own scale, the strongest come first."""
    order = np.argsort(-np.abs(weight).max(axis=(1, 2)))
    scaled = weight[order] / np.abs(weight[order]).max(axis=(1, 2), keepdims=True)
    colours = mpl.colormaps["RdBu_r"].copy()
    colours.set_bad(BACKGROUND)
    axes.imshow(tiles(scaled, 6), cmap=colours, vmin=-1, vmax=1, interpolation="nearest")
    axes.set_anchor("NW")
    axes.set_axis_off()
    label(axes, "First layer", f"the {len(weight)} learned 5 × 5 filters: strokes, ends and corners")


def examples(axes: Any, data: Data, training: Training) -> None:
    """Test digits with what the network says: its mistakes first."""
    said = training.network(framed(data.test)).argmax(1)
    wrong = np.flatnonzero(said != data.test_classes)
    right = np.flatnonzero(said == data.test_classes)
    columns, rows = 9, 4
    shown = np.concatenate([wrong, right])[: columns * rows]
    pixels = tiles(data.test[shown, 0], columns, gap=3, value=0.0)
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    for index, number in enumerate(shown):
        row, column = divmod(index, columns)
        mistake = said[number] != data.test_classes[number]
        text = ("–" if said[number] == NOTHING else str(said[number])) + (
            f"≠{data.test_classes[number]}" if mistake else ""
        )
        axes.text(
            column * 11 + 8.9, row * 11 + 9.4, text, color="#ff5c5c" if mistake else "#5dd39e", fontsize=9, ha="right",
            va="center", weight="bold",
        )  # fmt: skip
    axes.set_anchor("NW")
    axes.set_axis_off()
    label(axes, "Unseen digits", f"{len(wrong)} of {len(said)} misread (red: said ≠ true)")


def read(axes: Any, page: Page, found: Found) -> None:
    """The page, over it the class map, and the digits picked from it."""
    height, width = page.pixels.shape
    probabilities = found.probabilities
    kinds = probabilities[:NOTHING].argmax(0)
    sure = 1 - probabilities[NOTHING]
    ink = np.clip(page.pixels, 0, 1)[..., None]
    map_ = np.zeros((height, width, 3))
    strength = np.zeros((height, width))
    for row in range(sure.shape[0]):
        for column in range(sure.shape[1]):
            y, x = STRIDE * row + WINDOW // 2 - 1, STRIDE * column + WINDOW // 2 - 1
            map_[y : y + STRIDE, x : x + STRIDE] = COLOURS[kinds[row, column]]
            strength[y : y + STRIDE, x : x + STRIDE] = sure[row, column]
    glow = 0.55 * strength[..., None] * map_
    paper = np.array(mpl.colors.to_rgb("#1d2026"))
    axes.imshow(np.clip(paper + glow + ink * (1 - paper - 0.5 * glow), 0, 1), interpolation="nearest", aspect="auto")
    for y, x, kind in found.digits:
        axes.text(
            x + 3.4, y - 3.6, str(kind), color=COLOURS[kind], fontsize=13, weight="bold", ha="center", va="center"
        )
    axes.set_axis_off()
