"""Array intake: anything that holds numbers becomes a NumPy array that kernels can read, copied only when it must be.

What is accepted, and how:

- `numpy.ndarray` as it is. Subclasses are read as plain arrays; masked arrays are refused (fill them first).
- Objects with ``__dlpack__`` on the CPU (torch, jax, ...), ``__array__``, ``__array_interface__`` or a buffer, without
  a copy where the object allows it; nested lists of numbers through `numpy.asarray`.
- Foreign byte order, unaligned data, negative and broadcast strides: copied once into the order the kernels need.
- Read-only arrays are not copied.
- NaN, infinities and signed zeros pass untouched.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

# ndarray.flags.num bits: everything the fast path must know about an array in one integer.
C_CONTIGUOUS = 0x001
ALIGNED = 0x100
READY = C_CONTIGUOUS | ALIGNED


class Numbers(NamedTuple):
    """How a pair of input dtypes is computed."""

    kernel: str  #: dtype the kernels compute in
    result: np.dtype  #: dtype of the result, and of bias, residual and out
    is_complex: bool
    largest_product: int  #: of two 8-bit integers, which are summed in int32; 0 for every other dtype


# float16 is stored as float16 and summed in float32. 8-bit integers are summed in int32, wider ones in int64.
_FLOATS = {
    "float16": ("float32", "float16"),
    "float32": ("float32", "float32"),
    "float64": ("float64", "float64"),
    "complex64": ("float32", "complex64"),
    "complex128": ("float64", "complex128"),
    "int16": ("int64", "int64"),
    "int32": ("int64", "int64"),
    "int64": ("int64", "int64"),
}
_LARGEST = {"int8": 128, "uint8": 255}
SUPPORTED = (*_FLOATS, *_LARGEST)
_NATIVE = frozenset(map(np.dtype, SUPPORTED))


def numbers(x: np.dtype, weight: np.dtype, names: tuple[str, str] = ("x", "weight")) -> Numbers:
    """The dtypes of a convolution of these inputs, called `names`; TypeError if they cannot be mixed."""
    if x.name in _LARGEST and weight.name in _LARGEST:  # int8 and uint8 may be mixed, as quantised networks do
        return Numbers("int32", np.dtype(np.int32), False, _LARGEST[x.name] * _LARGEST[weight.name])
    if x != weight:
        first, second = names
        raise TypeError(
            f"{first} and {second} must have the same dtype, got {first} {x.name} and {second} {weight.name}"
        )
    kernel, result = _FLOATS[x.name]
    return Numbers(kernel, np.dtype(result), x.kind == "c", 0)


def check_dtype(name: str, dtype: np.dtype) -> None:
    """TypeError unless `dtype` is one that convolutions take."""
    if dtype.name in SUPPORTED:
        return
    if dtype.kind == "b":
        hint = f"; cast it first, for example {name}.astype('uint8') or {name}.astype('float32')"
    elif dtype.kind == "u":
        hint = f"; cast it first, for example {name}.astype('int64')"
    elif dtype.kind in "fc":
        hint = f"; cast it first, for example {name}.astype('{'float64' if dtype.kind == 'f' else 'complex128'}')"
    else:
        hint = ""
    raise TypeError(f"{name} must have a dtype among {', '.join(SUPPORTED)}, got {dtype}{hint}")


def parse_dtype(dtype: Any) -> np.dtype:
    """A dtype argument (name, type or numpy dtype) as a supported native dtype."""
    try:
        parsed = np.dtype(dtype)
    except TypeError:
        raise TypeError(f"dtype must be one of {', '.join(SUPPORTED)}, got {dtype!r}") from None
    if dtype is None or parsed.name not in SUPPORTED:
        raise TypeError(f"dtype must be one of {', '.join(SUPPORTED)}, got {dtype!r}")
    return parsed.newbyteorder("=")


def as_array(name: str, value: Any) -> np.ndarray:
    """`value` as a plain ndarray of a supported dtype in native byte order; copied only for the byte order."""
    if type(value) is not np.ndarray:
        value = _foreign(name, value)
    if value.dtype in _NATIVE:  # a dtype of foreign byte order is another one
        return value
    check_dtype(name, value.dtype)
    return value.astype(value.dtype.newbyteorder("="))


def _foreign(name: str, value: Any) -> np.ndarray:
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name} must not be a masked array: fill it first, for example {name}.filled(0)")
    if isinstance(value, (str, bytes)) or value is None:
        raise TypeError(f"{name} must be a numeric array, got {value!r}")
    if hasattr(value, "__dlpack__") and not isinstance(value, np.ndarray):
        try:
            return np.from_dlpack(value)
        except (BufferError, RuntimeError, TypeError, ValueError, AttributeError):
            pass  # a device, a dtype or a lazy conjugate that DLPack cannot express: __array__ may still know how
    try:
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError, BufferError) as error:
        kind = type(value).__name__
        raise TypeError(f"{name} must be a numeric array; {kind} cannot be read as one: {error}") from error


def ready(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """`array` as a C-contiguous, aligned array of `dtype`; a copy only if it must be."""
    if array.flags.num & READY == READY and array.dtype == dtype:
        return array
    return np.require(array, dtype, ("C_CONTIGUOUS", "ALIGNED"))


def is_channels_last(x: np.ndarray, prefer: bool = False) -> bool:
    """Whether the memory of an (N, C, *spatial) array is, or should become, (N, *spatial, C).

    An array that is contiguous both ways (one channel, or one cell) counts as channels-last only if `prefer`. A
    strided array is copied into the order its channels suggest: a crop of a channels-last image stays channels-last.
    """
    first = bool(x.flags.c_contiguous)
    last = bool(np.moveaxis(x, 1, -1).flags.c_contiguous)
    if first or last:
        return last and (prefer or not first)
    if x.shape[1] == 1 or x.strides[1] == 0:
        return prefer
    spatial = [abs(step) for step, size in zip(x.strides[2:], x.shape[2:], strict=True) if size > 1 and step]
    return abs(x.strides[1]) < min(spatial, default=0)


def check_out(out: Any, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """`out` as a plain ndarray if results of this shape and dtype can be written to it."""
    if not isinstance(out, np.ndarray) or isinstance(out, np.ma.MaskedArray):
        raise TypeError(f"out must be a numpy.ndarray, got {type(out).__name__}")
    if out.shape != shape:
        raise ValueError(f"out must have shape {shape}, got {out.shape}")
    if out.dtype != dtype:
        raise TypeError(f"out must have dtype {dtype} in native byte order, got {out.dtype!r}")
    if not out.flags.writeable:
        raise ValueError("out must be writable, got a read-only array")
    if out.size and any(step == 0 and size > 1 for step, size in zip(out.strides, out.shape, strict=True)):
        raise ValueError(f"out must not overlap itself, got a broadcast array with strides {out.strides}")
    return np.asarray(out)


def check_no_overlap(out: np.ndarray, **inputs: np.ndarray | None) -> None:
    """ValueError if `out` shares memory with an input: it would be overwritten while it is still read."""
    for name, array in inputs.items():
        if array is None or not np.may_share_memory(out, array):
            continue
        try:
            overlaps = np.shares_memory(out, array, max_work=10_000)  # type: ignore[arg-type]  # the stubs know only 0 and -1
        except np.exceptions.TooHardError:
            overlaps = True
        if overlaps:
            raise ValueError(f"out must not share memory with {name}")


# ---- complex numbers as pairs of real channels: 2c is the real part of channel c, 2c + 1 its imaginary part ---------


def complex_to_real(x: np.ndarray, channels_last: bool) -> np.ndarray:
    """Complex array in memory order, batch first, as a real one with twice the channels, flat.

    Channels-last complex memory already is that real array.
    """
    real = x.real.dtype
    if channels_last:
        return ready(x, x.dtype).view(real).reshape(-1)
    planes = np.empty((*x.shape[:2], 2, *x.shape[2:]), real)
    planes[:, :, 0] = x.real
    planes[:, :, 1] = x.imag
    return planes.reshape(-1)


def real_to_complex(flat: np.ndarray, shape: tuple[int, ...], dtype: np.dtype, channels_last: bool) -> np.ndarray:
    """The inverse of `complex_to_real`; `shape` is the complex shape in memory order."""
    if channels_last:
        return flat.view(dtype).reshape(shape)
    planes = flat.reshape(*shape[:2], 2, *shape[2:])
    x = np.empty(shape, dtype)
    x.real = planes[:, :, 0]
    x.imag = planes[:, :, 1]
    return x


def complex_weight(weight: np.ndarray) -> np.ndarray:
    """(OC, IC, *kernel) complex as (2 OC, 2 IC, *kernel) real: w x = [[re, -im], [im, re]] [re x, im x]."""
    OC, IC, *kernel = weight.shape
    pairs = np.empty((OC, 2, IC, 2, *kernel), weight.real.dtype)
    pairs[:, 0, :, 0] = weight.real
    pairs[:, 0, :, 1] = -weight.imag
    pairs[:, 1, :, 0] = weight.imag
    pairs[:, 1, :, 1] = weight.real
    return pairs.reshape(2 * OC, 2 * IC, *kernel)
