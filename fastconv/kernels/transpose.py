"""The gradient of a convolution's input, alias transposed convolution, by any algorithm of the forward pass.

The spec is that of the forward pass; what `run` calls x is the gradient of its output, and out the gradient of its
input. `fastconv.adjoint` has the algebra: each phase of the stride is a convolution of stride 1 with a part of the
taps. One phase is written where it belongs; several are computed side by side in scratch and interleaved.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import numpy as np

from fastconv.adjoint import Phase, input_phases, zero_padded
from fastconv.cpu import threads as pool
from fastconv.cpu import workspace
from fastconv.kernels import direct, transpose_kernels
from fastconv.kernels import transpose_weights as weights
from fastconv.kernels.common import Cost, ceil_div
from fastconv.kernels.epilogue import Epilogue
from fastconv.kernels.pack import padded_sources
from fastconv.spec import ConvSpec

#: Scratch for the phases of as many images as are computed at a time: what the second-level cache keeps.
PHASES_BYTES = 1 << 20
#: Bytes of the output that are worth a task of their own.
TASK_BYTES = 16 << 10


@dataclass(frozen=True)
class Part:
    """One phase: its convolution, that one's parameters, where its cells lie in scratch, and its taps."""

    phase: Phase
    spec: ConvSpec
    params: Any
    begin: int
    taps: np.ndarray = field(repr=False, compare=False)


@dataclass(frozen=True)
class Params:
    """How the phases are computed and brought together.

    images : computed at a time.
    direct : whether the only part writes the output itself.
    elements, row : of the phases in scratch, and of the row of zeros at its end.
    padded : elements of the gradient of the padded input, 0 where padding is zeros.
    """

    threads: int
    workspace: int
    images: int
    direct: bool
    parts: tuple[Part, ...]
    elements: int
    row: int
    padded: int
    interleave: tuple[int, Any, Any] = field(repr=False, compare=False)
    fold: tuple[int, Any, Any] | None = field(repr=False, compare=False)


class Phases:
    """An algorithm of the forward pass as one for the input gradient."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self.NAME: str = module.NAME
        self.ACCURACY: str = module.ACCURACY
        self.ERROR_BOUND: float = module.ERROR_BOUND
        self.NOTE: str = module.NOTE
        if hasattr(module, "once"):
            self.once = self._once

    def refuses(self, spec: ConvSpec) -> str | None:
        """A reason for which one of the phases is refused."""
        for phase in input_phases(zero_padded(spec)):
            if phase.spec is not None and (reason := self.module.refuses(phase.spec)) is not None:
                return reason
        return None

    def _once(self, spec: ConvSpec, params: Params, threads: int, limit: int) -> Params:
        """For weights that are used once."""
        used = params.workspace - _workspace(params.parts)
        parts = tuple(
            replace(part, params=self.module.once(part.spec, part.params, threads, limit - used))
            for part in params.parts
        )
        return replace(params, workspace=used + _workspace(parts), parts=parts)

    def parameters(self, spec: ConvSpec, threads: int, limit: int) -> Params | str:
        inner = zero_padded(spec)
        folds = inner is not spec
        phases = input_phases(inner)
        direct_way = len(phases) == 1 and phases[0].whole
        per_image = 0 if direct_way else sum(prod(p.spec.out_shape[1:]) for p in phases if p.spec is not None)
        if folds:
            per_image += prod(inner.x_shape[1:])
        images = _images(spec.N, per_image * spec.itemsize, limit) if per_image else spec.N
        used = (per_image * images + inner.input3[2]) * spec.itemsize if per_image else 0
        if used > limit:
            return f"the phases of one image exceed the workspace limit of {limit} bytes"
        parts, begin = [], 0
        for phase in phases:
            if phase.spec is None:
                continue
            part = _with_images(phase.spec, images)
            params = self.module.parameters(part, threads, limit - used)
            if isinstance(params, str):
                return params
            parts.append(Part(phase, part, params, begin, weights.positions(inner, phase.axes)))
            begin += 0 if direct_way else prod(part.out_shape)
        return Params(
            threads=threads,
            workspace=used + _workspace(parts),
            images=images,
            direct=direct_way,
            parts=tuple(parts),
            elements=0 if direct_way else begin + inner.input3[2],
            row=0 if direct_way else inner.input3[2],
            padded=prod(inner.x_shape[1:]) * images if folds else 0,
            interleave=_interleaving(inner, images, phases, parts),
            fold=_folding(spec, images) if folds else None,
        )

    def cost(self, spec: ConvSpec, params: Params) -> Cost:
        rounds = spec.N // params.images
        costs = [self.module.cost(part.spec, part.params) for part in params.parts]
        # Written, read and written again, in short rows: as much as six passes of a kernel whose work hides its memory.
        moved = 6 * spec.itemsize * ((0 if params.direct else params.elements) + params.padded) * rounds
        return Cost(
            flops=rounds * sum(cost.flops for cost in costs),
            bytes=rounds * sum(cost.bytes for cost in costs) + moved,
            transform=rounds * sum(cost.transform for cost in costs),
            tasks=max((cost.tasks for cost in costs), default=1),
        )

    def prepare_cost(self, spec: ConvSpec, params: Params) -> Cost:
        work = getattr(self.module, "prepare_cost", None)
        costs = [] if work is None else [work(part.spec, part.params) for part in params.parts]
        return Cost(
            flops=sum(cost.flops for cost in costs),
            bytes=sum(cost.bytes for cost in costs) + 2 * spec.weight_bytes,
            transform=sum(cost.transform for cost in costs),
            tasks=max((cost.tasks for cost in costs), default=1),
        )

    def prepare(self, spec: ConvSpec, params: Params, weight: np.ndarray) -> tuple[Any, ...]:
        """For each part the weights of its taps, input and output channels exchanged, as its algorithm wants them."""
        packed = []
        for part in params.parts:
            if self.module is direct and part.params.form not in direct.AS_THEY_LIE:
                sizes = part.params.OCP, part.params.blocks
                packed.append(weights.exchange_packed(spec, part.taps, weight, params.threads, *sizes))
            else:
                exchanged = weights.exchange(spec, part.taps, weight, params.threads)
                packed.append(self.module.prepare(part.spec, part.params, exchanged.reshape(part.spec.weight_shape)))
        return tuple(packed)

    def run(
        self, spec: ConvSpec, params: Params, x: np.ndarray, packed: Any, out: np.ndarray, epilogue: Epilogue
    ) -> None:
        if params.direct and not params.padded:
            part = params.parts[0]
            self.module.run(part.spec, part.params, x, packed[0], out, epilogue)
            return
        steps_x, steps_out = prod(spec.out_shape[1:]) * params.images, prod(spec.x_shape[1:]) * params.images
        plain = Epilogue(epilogue.bias[:0], epilogue.residual[:0], NO_ACTIVATION[spec.dtype])
        with workspace.scratch(spec.dtype, params.elements + params.padded, 1) as scratch:
            cells, padded = scratch[: params.elements], scratch[params.elements :]
            cells[params.elements - params.row :] = 0  # the row that phases without taps show
            for image in range(0, spec.N, params.images):
                begin = image // params.images
                gradient = x[begin * steps_x : (begin + 1) * steps_x]
                span = slice(begin * steps_out, (begin + 1) * steps_out)
                residual = epilogue.residual[span] if epilogue.residual.size else epilogue.residual
                last = Epilogue(epilogue.bias, residual, epilogue.constants)
                target, ending = (padded, plain) if params.fold is not None else (out[span], last)
                if params.direct:
                    self.module.run(params.parts[0].spec, params.parts[0].params, gradient, packed[0], target, plain)
                else:
                    for part, weights in zip(params.parts, packed, strict=True):
                        end = part.begin + prod(part.spec.out_shape)
                        self.module.run(part.spec, part.params, gradient, weights, cells[part.begin : end], plain)
                    _rows(transpose_kernels.interleave, params.interleave, cells, target, ending, params.threads)
                if params.fold is not None:
                    _rows(transpose_kernels.fold_padding, params.fold, padded, out[span], last, params.threads)

    def variants(self, spec: ConvSpec, threads: int, limit: int) -> dict[str, Any]:
        return {}


def _workspace(parts: Sequence[Part]) -> int:
    """Bytes of the most demanding part."""
    return max((part.params.workspace for part in parts), default=0)


NO_ACTIVATION = {name: Epilogue.make(name).constants for name in ("float32", "float64", "int32", "int64")}


def _rows(kernel: Any, tables: tuple[int, Any, Any], source: Any, out: Any, epilogue: Epilogue, threads: int) -> None:
    tasks, geometry, table = tables
    arrays = (geometry, table, source, epilogue.bias, epilogue.residual, epilogue.constants, out)
    pool.run(kernel, tasks, arrays, threads)


def _with_images(spec: ConvSpec, images: int) -> ConvSpec:
    if spec.N == images:
        return spec
    return ConvSpec.make(
        (images, *spec.x_shape[1:]), spec.weight_shape, stride=spec.stride, padding=spec.padding,
        dilation=spec.dilation, groups=spec.groups, dtype=spec.dtype, channels_last=spec.channels_last,
    )  # fmt: skip


def _images(N: int, per_image: int, limit: int) -> int:
    """Images at a time: a divisor of N, as many as the cache holds."""
    most = max(1, min(PHASES_BYTES, limit) // per_image)
    return max(count for count in range(1, min(N, most) + 1) if N % count == 0)


def _row_tasks(spec: ConvSpec, size: tuple[int, int, int], images: int) -> tuple[int, int, int]:
    """Rows of an output of this size, rows of a task, and tasks."""
    rows = images * size[0] * size[1] * (1 if spec.channels_last else spec.C)
    row_bytes = size[2] * spec.itemsize * (spec.C if spec.channels_last else 1)
    per_task = max(1, min(TASK_BYTES // row_bytes, rows))
    return rows, per_task, ceil_div(rows, per_task)


def _interleaving(spec: ConvSpec, images: int, phases: tuple[Phase, ...], parts: list[Part]) -> tuple[int, Any, Any]:
    """Tasks, geometry and table of the kernel that interleaves the phases."""
    rows, per_task, tasks = _row_tasks(spec, spec.input3, images)
    counts = [min(step, size) for step, size in zip(spec.stride3, spec.input3, strict=True)]
    geometry = [spec.channels_last, rows, per_task, spec.C, *spec.input3, *spec.stride3, *counts]
    begins = {part.phase: (part.begin, part.spec) for part in parts}
    missing = (1,) * (3 - spec.ndim)
    table: list[int] = []
    for phase in phases:
        if phase not in begins:
            table += [-1, *[0] * 6]
            continue
        begin, made = begins[phase]
        table += [begin, *made.output3, *[0] * len(missing), *(axis.skip for axis in phase.axes)]
    return tasks, np.array(geometry, np.int64), np.array(table, np.int64)


def _folding(spec: ConvSpec, images: int) -> tuple[int, Any, Any]:
    """Tasks, geometry and tables of the kernel that folds padding back."""
    rows, per_task, tasks = _row_tasks(spec, spec.input3, images)
    sections: list[np.ndarray] = []
    begin = 0
    for size, (lo, hi) in list(zip(spec.input3, spec.padding3, strict=True))[:2]:
        shows = padded_sources(size, lo, hi, spec.padding_mode)
        order = np.argsort(shows, kind="stable")
        starts = np.searchsorted(shows[order], np.arange(size + 1)) + begin + size + 1
        sections += [starts, order]
        begin += size + 1 + len(order)
    at_h = len(sections[0]) + len(sections[1])
    lo, hi = spec.padding3[2]
    sections.append(padded_sources(spec.input3[2], lo, hi, spec.padding_mode))
    padded = [size + sum(pair) for size, pair in zip(spec.input3, spec.padding3, strict=True)]
    geometry = [spec.channels_last, rows, per_task, spec.C, *spec.input3, *padded, lo, at_h, begin]
    return tasks, np.array(geometry, np.int64), np.concatenate(sections).astype(np.int64)
