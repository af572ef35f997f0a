"""What a network consists of, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastconv.nn.module import Module, Sequential
from fastconv.receptive import Window, receptive_field

__all__ = ["Row", "Summary", "summary"]


@dataclass(frozen=True)
class Row:
    """One layer: `field` is its receptive field along each spatial axis, None where it sees the whole input."""

    name: str
    layer: str
    output: tuple[int, ...]
    parameters: int
    flops: int
    field: tuple[int, ...] | None
    algorithm: str


@dataclass(frozen=True)
class Summary:
    """All layers of a network; prints as a table."""

    input: tuple[int, ...]
    rows: tuple[Row, ...]

    @property
    def parameters(self) -> int:
        """Learned numbers of the network."""
        return sum(row.parameters for row in self.rows)

    @property
    def flops(self) -> int:
        """Floating-point operations of a forward pass."""
        return sum(row.flops for row in self.rows)

    def __str__(self) -> str:
        table = [("", "layer", "output", "parameters", "MFLOP", "sees", "algorithm")]
        table.append(("", "input", _sizes(self.input), "", "", "", ""))
        for row in self.rows:
            sees = "all" if row.field is None else _sizes(row.field)
            flops = f"{row.flops / 1e6:.2f}" if row.flops else ""
            parameters = f"{row.parameters:,}" if row.parameters else ""
            table.append((row.name, row.layer, _sizes(row.output), parameters, flops, sees, row.algorithm))
        table.append(("", "total", "", f"{self.parameters:,}", f"{self.flops / 1e6:.2f}", "", ""))
        widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
        lines = []
        for line in table:
            cells = [
                cell.rjust(width) if column in (3, 4) else cell.ljust(width)
                for column, (cell, width) in enumerate(zip(line, widths, strict=True))
            ]
            lines.append("  ".join(cells).rstrip())
        rule = "-" * max(map(len, lines))
        return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])


def _sizes(values: Sequence[int]) -> str:
    return "x".join(map(str, values))


def summary(module: Module, input_shape: Sequence[int], dtype: Any = np.float32) -> Summary:
    """Shapes, parameters, work, receptive fields and algorithms of a network's layers.

    Parameters
    ----------
    module : Module
        A `Sequential`, or any layer.
    input_shape : sequence of int
        (N, C, *spatial) of an input. The network runs once, in evaluation mode, on zeros of this shape.
    dtype : dtype
        Of that input.

    Returns
    -------
    Summary
        With ``rows``, ``parameters`` and ``flops`` (2 for a multiply-add); prints as a table.

    Examples
    --------
    >>> from fastconv import nn
    >>> net = nn.Sequential(nn.Conv2d(3, 10, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2))
    >>> table = nn.summary(net, (1, 3, 32, 32))
    >>> table.parameters, [row.field for row in table.rows]
    (760, [(5, 5), (5, 5), (6, 6)])
    """
    rows: list[Row] = []
    path: list[list[Window]] | None = [[] for _ in input_shape[2:]]  # windows along each axis so far; None: sees all

    def visit(layer: Module, x: np.ndarray, name: str) -> np.ndarray:
        nonlocal path
        if isinstance(layer, Sequential):
            for child_name, child in layer.children():
                x = visit(child, x, f"{name}.{child_name}" if name else child_name)
            return x
        y = layer(x)
        windows = layer.windows(x.shape)
        if path is not None and windows is not None and len(windows) == len(path):
            path = [[*before, window] for before, window in zip(path, windows, strict=True)]
        else:
            path = None
        field = None
        if path is not None:
            field = tuple(receptive_field(axis)[-1].field for axis in path)
        count = sum(parameter.data.size for parameter in layer.parameters())
        flops = layer.flops(x.shape, y.shape)
        rows.append(Row(name, type(layer).__name__, y.shape, count, flops, field, layer.algorithm(x.shape)))
        return y

    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        visit(module, np.zeros(tuple(input_shape), dtype), "")
    finally:
        for part, training in modes:
            part.training = training
            part.forget()
    return Summary(tuple(input_shape), tuple(rows))
