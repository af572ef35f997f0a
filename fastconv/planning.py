"""Ask before computing: which algorithm would run, why, and which is measured to be fastest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fastconv import arrays, call, transpose
from fastconv.call import Options
from fastconv.gradient_call import logical_shape
from fastconv.plan import candidates
from fastconv.spec import ConvSpec, shape_tuple

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from fastconv.plan.dispatch import Plan
    from fastconv.plan.explain import Explanation

__all__ = ["autotune", "explain", "plan"]


#: What may be planned; a transposed convolution is the input gradient of the convolution it is the adjoint of.
DIRECTIONS = (*candidates.DIRECTIONS, "transpose")


def spec_of(
    x_shape: Sequence[int],
    weight_shape: Sequence[int],
    dtype: DTypeLike = "float32",
    direction: str = "forward",
    **options: Any,
) -> tuple[ConvSpec, Any]:
    """The spec that a convolution of such arrays is computed by, and its options, validated."""
    if direction not in DIRECTIONS:
        raise ValueError(f"direction must be one of {', '.join(DIRECTIONS)}, got {direction!r}")
    kind: Any = transpose.Options if direction == "transpose" else Options
    unknown = [name for name in options if name not in kind._fields]
    if unknown:
        raise TypeError(f"unknown option {unknown[0]!r}; the options are {', '.join(kind._fields)}")
    opts = kind(**{name: call.frozen(value) for name, value in options.items()})
    x_shape, weight_shape = shape_tuple("x_shape", x_shape), shape_tuple("weight_shape", weight_shape)
    ndim = len(weight_shape) - 2
    if ndim not in (1, 2, 3):
        raise ValueError(f"weight_shape must have 3 to 5 axes (OC, C // groups, 1 to 3 spatial), got {weight_shape}")
    last = call.layout_is_channels_last(opts.layout, ndim)
    call.check_axes(ndim, x_shape, weight_shape, opts.layout, last)
    logical = logical_shape(ndim, x_shape, last)
    parsed = arrays.parse_dtype(dtype)
    numbers = arrays.numbers(parsed, parsed)
    call.make_epilogue(numbers, opts.activation)
    if direction == "transpose":
        return transpose.spec_of(logical, weight_shape, numbers, opts, last)[0], opts
    return call.build_spec(logical, weight_shape, numbers, opts, last), opts


def plan(
    x_shape: Sequence[int],
    weight_shape: Sequence[int],
    *,
    dtype: DTypeLike = "float32",
    prepared: bool = True,
    direction: str = "forward",
    **options: Any,
) -> Plan:
    """How a convolution of arrays of these shapes is computed, or one of its gradients.

    Parameters
    ----------
    x_shape, weight_shape : sequence of int
        Shapes as the convolution takes them; the number of axes of the weight says which convolution it is.
    dtype : dtype
        Of both arrays.
    prepared : bool
        True for layers made by `prepare`, which bring the weights into the form that the algorithm wants only once;
        False for `conv1d`, `conv2d` and `conv3d`, which do so in every call: its time then counts in the choice.
    direction : {"forward", "input", "weight", "transpose"}
        What to compute: the convolution, the gradient of its input or of its weight, or the transposed convolution
        that takes arrays of these shapes.
    **options
        Options of the convolution: stride, padding, dilation, groups, padding_mode, activation, layout, flip,
        algorithm, accuracy, workspace_limit; or those of `conv_transpose2d`.

    Returns
    -------
    Plan
        With ``.algorithm``, ``.workspace`` (bytes), ``.predicted`` (seconds) and ``.explain()``.

    Examples
    --------
    >>> import fastconv
    >>> fastconv.plan((1, 3, 8, 8), (4, 3, 3, 3), algorithm="direct").algorithm
    'direct'
    >>> fastconv.plan((1, 3, 8, 8), (4, 3, 3, 3), direction="weight", algorithm="reference").direction
    'weight'
    """
    spec, opts = spec_of(x_shape, weight_shape, dtype, direction, **options)
    return call.build_plan(spec, opts, prepared, "input" if direction == "transpose" else direction)


def explain(
    x_shape: Sequence[int],
    weight_shape: Sequence[int],
    *,
    dtype: DTypeLike = "float32",
    prepared: bool = True,
    measure: bool = False,
    direction: str = "forward",
    **options: Any,
) -> Explanation:
    """Why an algorithm is chosen for arrays of these shapes: a table of all candidates.

    Parameters are those of `plan`, and `measure`: time every algorithm now, instead of predicting.

    Returns
    -------
    Explanation
        Prints as a table; ``.rows`` holds the same as objects.
    """
    return plan(x_shape, weight_shape, dtype=dtype, prepared=prepared, direction=direction, **options).explain(measure)


def autotune(
    x_shape: Sequence[int],
    weight_shape: Sequence[int],
    *,
    dtype: DTypeLike = "float32",
    direction: str = "forward",
    **options: Any,
) -> Plan:
    """Measure the algorithms on arrays of these shapes, and remember the times for this and later processes.

    Parameters are those of `plan`. Later convolutions of these shapes, in the same memory order and with as many
    threads, use the fastest.

    Returns
    -------
    Plan
        The fastest, with its measured time; ``.explain()`` shows the others'.
    """
    from fastconv.plan.autotune import autotune_spec

    spec, opts = spec_of(x_shape, weight_shape, dtype, direction, **options)
    return autotune_spec(
        spec, algorithm=opts.algorithm, accuracy=opts.accuracy, workspace_limit=opts.workspace_limit,
        direction="input" if direction == "transpose" else direction,
    )  # fmt: skip
