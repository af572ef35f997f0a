"""Layers to measure, read from a CSV file: one row, one convolution."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from fastconv.spec import ConvSpec

DEFAULT_SUITE = Path(__file__).with_name("shapes") / "speed.csv"
COLUMNS = ("suite", "name", "n", "c", "spatial", "oc", "kernel", "stride", "padding", "dilation", "groups")


@dataclass(frozen=True)
class Layer:
    """One row of the file. Sizes along the spatial axes are tuples; padding is symmetric."""

    suite: str
    name: str
    n: int
    c: int
    spatial: tuple[int, ...]
    oc: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    @property
    def ndim(self) -> int:
        return len(self.spatial)

    @property
    def short_name(self) -> str:
        """The name without its network, and without how often the network repeats it: res2a_branch2b."""
        return self.name.rpartition(":")[2].partition("*")[0]

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments of `conv2d` and its kin, here and in PyTorch."""
        return {"stride": self.stride, "padding": self.padding, "dilation": self.dilation, "groups": self.groups}

    @cached_property
    def spec(self) -> ConvSpec:
        weight_shape = (self.oc, self.c // self.groups, *self.kernel)
        return ConvSpec.make((self.n, self.c, *self.spatial), weight_shape, **self.options)

    def data(self, dtype: str = "float32") -> tuple[np.ndarray, np.ndarray]:
        """Input and weight, the same at every call; uniform in -1..1 so that no product is denormal."""
        random = np.random.default_rng(0)
        x, weight = (random.random(shape, dtype=np.float32) for shape in (self.spec.x_shape, self.spec.weight_shape))
        return (2 * x - 1).astype(dtype, copy=False), (2 * weight - 1).astype(dtype, copy=False)

    def row(self) -> dict[str, str | int]:
        """The row this layer was read from."""
        return {name: "x".join(map(str, v)) if isinstance(v := getattr(self, name), tuple) else v for name in COLUMNS}


def parse_layer(row: dict[str, str]) -> Layer:
    """A layer from one row of the file; ValueError says what is wrong with it."""
    missing = [name for name in COLUMNS if not row.get(name)]
    if missing:
        raise ValueError(f"column {', '.join(missing)} is missing or empty")

    def sizes(name: str) -> tuple[int, ...]:
        try:
            return tuple(int(size) for size in row[name].split("x"))
        except ValueError:
            raise ValueError(f"{name} must be integers joined by x, got {row[name]!r}") from None

    numbers = {name: sizes(name) for name in COLUMNS[2:]}
    ndim = len(numbers["spatial"])
    for name, values in numbers.items():
        expected = 1 if name in ("n", "c", "oc", "groups") else ndim
        if len(values) != expected:
            raise ValueError(f"{name} must have {expected} sizes, got {row[name]!r}")
    layer = Layer(
        row["suite"],
        row["name"],
        n=numbers["n"][0],
        c=numbers["c"][0],
        oc=numbers["oc"][0],
        groups=numbers["groups"][0],
        **{name: numbers[name] for name in ("spatial", "kernel", "stride", "padding", "dilation")},
    )
    _ = layer.spec  # its errors belong to this row
    return layer


def read_layers(path: str | Path = DEFAULT_SUITE) -> list[Layer]:
    """All layers of a file, in its order."""
    layers = []
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        for row in reader:
            try:
                layers.append(parse_layer(row))
            except ValueError as error:
                raise ValueError(f"{path}, line {reader.line_num}: {error}") from None
    if not layers:
        raise ValueError(f"{path} holds no layers (expected the columns {','.join(COLUMNS)} and a row per layer)")
    return layers


def select(layers: Iterable[Layer], suites: Sequence[str] = (), pattern: str = "") -> list[Layer]:
    """Layers of the named suites (all if none is named) whose `suite/name` the pattern is found in."""
    layers = list(layers)
    known = dict.fromkeys(layer.suite for layer in layers)
    for suite in suites:
        if suite not in known:
            raise ValueError(f"unknown suite {suite!r}; the file has {', '.join(known)}")
    search = re.compile(pattern).search
    return [
        layer for layer in layers if (not suites or layer.suite in suites) and search(f"{layer.suite}/{layer.name}")
    ]
