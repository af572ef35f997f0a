"""Times pools against PyTorch: ``python -m fastconv bench --pool``.

Both libraries run channels first and channels last, and a ratio is best against best: (best time of torch) / (best time
of fastconv). Forward, a maximum is what inference asks for; backward starts from the gradient and the indices of the
maxima, or the shape of what was averaged. Pools hardly compute: besides times the table says which share of the memory
bandwidth measured on this machine the moved bytes make.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

import fastconv
from fastconv.bench.peers import PAUSE, load
from fastconv.bench.report import text_table
from fastconv.bench.runner import Timing, contest, difference, interleave
from fastconv.cpu.peak import roof
from fastconv.pool_spec import PoolSpec

SUITE = Path(__file__).with_name("shapes") / "pools.csv"
DIRECTIONS = ("forward", "backward")
LAYOUTS = ("first", "last")


@dataclass(frozen=True)
class PoolLayer:
    """One row of the file, for a batch."""

    suite: str
    name: str
    kind: str
    n: int
    c: int
    spatial: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    ceil: bool

    @property
    def ndim(self) -> int:
        return len(self.spatial)

    @property
    def windows(self) -> tuple[Any, ...]:
        """The arguments that both libraries take after x: kernel, stride, padding."""
        return self.kernel, self.stride, self.padding

    @property
    def spec(self) -> PoolSpec:
        return PoolSpec.make(
            (self.n, self.c, *self.spatial), self.kernel, stride=self.stride, padding=self.padding, ceil_mode=self.ceil
        )

    def bytes(self, direction: str) -> int:
        """Bytes that must be read and written: x and the output, backward the indices of maxima too."""
        indices = 8 * prod(self.spec.out_shape) if direction == "backward" and self.kind == "max" else 0
        return self.spec.bytes + indices


def read_pools(batches: Iterable[int], path: Path = SUITE) -> list[PoolLayer]:
    """All pools of the file, for each batch size."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))

    def sizes(row: dict[str, str], name: str) -> tuple[int, ...]:
        return tuple(map(int, row[name].split("x")))

    return [
        PoolLayer(
            suite=row["suite"],
            name=row["name"],
            kind=row["kind"],
            n=n,
            c=int(row["c"]),
            spatial=sizes(row, "spatial"),
            kernel=sizes(row, "kernel"),
            stride=sizes(row, "stride"),
            padding=sizes(row, "padding"),
            ceil=row["ceil"] == "1",
        )
        for n in batches
        for row in rows
    ]


def _last(array: np.ndarray) -> np.ndarray:
    """The same array with channels last in memory."""
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(array, 1, -1)), -1, 1)


def our_call(layer: PoolLayer, direction: str, x: np.ndarray, grad: np.ndarray) -> Callable[[], Any]:
    """The call of ours to time."""
    forward = getattr(fastconv, f"{layer.kind}_pool{layer.ndim}d")
    backward = getattr(fastconv, f"{layer.kind}_pool{layer.ndim}d_backward")
    if direction == "forward":
        return partial(forward, x, *layer.windows, ceil_mode=layer.ceil)
    if layer.kind == "avg":
        return partial(backward, grad, x.shape, *layer.windows, ceil_mode=layer.ceil)
    indices = forward(x, *layer.windows, ceil_mode=layer.ceil, return_indices=True)[1]
    return partial(backward, grad, x, *layer.windows, ceil_mode=layer.ceil, indices=indices)


def torch_call(torch: Any, layer: PoolLayer, direction: str, x: np.ndarray, grad: np.ndarray) -> Callable[[], Any]:
    """PyTorch's, on the same memory."""
    aten = torch.ops.aten
    data, flow, ones = torch.from_numpy(x), torch.from_numpy(grad), (1,) * layer.ndim
    if direction == "forward":
        function = getattr(torch.nn.functional, f"{layer.kind}_pool{layer.ndim}d")
        return partial(function, data, *layer.windows, ceil_mode=layer.ceil)
    if layer.kind == "avg":
        average = getattr(aten, f"avg_pool{layer.ndim}d_backward")
        return partial(average, flow, data, *layer.windows, layer.ceil, True, None)
    found = getattr(torch.nn.functional, f"max_pool{layer.ndim}d")(
        data, *layer.windows, ceil_mode=layer.ceil, return_indices=True
    )
    maximum = getattr(aten, f"max_pool{layer.ndim}d_with_indices_backward")
    return partial(maximum, flow, data, *layer.windows, ones, layer.ceil, found[1])


def time_pool(layer: PoolLayer, direction: str, torch: Any, seconds: float, pause: float) -> dict[str, Timing]:
    """Timings by contestant: ours and torch's, channels first and last. ValueError if results differ."""
    random = np.random.default_rng(0)
    x, grad = (random.standard_normal(shape, np.float32) for shape in (layer.spec.x_shape, layer.spec.out_shape))
    calls: dict[str, Callable[[], Any]] = {}
    for layout in LAYOUTS:
        data = (x, grad) if layout == "first" else (_last(x), _last(grad))
        calls[f"fastconv {layout}"] = our_call(layer, direction, *data)
        expected = np.array(calls["fastconv first"]())
        if torch is not None:
            calls[f"torch {layout}"] = torch_call(torch, layer, direction, *data)
            if (off := difference(expected, np.asarray(calls[f"torch {layout}"]()))) > 1e-5:
                raise ValueError(f"{layer.suite}/{layer.name}: torch differs by {off:.1e} of the largest output")
    return interleave(calls, seconds, pause=pause)


def best(timings: dict[str, Timing], library: str) -> float:
    return min((t.best for name, t in timings.items() if name.startswith(library)), default=math.nan)


def report(results: Sequence[tuple[PoolLayer, str, dict[str, Timing]]], threads: int) -> str:
    """The table of one pass, and its geometric means."""
    bandwidth = roof(measure=True).bandwidth(threads)
    rows, ratios = [], []
    for layer, direction, timings in results:
        ours, theirs = best(timings, "fastconv"), best(timings, "torch")
        ratios.append((layer, direction, theirs / ours))
        share = 100 * layer.bytes(direction) / ours / bandwidth
        names = [f"{library} {layout}" for library in ("fastconv", "torch") for layout in LAYOUTS]
        names = [f"{library} {layout}" for library in ("fastconv", "torch") for layout in LAYOUTS]
        times = [f"{1e6 * timings[name].best:.1f}" if name in timings else "-" for name in names]
        rows.append([f"{layer.suite}/{layer.name}", layer.kind, str(layer.n), direction, *times,
                     f"{theirs / ours:.2f}", f"{share:.0f}"])  # fmt: skip
    head = ["pool", "kind", "batch", "direction", *(f"{b}, {a}" for a in ("fastconv", "torch") for b in LAYOUTS)]
    lines = [text_table([*head, "ratio", "% of bandwidth"], rows), ""]
    for direction in DIRECTIONS:
        for n in dict.fromkeys(layer.n for layer, *_ in results):
            values = [r for layer, d, r in ratios if d == direction and layer.n == n and not math.isnan(r)]
            if values:
                mean = math.exp(sum(map(math.log, values)) / len(values))
                lines.append(
                    f"{direction}, batch {n}: {mean:.2f} times as fast as torch, geometric mean of {len(values)}"
                )
    return "\n".join(lines)


def run(threads: Sequence[int], batches: Sequence[int], seconds: float, match: Callable[[str], Any]) -> int:
    """Time all pools whose ``suite/name`` matches, a pass for each number of threads; 1 if there is none."""
    peers, missing = load(["torch"])
    for line in missing:
        print(line)
    layers = [layer for layer in read_pools(batches) if match(f"{layer.suite}/{layer.name}")]
    for count in dict.fromkeys(threads):
        results = []
        with contest(peers, count):
            for layer in layers:
                for direction in DIRECTIONS:
                    torch = peers[0].torch if peers else None  # type: ignore[attr-defined]
                    timings = time_pool(layer, direction, torch, seconds, PAUSE if count > 1 else 0.0)
                    results.append((layer, direction, timings))
        print(f"\n# pools, {count} thread{'s' * (count > 1)}, microseconds\n\n{report(results, count)}", flush=True)
    return 0 if layers else 1
