"""A small SegNet finds handwritten digits on photographs, pixel by pixel.

Run it from a checkout, with the demo's libraries installed:

    python -m pip install ".[demo]"
    python examples/segment_digits.py

The digits are scikit-learn's, enlarged and written in any colour; they lie on patches of real photographs. The encoder
pools by maxima and remembers where they were; the decoder puts its values back to just those places
(Badrinarayanan, Kendall, Cipolla: SegNet, 2015). Digits and photographs of the test are not those of the training.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np

import fastconv
from fastconv import nn

SIDE = 64  # of a picture
BATCH = 16


@dataclass(frozen=True)
class Source:
    """What pictures are made of: digits (n, 8, 8) and photographs (3, height, width), both in 0..1."""

    digits: np.ndarray
    photographs: list[np.ndarray]


def load() -> tuple[Source, Source]:
    """Sources of training and test."""
    from skimage import data
    from sklearn.datasets import load_digits, load_sample_images

    digits = load_digits()
    images = (digits.images / 16).astype(np.float32)
    photographs = [*load_sample_images().images, data.chelsea(), data.coffee(), data.rocket(), data.astronaut()]
    *others, astronaut = (np.ascontiguousarray(p.transpose(2, 0, 1), np.float32) / 255 for p in photographs)
    order = np.random.default_rng(0).permutation(len(images))
    test, rest = order[:300], order[300:]
    return (
        Source(images[rest], others),
        Source(images[test], [astronaut]),
    )


def pictures(source: Source, count: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Pictures (count, 3, SIDE, SIDE) with a few digits each, and which pixels are ink (count, SIDE, SIDE)."""
    x = np.empty((count, 3, SIDE, SIDE), np.float32)
    inked = np.zeros((count, SIDE, SIDE), int)
    for picture, mask in zip(x, inked, strict=True):
        photograph = source.photographs[random.integers(len(source.photographs))]
        top, left = (random.integers(size - SIDE + 1) for size in photograph.shape[1:])
        picture[...] = photograph[:, top : top + SIDE, left : left + SIDE]
        if random.random() < 0.5:
            picture[...] = picture[:, :, ::-1].copy()
        free = np.ones((SIDE, SIDE), bool)
        for _ in range(random.integers(2, 6)):
            number, size = random.integers(len(source.digits)), random.integers(20, 31)
            digit = source.digits[number][None, None]
            ink = fastconv.interpolate(digit, size=(size, size), mode="bilinear", align_corners=False)[0, 0]
            y, x0 = random.integers(SIDE - size + 1, size=2)
            area = slice(y, y + size), slice(x0, x0 + size)
            if not free[area].all():
                continue
            free[area] = False
            ground = picture[(slice(None), *area)]
            colour = random.random(3)
            while abs(colour.mean() - ground.mean()) < 0.35:
                colour = random.random(3)
            ink = np.clip(2 * ink - 0.3, 0, 1)
            ground += ink * (colour[:, None, None].astype(np.float32) - ground)
            mask[area] = ink > 0.5
    return x - np.float32(0.5), inked


def segnet(width: int = 16) -> nn.Sequential:
    """An encoder of three levels and its mirror image."""

    def block(C: int, OC: int) -> list[nn.Module]:
        return [nn.Conv2d(C, OC, 3, padding=1, bias=False), nn.BatchNorm2d(OC), nn.ReLU()]

    one, two, three = nn.MaxPool2d(2), nn.MaxPool2d(2), nn.MaxPool2d(2)
    return nn.Sequential(
        *block(3, width), one,
        *block(width, 2 * width), two,
        *block(2 * width, 4 * width), three,
        *block(4 * width, 4 * width),
        nn.MaxUnpool2d(three), *block(4 * width, 2 * width),
        nn.MaxUnpool2d(two), *block(2 * width, width),
        nn.MaxUnpool2d(one), *block(width, width),
        nn.Conv2d(width, 2, 1),
    )  # fmt: skip


def overlap(said: np.ndarray, inked: np.ndarray) -> float:
    """Intersection over union of the pixels said to be ink and those that are."""
    return float((said & inked).sum() / (said | inked).sum())


def train(source: Source, steps: int, report: Callable[[int, float], None]) -> nn.Sequential:
    """A trained network; `report` is told every step's loss."""
    nn.manual_seed(0)
    random = np.random.default_rng(0)
    network = segnet()
    loss = nn.CrossEntropyLoss()
    optimiser = nn.Adam(network.parameters())
    for step in range(steps):
        optimiser.lr = 4e-3 * 0.5 * (1 + np.cos(np.pi * step / steps))
        x, inked = pictures(source, BATCH, random)
        value = loss(network(x), inked)
        optimiser.zero_grad()
        network.backward_parameters(loss.backward())
        optimiser.step()
        report(step + 1, value)
    network.eval()
    return network


def draw(x: np.ndarray, inked: np.ndarray, probability: np.ndarray, title: str, path: Path) -> None:
    """Pictures, what is ink on them and what the network says, one below the other."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = len(x)
    figure = Figure(figsize=(1.9 * columns + 0.5, 6.6), facecolor="#14161a")
    FigureCanvasAgg(figure)
    axes = figure.subplots(3, columns, squeeze=False)
    rows = ("picture", (x + 0.5).transpose(0, 2, 3, 1)), ("truth", inked), ("SegNet", probability)
    for row, (name, images) in enumerate(rows):
        for column, image in enumerate(images):
            axes[row, column].imshow(image, vmin=0, vmax=1, cmap="magma", interpolation="nearest")
            axes[row, column].set_axis_off()
        axes[row, 0].text(-4, SIDE / 2, name, color="#9aa0aa", rotation=90, ha="right", va="center", fontsize=12)
    figure.text(0.02, 0.955, title, color="#f2f2f2", fontsize=14, weight="bold", va="center")
    figure.subplots_adjust(left=0.03, right=0.99, bottom=0.01, top=0.91, wspace=0.04, hspace=0.04)
    figure.savefig(path, dpi=100, facecolor=figure.get_facecolor())


def main() -> None:
    """Train, print the overlap, draw."""
    parser = argparse.ArgumentParser(description="A small SegNet finds handwritten digits on photographs.")
    parser.add_argument("--steps", type=int, default=800, help="training steps of 16 pictures [%(default)s]")
    parser.add_argument("--out", type=Path, default=Path("segmented.png"), help="the picture to write [%(default)s]")
    arguments = parser.parse_args()
    if arguments.steps < 1:
        parser.error(f"--steps must be at least 1, got {arguments.steps}")
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    learned, unseen = load()
    begin = perf_counter()
    with Progress(BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn()) as progress:
        task = progress.add_task("a SegNet learns", total=arguments.steps)
        mean = 0.0

        def report(step: int, loss: float) -> None:
            nonlocal mean
            mean = loss if step == 1 else 0.95 * mean + 0.05 * loss
            progress.update(task, completed=step, description=f"step {step}: loss {mean:.3f}")

        network = train(learned, arguments.steps, report)
    seconds = perf_counter() - begin
    print(nn.summary(network, (1, 3, SIDE, SIDE)))
    x, inked = pictures(unseen, 200, np.random.default_rng(1))
    probability = np.concatenate([fastconv.softmax(network(part))[:, 1] for part in np.array_split(x, 10)])
    line = f"IoU {overlap(probability > 0.5, inked == 1):.2f} on unseen digits and photographs"
    print(f"\n{line}, after {seconds:.0f} s of training")
    draw(x[:9], inked[:9], probability[:9], f"SegNet on fastconv: {line}", arguments.out)
    print(f"picture: {arguments.out}")


if __name__ == "__main__":
    main()
