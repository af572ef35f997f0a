"""Times pools, unpools and norms against PyTorch: ``python -m fastconv bench --pool``.

Both libraries run channels first and channels last, and a ratio is best against best: (best time of torch) / (best time
of fastconv). Forward, a maximum is what inference asks for; backward starts from the gradient and the indices of the
maxima, or the shape of what was averaged; that of a norm from its statistics. They hardly compute: besides times the
table says which share of the memory bandwidth measured on this machine the moved bytes make.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from fastconv.bench.peers import PAUSE, load
from fastconv.bench.pool_calls import first_array, our_call, torch_call
from fastconv.bench.report import text_table
from fastconv.bench.runner import Timing, contest, difference, interleave
from fastconv.cpu.peak import roof
from fastconv.pool_spec import PoolSpec

SUITE = Path(__file__).with_name("shapes") / "pools.csv"
DIRECTIONS = ("forward", "backward")
LAYOUTS = ("first", "last")
UNPOOLS = ("unpool", "nearest", "bilinear")  # from what a pool makes back to what it takes
NORMS = ("batch", "group", "response")


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

    @property
    def shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Of x and of the output."""
        pool = (self.spec.x_shape, self.spec.out_shape)
        return pool[::-1] if self.kind in UNPOOLS else pool

    def bytes(self, direction: str) -> int:
        """Bytes that must be read and written: x and the output, indices of maxima, for a norm's gradient x too."""
        indexed = self.kind == "unpool" or (self.kind == "max" and direction == "backward")
        again = 4 * prod(self.spec.x_shape) if self.kind in NORMS and direction == "backward" else 0
        return self.spec.bytes + (8 * prod(self.spec.out_shape) if indexed else 0) + again


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


def time_pool(layer: PoolLayer, direction: str, torch: Any, seconds: float, pause: float) -> dict[str, Timing]:
    """Timings by contestant: ours and torch's, channels first and last. ValueError if results differ."""
    random = np.random.default_rng(0)
    x, grad = (random.standard_normal(shape, np.float32) for shape in layer.shapes)
    calls: dict[str, Callable[[], Any]] = {}
    for layout in LAYOUTS:
        data = (x, grad) if layout == "first" else (_last(x), _last(grad))
        calls[f"fastconv {layout}"] = our_call(layer, direction, *data)
        expected = np.array(first_array(calls["fastconv first"]()))
        if torch is not None:
            with torch.inference_mode(False):  # its tensors know no autograd
                calls[f"torch {layout}"] = torch_call(torch, layer, direction, *data)
            theirs = first_array(calls[f"torch {layout}"]())
            if (off := difference(expected, theirs)) > (1e-4 if layer.kind in NORMS else 1e-5):
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
        times = [f"{1e6 * timings[name].best:.1f}" if name in timings else "-" for name in names]
        rows.append([f"{layer.suite}/{layer.name}", layer.kind, str(layer.n), direction, *times,
                     f"{theirs / ours:.2f}", f"{share:.0f}"])  # fmt: skip
    head = ["pool", "kind", "batch", "direction", *(f"{b}, {a}" for a in ("fastconv", "torch") for b in LAYOUTS)]
    lines = [text_table([*head, "ratio", "% of bandwidth"], rows), ""]
    groups = {"pools": ("max", "avg"), "unpools": UNPOOLS, "norms": NORMS}
    for direction in DIRECTIONS:
        for n in dict.fromkeys(layer.n for layer, *_ in results):
            for name, kinds in groups.items():
                values = [
                    r for a, d, r in ratios if d == direction and a.n == n and a.kind in kinds and not math.isnan(r)
                ]
                if values:
                    mean = math.exp(sum(map(math.log, values)) / len(values))
                    lines.append(
                        f"{name}, {direction}, batch {n}: {mean:.2f} times as fast as torch, geometric mean of "
                        f"{len(values)}"
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
