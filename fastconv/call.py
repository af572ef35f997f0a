"""From raw arguments to a bound call.

The first call with given shapes, dtypes and options is validated and planned; what it leads to, a `Call`, is
remembered under those raw arguments. Every later call is one dictionary lookup, the packing of the weights and the
kernel: nothing is validated twice.
"""

from __future__ import annotations

import contextlib
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fastconv import arrays
from fastconv.kernels.epilogue import Epilogue
from fastconv.plan.dispatch import plan_spec
from fastconv.spec import ConvSpec

if TYPE_CHECKING:
    from fastconv.plan.dispatch import Plan

#: Calls remembered per cache. A network has some hundreds of layers; a stream of ever new shapes must not grow forever.
CACHE_LIMIT = 1024

_AXES = {1: "L", 2: "HW", 3: "DHW"}


def remember(calls: dict[Any, Any], key: Any, call: Any) -> None:
    """Store a call, if its key can be one; a full cache starts afresh."""
    if len(calls) >= CACHE_LIMIT:
        calls.clear()
    with contextlib.suppress(TypeError):  # a list among the options: such calls are bound anew each time
        calls[key] = call


class Options(NamedTuple):
    """The options of a convolution that do not hold data."""

    stride: Any = 1
    padding: Any = 0
    dilation: Any = 1
    groups: Any = 1
    padding_mode: Any = "zeros"
    activation: Any = None
    layout: Any = "NCHW"
    flip: Any = False
    algorithm: Any = "auto"
    accuracy: Any = "default"
    workspace_limit: Any = None


def layout_is_channels_last(layout: Any, ndim: int) -> bool:
    """Whether `layout` names channels-last axes. "NCHW" and "NHWC" serve every number of axes."""
    first, last = f"NC{_AXES[ndim]}", f"N{_AXES[ndim]}C"
    if layout in ("NCHW", first):
        return False
    if layout in ("NHWC", last):
        return True
    names = dict.fromkeys(("NCHW", "NHWC", first, last))
    raise ValueError(f"layout must be one of {', '.join(names)}, got {layout!r}")


def frozen(value: Any) -> Any:
    """Lists and arrays as tuples, so that options can be a dictionary key."""
    if isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.ndim):
        return tuple(frozen(item) for item in value)
    return value


def is_plain(value: Any) -> bool:
    """Only int, str, None and tuples of them: what cannot hide a bool or a float behind an equal integer."""
    kind = type(value)
    if kind is tuple:
        return all(is_plain(item) for item in value)
    return kind is int or kind is str or value is None


def build_spec(
    x_shape: Any, weight_shape: Any, numbers: arrays.Numbers, options: Options, channels_last: bool
) -> ConvSpec:
    """The spec of the kernels for logical, batched shapes: complex numbers are pairs of real channels."""
    geometry = {
        "stride": options.stride,
        "padding": options.padding,
        "dilation": options.dilation,
        "groups": options.groups,
        "padding_mode": options.padding_mode,
        "flip": options.flip,
        "dtype": numbers.kernel,
        "channels_last": channels_last,
    }
    spec = ConvSpec.make(x_shape, weight_shape, **geometry)
    if numbers.is_complex:
        N, C, *size = spec.x_shape
        OC, IC, *kernel = spec.weight_shape
        spec = ConvSpec.make((N, 2 * C, *size), (2 * OC, 2 * IC, *kernel), **geometry)
    if spec.K * numbers.largest_product >= 2**31:
        raise ValueError(
            f"x and weight are 8-bit integers summed in int32, which {spec.K} products of up to "
            f"{numbers.largest_product} can overflow: cast both to int16 (summed in int64)"
        )
    return spec


def make_epilogue(numbers: arrays.Numbers, activation: Any) -> Epilogue:
    """The epilogue without bias and residual."""
    if activation is not None and (not isinstance(activation, (str, tuple)) or not activation):
        raise TypeError(f"activation must be None, a name or a tuple (name, parameters...), got {activation!r}")
    if activation is not None and numbers.is_complex:
        raise TypeError(f"activation must be None for complex arrays, got {activation!r}")
    return Epilogue.make(numbers.kernel, activation=activation)


def build_plan(spec: ConvSpec, options: Any, prepared: bool, direction: str = "forward") -> Plan:
    """The plan of a spec; options that are not understood, or that the algorithm refuses, are errors here."""
    return plan_spec(
        spec,
        algorithm=options.algorithm,
        accuracy=options.accuracy,
        workspace_limit=options.workspace_limit,
        prepared=prepared,
        direction=direction,
    )


Order = tuple[int, ...] | None


def orders(axes: int, ndim: int, last: bool, channels_last: bool) -> tuple[Order, Order]:
    """Arguments of `transpose` from the caller's axes to memory order and back; None where they are the same.

    `axes` counts the axes of the array, `last` says that the caller's channels come last, `channels_last` that memory's
    do.
    """
    if channels_last == last:
        return None, None
    channel = axes - ndim - 1
    backward = (*range(channel), *range(channel + 1, axes), channel)  # the channel axis goes last
    forward = (*range(channel), axes - 1, *range(channel, axes - 1))  # the last axis becomes the channels
    return (backward, forward) if channels_last else (forward, backward)


class Call:
    """One convolution bound to shapes, dtypes, memory orders and options; the data comes with each call."""

    def __init__(self, ndim: int, x: np.ndarray, weight: np.ndarray, options: Options, prepared: bool) -> None:
        last = layout_is_channels_last(options.layout, ndim)
        check_axes(ndim, x.shape, weight.shape, options.layout, last)
        self.options = options
        self.numbers = numbers = arrays.numbers(x.dtype, weight.dtype)
        self.dtype = numbers.result
        self.kernel_dtype = np.dtype(numbers.kernel)  # comparing a dtype with a name is slow

        batched = x.ndim == ndim + 2
        logical = x if batched else x[None]
        logical = np.moveaxis(logical, -1, 1) if last else logical
        channels_last = arrays.is_channels_last(logical, prefer=last)
        self.spec = spec = build_spec(logical.shape, weight.shape, numbers, options, channels_last)
        self.channels_last = channels_last
        self.plan = plan = build_plan(spec, options, prepared)
        # Past the plan's thin methods: this is the hot path.
        self.run = partial(plan.module.run, plan.spec, plan.params)
        self.prepare = partial(plan.module.prepare, plan.spec, plan.params)
        self.empty = spec.N == 0

        self.to_memory, self.from_memory = orders(x.ndim, ndim, last, channels_last)

        OC = weight.shape[0]
        self.OC = OC
        image = (*spec.output, OC) if channels_last else (OC, *spec.output)
        self.batch_shape = (spec.N, *image)  # memory order, complex numbers counted once
        self.memory_shape = self.batch_shape if batched else image
        outer = (spec.N,) if batched else ()
        self.out_shape = (*outer, *spec.output, OC) if last else (*outer, OC, *spec.output)

        self.activation = self.last = make_epilogue(numbers, options.activation)
        self.native = not numbers.is_complex and numbers.result == numbers.kernel
        self.short = self.native and not self.empty  # whether `compute` will do
        view = x if self.to_memory is None else x.transpose(self.to_memory)
        self.x_ready = view.flags.num & arrays.READY == arrays.READY and x.dtype == numbers.kernel
        self.weight_ready = weight.flags.num & arrays.READY == arrays.READY and weight.dtype == numbers.kernel

    def call(self, x: np.ndarray, weight: np.ndarray, packed: Any, bias: Any, residual: Any, out: Any) -> np.ndarray:
        """Compute. `packed` is the weight as `pack` returns it, None to pack it now."""
        if residual is None and out is None and self.short:
            if bias is None:
                epilogue = self.activation
            else:
                epilogue = self.last  # read once: another thread may replace it
                if bias is not epilogue.bias:  # else it is the very array of the call before
                    epilogue = self.last = self.epilogue(check_bias(bias, self.OC, self.dtype), None)
            return self.compute(x, self.pack(weight) if packed is None else packed, epilogue)
        bias = None if bias is None else check_bias(bias, self.OC, self.dtype)
        residual = None if residual is None else self.check_residual(residual)
        target = None
        if out is not None:
            target = arrays.check_out(out, self.out_shape, self.dtype)
            arrays.check_no_overlap(target, x=x, weight=weight, bias=bias, residual=residual)
        if self.empty:
            return np.empty(self.out_shape, self.dtype) if out is None else out
        epilogue = self.epilogue(bias, residual)
        packed = self.pack(weight) if packed is None else packed
        result = self.buffer(target)
        flat = result.reshape(-1)
        self.run(self.flat(x), packed, flat, epilogue)
        if not self.native:
            result = self.to_result(flat)
        if self.from_memory is not None:
            result = result.transpose(self.from_memory)
        if target is None:
            return result
        if not np.may_share_memory(result, target):
            np.copyto(target, result)
        return out

    def compute(self, x: np.ndarray, packed: Any, epilogue: Epilogue) -> np.ndarray:
        """The short way: the kernels write the result itself."""
        if not self.x_ready:
            x = self.flat(x)
        elif self.to_memory is not None:
            x = x.transpose(self.to_memory)
        result = np.empty(self.memory_shape, self.dtype)
        self.run(x, packed, result, epilogue)
        return result if self.from_memory is None else result.transpose(self.from_memory)

    def pack(self, weight: np.ndarray) -> Any:
        """The weight in the form that the plan's algorithm wants."""
        return self.prepare(weight if self.weight_ready else self.kernel_weight(weight))

    # ---- data into the order and dtype of the kernels -------------------------------------------------------------

    def flat(self, array: np.ndarray) -> np.ndarray:
        """x or residual, flat in memory order, in the kernels' dtype."""
        if self.to_memory is not None:
            array = array.transpose(self.to_memory)
        if self.numbers.is_complex:
            batched = array if array.ndim == self.spec.ndim + 2 else array[None]
            return arrays.complex_to_real(batched, self.channels_last)
        return arrays.ready(array, self.kernel_dtype).reshape(-1)

    def kernel_weight(self, weight: np.ndarray) -> np.ndarray:
        """The weight as the algorithms take it: contiguous, in the kernels' dtype."""
        if self.numbers.is_complex:
            weight = arrays.complex_weight(weight)
        return arrays.ready(weight, self.kernel_dtype)

    def epilogue(self, bias: np.ndarray | None, residual: np.ndarray | None) -> Epilogue:
        """The activation with this call's bias and residual."""
        if bias is not None:
            if self.numbers.is_complex:
                bias = np.ascontiguousarray(bias).view(bias.real.dtype)
            bias = arrays.ready(bias, self.kernel_dtype)
        if residual is not None:
            residual = self.flat(residual)
        base = self.activation
        if bias is None and residual is None:
            return base
        return Epilogue(
            base.bias if bias is None else bias,
            base.residual if residual is None else residual,
            base.constants,
        )

    def check_residual(self, residual: Any) -> np.ndarray:
        residual = arrays.as_array("residual", residual)
        if residual.shape != self.out_shape:
            raise ValueError(f"residual must have the shape of the result, {self.out_shape}, got {residual.shape}")
        if residual.dtype != self.dtype:
            raise TypeError(f"residual must have the dtype of the result, {self.dtype}, got {residual.dtype}")
        return residual

    # ---- results into the caller's order and dtype ----------------------------------------------------------------

    def buffer(self, out: np.ndarray | None) -> np.ndarray:
        """Where the kernels write: `out` itself, in memory order, if they can."""
        if not self.native:
            return np.empty(self.spec.N * self.spec.OC * int(np.prod(self.spec.output)), self.numbers.kernel)
        if out is not None:
            view = out if self.to_memory is None else out.transpose(self.to_memory)
            if view.flags.num & arrays.READY == arrays.READY:
                return view
        return np.empty(self.memory_shape, self.dtype)

    def to_result(self, flat: np.ndarray) -> np.ndarray:
        """The kernels' numbers as the result dtype, in memory order."""
        if self.numbers.is_complex:
            result = arrays.real_to_complex(flat, self.batch_shape, self.dtype, self.channels_last)
            return result.reshape(self.memory_shape)
        with np.errstate(over="ignore"):  # float16 overflows to infinity, as it does in every float16 library
            return flat.reshape(self.memory_shape).astype(self.dtype)


def check_bias(bias: Any, OC: int, dtype: np.dtype) -> np.ndarray:
    """The bias as an array of one value of `dtype` per output channel."""
    bias = arrays.as_array("bias", bias)
    if bias.shape != (OC,):
        raise ValueError(f"bias must have shape ({OC},), one value per output channel, got {bias.shape}")
    if bias.dtype != dtype:
        raise TypeError(f"bias must have the dtype of the result, {dtype}, got {bias.dtype}")
    return bias


def check_axes(ndim: int, x_shape: Any, weight_shape: Any, layout: Any, last: bool) -> None:
    """ValueError unless x and weight have the number of axes of an `ndim`-dimensional convolution."""
    axes = f"{', '.join(_AXES[ndim])}, C" if last else f"C, {', '.join(_AXES[ndim])}"
    if len(x_shape) not in (ndim + 1, ndim + 2):
        raise ValueError(
            f"conv{ndim}d: x must have {ndim + 2} axes (N, {axes}) or {ndim + 1} ({axes}), got shape {tuple(x_shape)}"
        )
    if len(weight_shape) != ndim + 2:
        raise ValueError(
            f"conv{ndim}d: weight must have {ndim + 2} axes (out channels, channels per group, "
            f"{', '.join(_AXES[ndim])}), got shape {tuple(weight_shape)}"
        )
