"""The picture of the demo's second part: how training went, what the first layer learned, and the page it read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import fastconv
from fastconv.demo.digits import NOTHING, SIDE, STRIDE, WINDOW, Data, Found, Page, Training, framed, matched
from fastconv.demo.gallery import BACKGROUND, FAINT, FOREGROUND

__all__ = ["draw"]

COLOURS = np.array([mpl.colors.to_rgb(name) for name in (
    "#e6194b", "#3cb44b", "#ffe119", "#4363d8", "#f58231", "#b56cf0", "#46f0f0", "#f032e6", "#bcf60c", "#fabebe",
)])  # fmt: skip
PAPER = np.array(mpl.colors.to_rgb("#1d2026"))
RIGHT, WRONG = "#5dd39e", "#ff5c5c"


def draw(data: Data, training: Training, page: Page, found: Found, heading: str, path: Path) -> None:
    """Write the picture in the format that the path's suffix names."""
    width, margin = 16.0, 0.35
    page_width = width - 2 * margin
    page_height = page_width * page.pixels.shape[0] / page.pixels.shape[1]
    top, upper, caption = 0.75, 3.3, 0.75
    height = top + upper + 2 * (caption + page_height) + margin
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
    examples(place(10.3, under + 0.05, width - margin - 10.3, upper - 0.5), data, training)
    right, wrong, extra = matched(page, found)
    axes = place(margin, margin + page_height + caption, page_width, page_height)
    read(axes, page, found)
    label(
        axes,
        f"A page of {len(page.digits)} test digits, read by the same network",
        f"{right} read rightly, {wrong} wrongly, {extra} seen where there are none",
    )
    axes = place(margin, margin, page_width, page_height)
    class_map(axes, page, found)
    label(
        axes,
        "Its class map",
        f"the full layers read as convolutions: {found.probabilities[0].size} windows in {1e3 * found.seconds:.1f} ms; "
        "colour is the class, brightness its probability",
    )
    legend(axes)
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
    finer = fastconv.interpolate(weight[order][:, None], scale_factor=8, mode="bicubic")[:, 0]
    scaled = finer / np.abs(finer).max(axis=(1, 2), keepdims=True)
    colours = mpl.colormaps["RdBu_r"].with_extremes(bad=BACKGROUND)
    axes.imshow(tiles(scaled, 6, gap=8), cmap=colours, vmin=-1, vmax=1, interpolation="nearest")
    axes.set_anchor("NW")
    axes.set_axis_off()
    label(axes, "First layer", f"its {len(weight)} learned 5 × 5 filters, drawn smoothly: strokes and ends")


def examples(axes: Any, data: Data, training: Training) -> None:
    """Test digits with what the network says: its mistakes first."""
    said = training.network(framed(data.test)).argmax(1)
    wrong = np.flatnonzero(said != data.test_classes)
    right = np.flatnonzero(said == data.test_classes)
    columns, rows, high, wide = 6, 5, SIDE + 1, SIDE + 8
    shown = np.concatenate([wrong, right])[: columns * rows]
    ink = np.full((rows * high - 1, columns * wide), np.nan)
    for index, number in enumerate(shown):
        y, x = index // columns * high, index % columns * wide
        ink[y : y + SIDE, x : x + SIDE] = data.test[number, 0]
        mistake = said[number] != data.test_classes[number]
        text = name(said[number]) + (f"≠{data.test_classes[number]}" if mistake else "")
        axes.text(x + SIDE + 0.3, y + 3.5, text, color=WRONG if mistake else RIGHT, fontsize=12, va="center")
    colours = mpl.colormaps["gray"].with_extremes(bad=BACKGROUND)
    axes.imshow(ink, cmap=colours, vmin=0, vmax=1, interpolation="nearest")
    axes.set_anchor("NW")
    axes.set_axis_off()
    label(axes, "Unseen digits", f"{len(wrong)} of {len(said)} misread (red: said ≠ true)")


def name(kind: int) -> str:
    """A class as it is written."""
    return "–" if kind == NOTHING else str(kind)


def read(axes: Any, page: Page, found: Found) -> None:
    """The page, and at every digit found what it was read as; a line below those that are something else."""
    ink = np.clip(page.pixels, 0, 1)[..., None]
    axes.imshow(PAPER + ink * (1 - PAPER), interpolation="nearest", aspect="auto")
    for y, x, kind in found.digits:
        near = np.abs(page.digits[:, :2] - (y, x)).max(1)
        true = near.min() <= 3 and page.digits[near.argmin(), 2] == kind
        axes.text(x + 4.6, y - 3.4, str(kind), color=COLOURS[kind], fontsize=14, weight="bold", ha="center",
                  va="center")  # fmt: skip
        if not true:
            axes.plot([x - 4, x + 6], [y + 5, y + 5], color=WRONG, linewidth=2)
    axes.set_axis_off()


def class_map(axes: Any, page: Page, found: Found) -> None:
    """For every window the class that it most looks like, as bright as it is sure to be a digit."""
    height, width = page.pixels.shape
    kinds, sure = found.probabilities[:NOTHING].argmax(0), 1 - found.probabilities[NOTHING]
    classes = np.zeros((height, width, 3))
    begin = WINDOW // 2 - STRIDE // 2
    seen = (sure[..., None] * COLOURS[kinds]).repeat(STRIDE, 0).repeat(STRIDE, 1)
    classes[begin : begin + seen.shape[0], begin : begin + seen.shape[1]] = seen
    ink = np.clip(page.pixels, 0, 1)[..., None]
    axes.imshow(np.clip(0.6 * PAPER + 0.22 * ink + classes * (1 - 0.22 * ink), 0, 1), interpolation="nearest",
                aspect="auto")  # fmt: skip
    axes.set_axis_off()


def legend(axes: Any) -> None:
    """The classes in their colours, above the axes on the right."""
    for kind, colour in enumerate(COLOURS):
        axes.annotate(str(kind), (1, 1), (18 * (kind - 9) - 6, 8), color=colour, fontsize=15, weight="bold",
                      ha="center", va="bottom", xycoords="axes fraction", textcoords="offset points")  # fmt: skip
