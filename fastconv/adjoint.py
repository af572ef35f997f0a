"""The algebra of gradients: each is again a convolution, of other operands.

With one axis, one channel and cross-correlation, the forward pass is

    y[i] = sum over k of  w[k] x[i*s + k*d - p].

**Input gradient**, the transposed convolution: every output hands its gradient back to the cells it was made from,

    gx[j] = sum over (i, k) with i*s + k*d - p = j of  w[k] gy[i].

A cell j only meets taps k with k*d = j + p modulo s. Cells of equal j modulo s, a *phase*, meet the same taps: with
e = gcd(s, d) these are none at all, or k = k0 + t*s/e. Solving for i, the phase is a convolution of stride 1 with
every (s/e)-th tap in reverse order and dilation d/e. No inserted zero is ever multiplied.

**Weight gradient**: the tap is what the sum leaves open,

    gw[k] = sum over i of  gy[i] x[k*d + i*s - p],

a convolution of x with gy for its kernel, stride and dilation having changed places; images are its channels, and
input channels its images.

Dumoulin & Visin 2016, "A guide to convolution arithmetic for deep learning"; Shi et al. 2016, "Is the deconvolution
layer the same as a convolutional layer?" (phases).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from math import gcd

from fastconv.spec import ConvSpec


@dataclass(frozen=True)
class AxisPhase:
    """The cells start, start + step, ... of one axis of the input gradient.

    count : how many cells.
    first, stride : tap positions first, first + stride, ..., `taps` of them (in the adjoint they come in reverse).
    dilation, padding : of the convolution of stride 1 that yields these cells.
    skip : cells that it yields before the first wanted one. (Where the forward pass pads beyond the kernel's reach,
        the adjoint would need a negative padding; it has none, and what is too much is skipped.)
    """

    start: int
    count: int
    first: int
    stride: int
    taps: int
    dilation: int = 1
    padding: tuple[int, int] = (0, 0)
    skip: int = 0

    def positions(self, kernel: int, flip: bool) -> slice:
        """Elements of the weight in the order in which the adjoint, a cross-correlation, applies them."""
        if not self.taps:
            return slice(0, 0)
        last = self.first + (self.taps - 1) * self.stride
        if flip:  # a true convolution has its element kernel-1-u at position u
            return slice(kernel - 1 - last, kernel - self.first, self.stride)
        return slice(last, self.first - 1 if self.first else None, -self.stride)


def axis_phases(size: int, output: int, kernel: int, stride: int, dilation: int, lo: int) -> tuple[AxisPhase, ...]:
    """The phases of one axis with `size` cells, of a forward pass with `output` outputs and padding `lo` in front."""
    e = gcd(stride, dilation)
    step = stride // e
    found = []
    for start in range(min(stride, size)):
        count = -(-(size - start) // stride)
        at = start + lo  # the first cell, counted from the padding's start
        first = next((k for k in range(min(step, kernel)) if (k * dilation - at) % stride == 0), None)
        if first is None:
            found.append(AxisPhase(start, count, 0, 1, 0))
            continue
        taps = -(-(kernel - first) // step)
        # Cell m of the phase and tap t meet at output  i = m + shift - t*d/e.
        shift = (at - first * dilation) // stride
        before = (taps - 1) * (dilation // e) - shift
        after = count + shift - output
        found.append(
            AxisPhase(
                start,
                count,
                first,
                step,
                taps,
                dilation // e if taps > 1 else 1,
                (max(before, 0), max(after, 0)),
                max(-before, 0),
            )
        )
    return tuple(found)


@dataclass(frozen=True)
class Phase:
    """Cells of the input gradient that share their taps; `spec` yields them, None where no tap reaches them."""

    axes: tuple[AxisPhase, ...]
    spec: ConvSpec | None

    @property
    def whole(self) -> bool:
        """Whether the spec's output is the whole gradient, with nothing to skip or to interleave."""
        if self.spec is None:
            return False
        cells = tuple(a.count for a in self.axes)
        return self.spec.output == cells and all(a.start == 0 for a in self.axes)


def input_phases(spec: ConvSpec) -> tuple[Phase, ...]:
    """The stride-1 convolutions of the output's gradient that make up the input's.

    `spec` is the forward pass, with zeros for padding; other modes are the same on the padded input (`zero_padded`).
    """
    assert spec.padding_mode == "zeros"
    per_axis = [
        axis_phases(size, out, k, s, d, lo)
        for size, out, k, s, d, (lo, _) in zip(
            spec.input, spec.output, spec.kernel, spec.stride, spec.dilation, spec.padding, strict=True
        )
    ]
    found = []
    for axes in product(*per_axis):
        adjoint = None
        if all(a.taps for a in axes):
            adjoint = ConvSpec.make(
                (spec.N, spec.OC, *spec.output),
                (spec.C, spec.OC // spec.groups, *(a.taps for a in axes)),
                padding=tuple(a.padding for a in axes),
                dilation=tuple(a.dilation for a in axes),
                groups=spec.groups,
                dtype=spec.dtype,
                channels_last=spec.channels_last,
            )
        found.append(Phase(axes, adjoint))
    return tuple(found)


def zero_padded(spec: ConvSpec) -> ConvSpec:
    """The same forward pass with zeros for padding: where other cells fill it, on an input that already holds them."""
    if spec.padding_mode == "zeros":
        return spec
    return replace(spec, input=spec.padded, padding=((0, 0),) * spec.ndim, padding_mode="zeros")


def swapped(spec: ConvSpec) -> ConvSpec | None:
    """The convolution whose output is the weight gradient, (C // groups, OC, *kernel); None if that is all zeros.

    Its input is x with images and channels exchanged, (C // groups, groups * N, *size), cut off where no output has
    read it; its weight is grad_output, (OC, N, *output). Padding other than zeros must be in x already.
    """
    assert spec.padding_mode == "zeros"
    pads, kept = [], []
    for size, out, k, s, d, (lo, _) in zip(
        spec.input, spec.output, spec.kernel, spec.stride, spec.dilation, spec.padding, strict=True
    ):
        # k outputs, d apart, of a kernel that covers (out - 1)*s + 1 cells
        reach = (k - 1) * d + (out - 1) * s + 1
        if reach <= lo:  # every tap has only seen padding
            return None
        kept.append(min(size, reach - lo))
        pads.append((lo, max(reach - lo - size, 0)))
    return ConvSpec.make(
        (spec.C // spec.groups, spec.groups * spec.N, *kept),
        (spec.OC, spec.N, *spec.output),
        stride=spec.dilation,
        dilation=spec.stride,
        padding=tuple(pads),
        groups=spec.groups,
        dtype=spec.dtype,
    )
