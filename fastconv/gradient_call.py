"""Gradients and transposed convolutions bound to shapes, as `fastconv.call` binds convolutions.

An `InputCall` computes the gradient of a convolution's input, which is a transposed convolution of the gradient of its
output; a `WeightCall` computes the gradient of its weight. Both plan for the spec of the forward pass.

Complex numbers are pairs of real channels, x' = [re; im] with w' = [[wr, -wi], [wi, wr]]. Transposing that matrix
conjugates w: the gradient of the input is the adjoint, as in PyTorch. A transposed convolution conjugates w before.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from fastconv import arrays, call
from fastconv.call import Options
from fastconv.cpu import store
from fastconv.cpu.threads import get_num_threads
from fastconv.kernels.epilogue import Epilogue
from fastconv.spec import ConvSpec, shape_tuple


def logical_shape(ndim: int, shape: tuple[int, ...], last: bool) -> tuple[int, ...]:
    """(N, C, *spatial) of a shape in the caller's axes, which may have no batch."""
    batched = shape if len(shape) == ndim + 2 else (1, *shape)
    return (batched[0], batched[-1], *batched[1:-1]) if last else batched


def callers_shape(logical: tuple[int, ...], batched: bool, last: bool) -> tuple[int, ...]:
    """The inverse of `logical_shape`."""
    N, C, *size = logical
    image = (*size, C) if last else (C, *size)
    return (N, *image) if batched else image


def check_axes(name: str, ndim: int, shape: tuple[int, ...], last: bool) -> None:
    """ValueError unless an array of images has the number of axes of `ndim` dimensions."""
    if len(shape) not in (ndim + 1, ndim + 2):
        letters = {1: "L", 2: "H, W", 3: "D, H, W"}[ndim]
        axes = f"{letters}, C" if last else f"C, {letters}"
        raise ValueError(f"{name} must have {ndim + 2} axes (N, {axes}) or {ndim + 1} ({axes}), got shape {shape}")


class Images:
    """How arrays of images of one problem lie in the caller's axes and in memory."""

    def __init__(self, ndim: int, array: np.ndarray, last: bool, numbers: arrays.Numbers) -> None:
        """For arrays whose memory lies as that of `array`; `last` says that its last axis is the channels'."""
        self.numbers, self.last = numbers, last
        self.batched = array.ndim == ndim + 2
        logical = array if self.batched else array[None]
        self.channels_last = arrays.is_channels_last(np.moveaxis(logical, -1, 1) if last else logical, prefer=last)
        self.to_memory, self.from_memory = call.orders(array.ndim, ndim, last, self.channels_last)
        self.dtype = np.dtype(numbers.kernel)

    def flat(self, array: np.ndarray) -> np.ndarray:
        """An array of images, flat in memory order, in the kernels' dtype."""
        if self.to_memory is not None:
            array = array.transpose(self.to_memory)
        if self.numbers.is_complex:
            return arrays.complex_to_real(array if self.batched else array[None], self.channels_last)
        return arrays.ready(array, self.dtype).reshape(-1)

    def memory_shape(self, logical: tuple[int, ...]) -> tuple[int, ...]:
        return callers_shape(logical, self.batched, self.channels_last)


class InputCall:
    """The gradient of an input bound to shapes, dtypes, memory orders and options; the data comes with each call.

    Parameters
    ----------
    spec : ConvSpec
        The forward pass, in the kernels' numbers.
    images : Images
        Of the output's gradient and of the result.
    channels : int
        Of the result; complex numbers count once.
    activation : Epilogue
        Without bias.
    conjugate : bool
        Whether the linear operation is wanted, not the adjoint.
    name : str
        What the caller calls the output's gradient.
    grow : tuple of int
        Zeros to add at the end of each spatial axis of the output's gradient.
    """

    def __init__(
        self,
        spec: ConvSpec,
        images: Images,
        options: Any,
        channels: int,
        activation: Epilogue,
        *,
        conjugate: bool = False,
        name: str = "grad_output",
        prepared: bool = False,
        grow: tuple[int, ...] = (),
    ) -> None:
        self.options, self.spec, self.images, self.numbers = options, spec, images, images.numbers
        self.plan = plan = call.build_plan(spec, options, prepared, "input")
        self.run = partial(plan.module.run, plan.spec, plan.params)
        self.prepare = partial(plan.module.prepare, plan.spec, plan.params)
        self.empty = spec.N == 0
        self.channels, self.conjugate, self.activation, self.last = channels, conjugate, activation, activation
        self.name = name
        self.grow = grow if any(grow) else None
        self.logical = (spec.N, channels, *spec.input)
        self.out_shape = callers_shape(self.logical, images.batched, images.last)
        self.memory_shape = images.memory_shape(self.logical)
        self.native = not self.numbers.is_complex and self.numbers.result == self.numbers.kernel
        self.dtype, self.kernel_dtype = self.numbers.result, np.dtype(self.numbers.kernel)

    def __call__(
        self, gradient: np.ndarray, weight: np.ndarray, packed: Any = None, bias: Any = None, out: Any = None
    ) -> np.ndarray:
        """Compute. `packed` is the weight as `pack` returns it, None to pack it now."""
        epilogue = self.activation if bias is None else self.with_bias(bias)
        target = None
        if out is not None:
            target = arrays.check_out(out, self.out_shape, self.dtype)
            arrays.check_no_overlap(target, **{self.name: gradient}, weight=weight, bias=epilogue.bias)
        if self.empty:
            return np.empty(self.out_shape, self.dtype) if out is None else out
        images = self.images
        packed = self.pack(weight) if packed is None else packed
        result = self.buffer(target)
        flat = result.reshape(-1)
        self.run(images.flat(gradient if self.grow is None else self.grown(gradient)), packed, flat, epilogue)
        if not self.native:
            result = self.to_result(flat)
        if images.from_memory is not None:
            result = result.transpose(images.from_memory)
        if target is None:
            return result
        if not np.may_share_memory(result, target):
            np.copyto(target, result)
        return out

    def pack(self, weight: np.ndarray) -> Any:
        """The weight in the form that the plan's algorithm wants."""
        if self.numbers.is_complex:
            weight = arrays.complex_weight(weight.conj() if self.conjugate else weight)
        return self.prepare(arrays.ready(weight, self.kernel_dtype))

    def with_bias(self, bias: Any) -> Epilogue:
        """The activation with this call's bias, remembered for the next call with the very same array."""
        last = self.last  # read once: another thread may replace it
        if bias is not last.bias or self.numbers.is_complex:
            bias = call.check_bias(bias, self.channels, self.dtype)
            if self.numbers.is_complex:
                bias = np.ascontiguousarray(bias).view(bias.real.dtype)
            base = self.activation
            last = self.last = Epilogue(arrays.ready(bias, self.kernel_dtype), base.residual, base.constants)
        return last

    def grown(self, gradient: np.ndarray) -> np.ndarray:
        """The output's gradient with zeros at the end of its spatial axes."""
        assert self.grow is not None
        images = self.images
        ends = [(0, 0)] * gradient.ndim
        first = int(images.batched) + (0 if images.last else 1)
        for axis, count in enumerate(self.grow):
            ends[first + axis] = (0, count)
        return np.pad(gradient, ends)

    def buffer(self, out: np.ndarray | None) -> np.ndarray:
        """Where the kernels write: `out` itself, in memory order, if they can."""
        if not self.native:
            return np.empty(self.spec.N * self.spec.C * int(np.prod(self.spec.input)), self.kernel_dtype)
        if out is not None:
            view = out if self.images.to_memory is None else out.transpose(self.images.to_memory)
            if view.flags.num & arrays.READY == arrays.READY:
                return view
        return np.empty(self.memory_shape, self.dtype)

    def to_result(self, flat: np.ndarray) -> np.ndarray:
        """The kernels' numbers as the result dtype, in memory order."""
        if self.numbers.is_complex:
            batch = callers_shape(self.logical, True, self.images.channels_last)
            return arrays.real_to_complex(flat, batch, self.dtype, self.images.channels_last).reshape(self.memory_shape)
        with np.errstate(over="ignore"):  # float16 overflows to infinity, as it does in every float16 library
            return flat.reshape(self.memory_shape).astype(self.dtype)


class WeightCall:
    """The gradient of a weight bound to shapes, dtypes, memory orders and options."""

    def __init__(self, spec: ConvSpec, images: Images, options: Any, weight_shape: tuple[int, ...]) -> None:
        self.options, self.spec, self.images, self.numbers = options, spec, images, images.numbers
        self.plan = plan = call.build_plan(spec, options, False, "weight")
        self.run = partial(plan.module.run, plan.spec, plan.params)
        self.empty = spec.N == 0
        self.out_shape = weight_shape
        self.native = not self.numbers.is_complex and self.numbers.result == self.numbers.kernel
        self.dtype, self.kernel_dtype = self.numbers.result, np.dtype(self.numbers.kernel)

    def __call__(self, x: np.ndarray, gradient: np.ndarray, out: Any = None) -> np.ndarray:
        """Compute."""
        target = None
        if out is not None:
            target = arrays.check_out(out, self.out_shape, self.dtype)
            arrays.check_no_overlap(target, x=x, grad_output=gradient)
        direct = target is not None and self.native and target.flags.num & arrays.READY == arrays.READY
        result = target if direct else np.empty(self.spec.weight_shape, self.kernel_dtype)
        assert result is not None
        if self.empty:
            result[...] = 0
        else:
            self.run(self.images.flat(x), self.images.flat(gradient), result.reshape(-1))
        if self.numbers.is_complex:
            result = _complex_weight_gradient(result, self.dtype)
        elif not self.native:
            with np.errstate(over="ignore"):
                result = result.astype(self.dtype)
        if target is None:
            return result
        if not direct:
            np.copyto(target, result)
        return out


def _complex_weight_gradient(pairs: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The gradient of w from that of w' = [[re, -im], [im, re]]: every number of w stands there twice."""
    OC, IC, *kernel = pairs.shape
    four = pairs.reshape(OC // 2, 2, IC // 2, 2, *kernel)
    result = np.empty((OC // 2, IC // 2, *kernel), dtype)
    result.real = four[:, 0, :, 0] + four[:, 1, :, 1]
    result.imag = four[:, 1, :, 0] - four[:, 0, :, 1]
    return result


# ---- from raw arguments -------------------------------------------------------------------------------------------

_calls: dict[Any, Any] = {}


def _bound(kind: Any, ndim: int, one: np.ndarray, other: np.ndarray, shape: Any, options: tuple[Any, ...]) -> Any:
    """The call bound to these arguments: one dictionary lookup from the second time on."""
    shape = tuple(shape) if isinstance(shape, list) else shape
    key = None
    if call.is_plain(options[:4]) and type(shape) is tuple and call.is_plain(shape):
        key = (
            kind, ndim, shape, options, one.shape, one.dtype, one.strides, other.shape, other.dtype, other.strides,
            get_num_threads(), store.edition,
        )  # fmt: skip
        try:
            found = _calls.get(key)
        except TypeError:
            found = None
        # False == 0: an equal key is not yet a valid argument.
        if found is not None and found.options.flip is options[7] and type(options[10]) is type(found.options[10]):
            return found
    opts = Options(*map(call.frozen, options))
    found = kind(ndim, one, other, shape, opts)
    if key is not None:
        call.remember(_calls, key, found)
    return found


def bound_input(ndim: int, shape: Any, weight: np.ndarray, gradient: np.ndarray, options: tuple[Any, ...]) -> InputCall:
    """The call for `conv*d_input`; the options are those of `Options`, in order."""
    return _bound(_bind_input, ndim, weight, gradient, shape, options)


def bound_weight(ndim: int, x: np.ndarray, shape: Any, gradient: np.ndarray, options: tuple[Any, ...]) -> WeightCall:
    """The call for `conv*d_weight`."""
    return _bound(_bind_weight, ndim, x, gradient, shape, options)


def _bind_input(ndim: int, weight: np.ndarray, gradient: np.ndarray, shape: Any, options: Options) -> InputCall:
    x_shape = shape_tuple("input_shape", shape)
    last = call.layout_is_channels_last(options.layout, ndim)
    check_axes("input_shape", ndim, x_shape, last)
    numbers = arrays.numbers(gradient.dtype, weight.dtype, ("grad_output", "weight"))
    batched = len(x_shape) == ndim + 2
    logical = logical_shape(ndim, x_shape, last)
    plain = _forward_spec(ndim, logical, weight.shape, numbers, options, False)
    check_gradient(gradient, plain, batched, last)
    images = Images(ndim, gradient, last, numbers)
    spec = _forward_spec(ndim, logical, weight.shape, numbers, options, images.channels_last)
    return InputCall(spec, images, options, logical[1], call.make_epilogue(numbers, None))


def _bind_weight(ndim: int, x: np.ndarray, gradient: np.ndarray, shape: Any, options: Options) -> WeightCall:
    weight_shape = shape_tuple("weight_shape", shape)
    last = call.layout_is_channels_last(options.layout, ndim)
    check_axes("x", ndim, x.shape, last)
    numbers = arrays.numbers(x.dtype, gradient.dtype, ("x", "grad_output"))
    batched = x.ndim == ndim + 2
    logical = logical_shape(ndim, x.shape, last)
    plain = _forward_spec(ndim, logical, weight_shape, numbers, options, False)
    check_gradient(gradient, plain, batched, last)
    # Where the two disagree, the smaller one is copied into the other's order.
    images = Images(ndim, x if x.size >= gradient.size else gradient, last, numbers)
    spec = _forward_spec(ndim, logical, weight_shape, numbers, options, images.channels_last)
    return WeightCall(spec, images, options, weight_shape)


def _forward_spec(
    ndim: int, logical: Any, weight_shape: Any, numbers: arrays.Numbers, options: Options, channels_last: bool
) -> ConvSpec:
    if len(weight_shape) != ndim + 2:
        raise ValueError(
            f"weight must have {ndim + 2} axes (out channels, channels per group, {ndim} spatial), "
            f"got shape {tuple(weight_shape)}"
        )
    return call.build_spec(logical, weight_shape, numbers, options, channels_last)


def check_gradient(gradient: np.ndarray, spec: ConvSpec, batched: bool, last: bool) -> None:
    """ValueError unless `gradient` has the shape of the forward pass's output."""
    channels = spec.OC // 2 if gradient.dtype.kind == "c" else spec.OC
    expected = callers_shape((spec.N, channels, *spec.output), batched, last)
    if gradient.shape != expected:
        raise ValueError(
            f"grad_output must have the shape of the convolution's output, {expected}, got {gradient.shape}"
        )
