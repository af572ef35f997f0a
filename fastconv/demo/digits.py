"""The demo's second part: a LeNet learns handwritten digits, then looks for them on a page of any size.

The pictures are scikit-learn's: 1797 digits of 43 writers, 8 x 8 pixels (Alpaydin & Kaynak 1998). The network and its
training are all `fastconv.nn`: forward, backward, optimiser. It knows an eleventh class, "no digit", which it learns
from windows that do not sit on one; so it can be read as a fully convolutional network and slid over a page.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

import fastconv
from fastconv import nn
from fastconv.demo.problems import MissingExtra

__all__ = ["Data", "Found", "Page", "Training", "find", "lenet", "load", "make_page", "run", "train"]

SIDE, MARGIN = 8, 2
WINDOW = SIDE + 2 * MARGIN  # what the network sees: LeNet too had its digits in a margin
STRIDE = 2  # of the windows on a page: that of the network's pool
NOTHING = 10
EPOCHS, BATCH = 48, 64
RATE = 3e-3


@dataclass(frozen=True)
class Data:
    """Digits (n, 1, 8, 8) in 0..1 and their classes; the test ones were never seen in training."""

    train: np.ndarray
    train_classes: np.ndarray
    test: np.ndarray
    test_classes: np.ndarray


@dataclass
class Training:
    """A trained network, and how it went: a loss and a test accuracy for each epoch."""

    network: nn.Sequential
    losses: list[float] = field(default_factory=list)
    accuracies: list[float] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def accuracy(self) -> float:
        return self.accuracies[-1]


@dataclass(frozen=True)
class Page:
    """A page of digits: pixels (height, width), and where their middles are: rows of (y, x, class)."""

    pixels: np.ndarray
    digits: np.ndarray


@dataclass(frozen=True)
class Found:
    """What the network saw on a page: probabilities (11, rows, columns), and rows of (y, x, class) picked from them."""

    probabilities: np.ndarray
    digits: np.ndarray
    seconds: float


def load(seed: int = 0) -> Data:
    """The digits of scikit-learn, a fifth of them set aside for the test."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingExtra("scikit-learn") from error
    digits = load_digits()
    pictures = (digits.images / 16).astype(np.float32)[:, None]
    order = np.random.default_rng(seed).permutation(len(pictures))
    test, rest = order[: len(order) // 5], order[len(order) // 5 :]
    return Data(pictures[rest], digits.target[rest], pictures[test], digits.target[test])


def lenet() -> nn.Sequential:
    """LeNet-5 (LeCun et al. 1998) at the size of these digits, with batch norm and rectifiers, which came later."""
    return nn.Sequential(
        nn.Conv2d(1, 24, 5),
        nn.BatchNorm2d(24),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(24, 64, 3),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64 * 2 * 2, 128),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Linear(128, 11),
    )


def framed(pictures: np.ndarray) -> np.ndarray:
    """Digits in the middle of windows."""
    return np.pad(pictures, ((0, 0), (0, 0), (MARGIN, MARGIN), (MARGIN, MARGIN)))


def windows(pictures: np.ndarray, classes: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A batch as the network will meet it on a page: digits a pixel off the middle, and windows between digits.

    Every digit gets two neighbours. One window looks at it, one lies at least 4 pixels beside it: "no digit".
    """
    n = len(pictures)
    strip = np.zeros((n, 1, SIDE + 4 * SIDE, 5 * SIDE), np.float32)
    middle = 2 * SIDE
    left, right = random.permutation(n), random.permutation(n)
    strip[:, :, middle : middle + SIDE, middle : middle + SIDE] = pictures
    for others, before in ((left, True), (right, False)):
        gap = int(random.integers(SIDE + 1, SIDE + 5))
        at = middle - gap if before else middle + gap
        along = int(random.integers(-2, 3)) + middle
        target = strip[:, :, along : along + SIDE, at : at + SIDE] if random.random() < 0.5 else strip[
            :, :, at : at + SIDE, along : along + SIDE
        ]  # fmt: skip
        np.maximum(target, pictures[others], out=target)
    on = random.integers(-1, 2, (n, 2))
    angle, distance = random.uniform(0, 2 * np.pi, n), random.uniform(4, SIDE + 2, n)
    off = np.rint(np.stack([np.sin(angle), np.cos(angle)], 1) * distance[:, None]).astype(int)
    batch = np.empty((2 * n, 1, WINDOW, WINDOW), np.float32)
    for i in range(n):
        for j, (y, x) in enumerate((on[i], off[i])):
            top, begin = middle - MARGIN + y, middle - MARGIN + x
            batch[2 * i + j] = strip[i, :, top : top + WINDOW, begin : begin + WINDOW]
    batch *= random.uniform(0.7, 1.1, (2 * n, 1, 1, 1)).astype(np.float32)
    batch += random.normal(0, 0.03, batch.shape).astype(np.float32)
    labels = np.full(2 * n, NOTHING)
    labels[::2] = classes
    return batch, labels


def accuracy(network: nn.Sequential, pictures: np.ndarray, classes: np.ndarray) -> float:
    """Share of digits whose class the network names."""
    network.eval()
    return float((network(framed(pictures)).argmax(1) == classes).mean())


def train(data: Data, epochs: int = EPOCHS, report: Callable[[int, Training], None] | None = None) -> Training:
    """Train a new network; `report` is told after every epoch.

    One thread does it: with layers of some 50 us a second one would mostly wait.
    """
    threads = fastconv.get_num_threads()
    fastconv.set_num_threads(1)
    try:
        return _train(data, epochs, report)
    finally:
        fastconv.set_num_threads(threads)


def _train(data: Data, epochs: int, report: Callable[[int, Training], None] | None) -> Training:
    nn.manual_seed(0)
    random = np.random.default_rng(0)
    result = Training(lenet())
    network, loss = result.network, nn.CrossEntropyLoss()
    optimiser = nn.Adam(network.parameters(), lr=RATE, weight_decay=1e-4)
    begin = perf_counter()
    batches = -(-len(data.train) // BATCH)
    for epoch in range(epochs):
        network.train()
        total = 0.0
        for number, chosen in enumerate(np.array_split(random.permutation(len(data.train)), batches)):
            share = (epoch + number / batches) / epochs
            optimiser.lr = RATE * 0.5 * (1 + np.cos(np.pi * share))
            x, classes = windows(data.train[chosen], data.train_classes[chosen], random)
            total += loss(network(x), classes)
            optimiser.zero_grad()
            network.backward_parameters(loss.backward())
            optimiser.step()
        result.losses.append(total / batches)
        result.accuracies.append(accuracy(network, data.test, data.test_classes))
        result.seconds = perf_counter() - begin
        if report is not None:
            report(epoch + 1, result)
    network.eval()
    return result


def make_page(data: Data, height: int = 72, width: int = 216, count: int = 60, seed: int = 4) -> Page:
    """Test digits scattered over a page of faintly noisy paper, none nearer than 9 pixels to another."""
    random = np.random.default_rng(seed)
    pixels = np.zeros((height, width), np.float32)
    digits: list[tuple[int, int, int]] = []
    order = random.permutation(len(data.test))
    for _ in range(100 * count):
        if len(digits) == min(count, len(order)):
            break
        y, x = (int(random.integers(SIDE, size - SIDE)) for size in (height, width))
        if any(max(abs(y - v), abs(x - u)) < SIDE + 2 for v, u, _ in digits):
            continue
        picture = order[len(digits)]
        part = pixels[y - SIDE // 2 : y + SIDE // 2, x - SIDE // 2 : x + SIDE // 2]
        np.maximum(part, data.test[picture, 0] * np.float32(random.uniform(0.75, 1)), out=part)
        digits.append((y, x, int(data.test_classes[picture])))
    pixels += np.abs(random.normal(0, 0.02, pixels.shape)).astype(np.float32)
    return Page(pixels, np.array(digits))


def find(network: nn.Sequential, page: Page) -> Found:
    """Slide the network over a page: its full layers are read as convolutions, and every window is classified."""
    everywhere = nn.fully_convolutional(network, (1, WINDOW, WINDOW)).eval()
    x = page.pixels[None, None]
    seconds = np.inf
    for _ in range(5):  # the first time packs the weights
        begin = perf_counter()
        probabilities = fastconv.softmax(everywhere(x))[0]
        seconds = min(seconds, perf_counter() - begin)
    return Found(probabilities, peaks(probabilities), seconds)


def peaks(probabilities: np.ndarray, threshold: float = 0.5) -> np.ndarray:
    """Windows that are surest of a digit, one for each: rows of (y, x, class) on the page.

    Windows beside the best one see the same digit. The mean over them breaks ties, so that the middle one wins.
    """
    digit = 1 - probabilities[NOTHING]
    around = np.lib.stride_tricks.sliding_window_view(np.pad(digit, 1), (3, 3))
    score = digit + around.mean((2, 3))
    found: list[tuple[int, int, int]] = []
    for at in np.argsort(score, axis=None)[::-1]:
        row, column = (int(i) for i in np.unravel_index(at, score.shape))
        if digit[row, column] < threshold:
            continue
        if all(max(abs(row - r), abs(column - c)) > SIDE // 2 - 1 for r, c, _ in found):
            found.append((row, column, int(probabilities[:NOTHING, row, column].argmax())))
    places = [(STRIDE * r + WINDOW // 2, STRIDE * c + WINDOW // 2, k) for r, c, k in found]
    return np.array(places, int).reshape(-1, 3)


def matched(page: Page, found: Found) -> tuple[int, int, int]:
    """Digits found and rightly read, found but misread, and seen where there is none."""
    right = wrong = 0
    taken: set[int] = set()
    for y, x, kind in page.digits:
        near = [
            (max(abs(y - v), abs(x - u)), index, k)
            for index, (v, u, k) in enumerate(found.digits)
            if index not in taken
        ]
        best: Any = min(near, default=None)
        if best is None or best[0] > 3:
            continue
        taken.add(best[1])
        right, wrong = right + (best[2] == kind), wrong + (best[2] != kind)
    return right, wrong, len(found.digits) - len(taken)


def run(out: Path, heading: str) -> int:
    """Train, read a page, print how it went and write the picture.

    Parameters
    ----------
    out : Path
        The picture to write, PNG or JPEG.
    heading : str
        One line on the machine.

    Returns
    -------
    int
        0, or 1 if fewer than 98 % of the unseen digits are read rightly.
    """
    data = load()

    from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn

    from fastconv.demo.digits_picture import draw
    from fastconv.demo.table import console

    columns = (
        SpinnerColumn(),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    screen = console(stderr=True)
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as progress:
        task = progress.add_task("a LeNet learns digits", total=EPOCHS)

        def report(epoch: int, training: Training) -> None:
            text = f"epoch {epoch}: loss {training.losses[-1]:.3f}, test accuracy {100 * training.accuracy:.1f} %"
            progress.update(task, completed=epoch, description=text)

        training = train(data, EPOCHS, report)
        progress.update(task, description="reading a page")
        page = make_page(data)
        found = find(training.network, page)
        draw(data, training, page, found, heading, out)
    right, wrong, extra = matched(page, found)
    print()
    print(nn.summary(training.network, (1, 1, WINDOW, WINDOW)))
    print(
        f"\nLeNet: {100 * training.accuracy:.1f} % of {len(data.test)} unseen digits after {training.seconds:.1f} s of "
        f"training. On a page of {len(page.digits)}: {right} read rightly, {wrong} wrongly, {extra} seen where there "
        "are none."
    )
    print(f"digits: {out}")
    return 0 if training.accuracy >= 0.98 else 1
