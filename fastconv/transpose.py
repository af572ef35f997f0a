"""Transposed convolutions.

Four names, one operation: a *transposed* convolution (its matrix is the transpose of a convolution's, see
`fastconv.toeplitz`), a *fractionally strided* one (it steps through its input in steps of 1/stride), a *backward
strided* one (a convolution's backward pass), and an *upconvolution*, sometimes misnamed deconvolution: it gives the
shape back that a convolution took, not the values.

It is computed as what it is, the gradient of a convolution's input: no zeros are inserted and none is multiplied.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fastconv import arrays, call
from fastconv.cpu import store
from fastconv.cpu.threads import get_num_threads
from fastconv.gradient_call import Images, InputCall, check_axes, logical_shape
from fastconv.spec import ConvSpec, IntOrTuple, PaddingLike, per_axis, resolve_padding

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


__all__ = ["PreparedConvTranspose", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "prepare_transpose"]


class Options(NamedTuple):
    """The options of a transposed convolution that do not hold data."""

    stride: Any = 1
    padding: Any = 0
    output_padding: Any = 0
    output_size: Any = None
    groups: Any = 1
    dilation: Any = 1
    activation: Any = None
    layout: Any = "NCHW"
    flip: Any = False
    algorithm: Any = "auto"
    accuracy: Any = "default"
    workspace_limit: Any = None


class Geometry(NamedTuple):
    """A transposed convolution as the adjoint of a forward pass.

    forward : options of that pass.
    size : spatial sizes of the result, the forward pass's input.
    grow : zeros to add at the end of each axis of x, for an output padding of a stride or more.
    """

    forward: call.Options
    size: tuple[int, ...]
    grow: tuple[int, ...]


_calls: dict[Any, InputCall] = {}


def geometry(x_size: tuple[int, ...], kernel: tuple[int, ...], options: Options) -> Geometry:
    """Sizes, for an x with these spatial sizes.

    size = (x_size - 1)*stride - padding_before - padding_after + (kernel - 1)*dilation + 1 + output_padding
    """
    ndim = len(kernel)
    stride = per_axis("stride", options.stride, ndim)
    dilation = per_axis("dilation", options.dilation, ndim)
    extent = tuple((k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True))
    if options.padding == "same":
        # The forward pass that makes ceil(size / stride) of size: TensorFlow's "SAME".
        size = tuple(n * s for n, s in zip(x_size, stride, strict=True))
        pads = resolve_padding("same", size, extent, stride)
    else:
        pads = resolve_padding(options.padding, x_size, extent, stride)
    least = tuple((n - 1) * s - sum(pair) + e for n, s, pair, e in zip(x_size, stride, pads, extent, strict=True))
    if options.output_size is not None:
        extra = _from_output_size(options, least, stride)
    elif options.padding == "same":
        if options.output_padding != 0:
            raise ValueError(
                f"output_padding must be 0 with padding='same', whose result is x times the stride, "
                f"got {options.output_padding!r}"
            )
        extra = tuple(n * s - low for n, s, low in zip(x_size, stride, least, strict=True))
    else:
        extra = per_axis("output_padding", options.output_padding, ndim, 0)
        for axis in range(ndim):
            if extra[axis] >= max(stride[axis], dilation[axis]):
                raise ValueError(
                    f"output_padding must be smaller than stride or dilation: along spatial axis {axis} it is "
                    f"{extra[axis]}, the stride {stride[axis]}, the dilation {dilation[axis]}"
                )
    size = tuple(low + more for low, more in zip(least, extra, strict=True))
    if min(size) < 1:
        raise ValueError(
            f"padding must leave at least one output along each axis: x of spatial size {x_size}, kernel {kernel}, "
            f"stride {stride} and padding {pads} give an output of size {size}"
        )
    grow = tuple(more // s for more, s in zip(extra, stride, strict=True))
    forward = call.Options(
        stride, pads, dilation, options.groups, "zeros", None, options.layout, options.flip, options.algorithm,
        options.accuracy, options.workspace_limit,
    )  # fmt: skip
    return Geometry(forward, size, grow)


def _from_output_size(options: Options, least: tuple[int, ...], stride: tuple[int, ...]) -> tuple[int, ...]:
    if options.output_padding != 0:
        raise ValueError(
            f"output_padding must be 0 where output_size is given, got output_padding={options.output_padding!r} "
            f"and output_size={options.output_size!r}"
        )
    wanted = per_axis("output_size", options.output_size, len(least))
    for axis, (size, low, step) in enumerate(zip(wanted, least, stride, strict=True)):
        if not low <= size < low + step:
            raise ValueError(
                f"output_size must be from {low} to {low + step - 1} along spatial axis {axis} for this x, kernel, "
                f"stride and padding, got {size}"
            )
    return tuple(size - low for size, low in zip(wanted, least, strict=True))


def spec_of(
    x_shape: tuple[int, ...], weight_shape: tuple[int, ...], numbers: arrays.Numbers, options: Options, last: bool
) -> tuple[ConvSpec, Geometry]:
    """The forward pass whose adjoint is wanted; `x_shape` is logical and batched, `last` says how memory lies."""
    if 0 in x_shape[1:]:
        raise ValueError(f"x must have no empty axis except the batch, got shape {x_shape}")
    if 0 in weight_shape:
        raise ValueError(f"weight must have no empty axis, got shape {weight_shape}")
    groups = per_axis("groups", options.groups, 1)[0]
    C = x_shape[1]
    if C % groups:
        raise ValueError(f"groups must divide the input channels: groups={groups}, x has {C} channels")
    if weight_shape[0] != C:
        raise ValueError(f"weight.shape[0] must be {C}, the channels of x, got weight of shape {weight_shape}")
    shape = geometry(x_shape[2:], weight_shape[2:], options)
    result = (x_shape[0], weight_shape[1] * groups, *shape.size)
    spec = call.build_spec(result, weight_shape, numbers, shape.forward, last)
    grown = tuple(n + more for n, more in zip(x_shape[2:], shape.grow, strict=True))
    assert spec.output == grown, (spec, grown)
    return spec, shape


def bind(ndim: int, x: np.ndarray, weight: np.ndarray, options: Options, prepared: bool = False) -> InputCall:
    """The call for arrays like these."""
    last = call.layout_is_channels_last(options.layout, ndim)
    check_axes("x", ndim, x.shape, last)
    if weight.ndim != ndim + 2:
        raise ValueError(
            f"weight must have {ndim + 2} axes (in channels, out channels per group, {ndim} spatial), "
            f"got shape {weight.shape}"
        )
    numbers = arrays.numbers(x.dtype, weight.dtype)
    images = Images(ndim, x, last, numbers)
    spec, shape = spec_of(logical_shape(ndim, x.shape, last), weight.shape, numbers, options, images.channels_last)
    channels = weight.shape[1] * shape.forward.groups
    activation = call.make_epilogue(numbers, options.activation)
    return InputCall(
        spec, images, options, channels, activation, conjugate=True, name="x", prepared=prepared,
        grow=shape.grow,
    )  # fmt: skip


def _transposed(ndim: int, x: Any, weight: Any, bias: Any, options: tuple[Any, ...], out: Any) -> np.ndarray:
    x, weight = arrays.as_array("x", x), arrays.as_array("weight", weight)
    key = None
    if call.is_plain(options[:6]):
        key = (
            ndim, x.shape, x.dtype, x.strides, weight.shape, weight.dtype, options, get_num_threads(), store.edition,
        )  # fmt: skip
        try:
            bound = _calls.get(key)
        except TypeError:  # a list among the options
            bound = None
        # 1 == True: an equal key is not yet a valid argument.
        if bound is not None and bound.options.flip is options[8] and type(bound.options[11]) is type(options[11]):
            return bound(x, weight, None, bias, out)
    bound = bind(ndim, x, weight, Options(*map(call.frozen, options)))
    if key is not None:
        call.remember(_calls, key, bound)
    return bound(x, weight, None, bias, out)


def conv_transpose1d(
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    stride: IntOrTuple = 1,
    padding: PaddingLike = 0,
    output_padding: IntOrTuple = 0,
    output_size: Sequence[int] | None = None,
    groups: int = 1,
    dilation: IntOrTuple = 1,
    activation: str | tuple[Any, ...] | None = None,
    layout: str = "NCHW",
    flip: bool = False,
    algorithm: str = "auto",
    accuracy: str = "default",
    workspace_limit: int | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """One-dimensional transposed convolution; all is as in `conv_transpose2d`, with one spatial axis.

    Parameters
    ----------
    x : array_like
        Signals, (N, C, L), or one signal, (C, L).
    weight : array_like
        Filters, (C, OC // groups, K).
    bias : array_like, optional
        (OC,).
    stride, padding, output_padding, output_size, groups, dilation
        See `conv_transpose2d`.
    activation, layout, flip, algorithm, accuracy, workspace_limit
        As for `conv1d`.
    out : numpy.ndarray, optional
        Where to put the result.

    Returns
    -------
    numpy.ndarray
        (N, OC, L').

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> x, weight = np.float32([[[1, 10]]]), np.float32([[[1, 2, 3]]])
    >>> fastconv.conv_transpose1d(x, weight, stride=2)
    array([[[ 1.,  2., 13., 20., 30.]]], dtype=float32)
    >>> fastconv.conv_transpose1d(x, weight, stride=2, output_size=[6])[0, 0, -1]
    np.float32(0.0)
    """
    options = (
        stride, padding, output_padding, output_size, groups, dilation, activation, layout, flip, algorithm, accuracy,
        workspace_limit,
    )  # fmt: skip
    return _transposed(1, x, weight, bias, options, out)


def conv_transpose2d(
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    stride: IntOrTuple = 1,
    padding: PaddingLike = 0,
    output_padding: IntOrTuple = 0,
    output_size: Sequence[int] | None = None,
    groups: int = 1,
    dilation: IntOrTuple = 1,
    activation: str | tuple[Any, ...] | None = None,
    layout: str = "NCHW",
    flip: bool = False,
    algorithm: str = "auto",
    accuracy: str = "default",
    workspace_limit: int | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Two-dimensional transposed convolution: the adjoint of `conv2d` with this weight, as a layer.

    Every input cell spreads its value over the output through the kernel, `stride` cells from its neighbour's::

        out[n, o, y, x] = bias[o] + sum over c, u, v, i, j with  i*stride + u*dilation - padding = y
                                                            and  j*stride + v*dilation - padding = x
                          of weight[c, o, u, v] * x[n, c, i, j]

    Parameters
    ----------
    x : array_like
        Images, (N, C, H, W), or one image, (C, H, W); memory order and dtypes as for `conv2d`.
    weight : array_like
        Filters, (C, OC // groups, KH, KW): the layout of PyTorch, and that of the convolution it is the adjoint of.
    bias : array_like, optional
        (OC,).
    stride : int or (int, int)
        Distance of neighbouring inputs in the output.
    padding : int, tuple or {"same", "valid"}
        Cells cut off the output's edges: those that the convolution's padding would add. "same" makes the output
        ``size * stride``.
    output_padding : int or (int, int)
        Cells added at the output's end; smaller than stride or dilation. Several sizes lead to the same output of a
        strided convolution: this says which of them is meant.
    output_size : sequence of int, optional
        Spatial size of the output, in place of `output_padding`.
    groups, dilation, activation, layout, flip, algorithm, accuracy, workspace_limit
        As for `conv2d`.
    out : numpy.ndarray, optional
        Where to put the result.

    Returns
    -------
    numpy.ndarray
        (N, OC, OH, OW) with ``OH = (H - 1)*stride - 2*padding + (KH - 1)*dilation + 1 + output_padding``.

    Examples
    --------
    Nine ones, spread by a kernel of ones at stride 2: a cell is hit as often as kernels overlap on it. This
    unevenness is the checkerboard pattern of networks that upsample so (Odena et al. 2016); a kernel whose size is a
    multiple of the stride has none.

    >>> import numpy as np
    >>> import fastconv
    >>> ones = np.ones((1, 1, 3, 3), np.float32)
    >>> fastconv.conv_transpose2d(ones, ones, stride=2)[0, 0].astype(int)
    array([[1, 1, 2, 1, 2, 1, 1],
           [1, 1, 2, 1, 2, 1, 1],
           [2, 2, 4, 2, 4, 2, 2],
           [1, 1, 2, 1, 2, 1, 1],
           [2, 2, 4, 2, 4, 2, 2],
           [1, 1, 2, 1, 2, 1, 1],
           [1, 1, 2, 1, 2, 1, 1]])
    >>> fastconv.conv_transpose2d(ones, ones[:, :, :2, :2], stride=2)[0, 0].astype(int).max()
    1
    """
    options = (
        stride, padding, output_padding, output_size, groups, dilation, activation, layout, flip, algorithm, accuracy,
        workspace_limit,
    )  # fmt: skip
    return _transposed(2, x, weight, bias, options, out)


def conv_transpose3d(
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    stride: IntOrTuple = 1,
    padding: PaddingLike = 0,
    output_padding: IntOrTuple = 0,
    output_size: Sequence[int] | None = None,
    groups: int = 1,
    dilation: IntOrTuple = 1,
    activation: str | tuple[Any, ...] | None = None,
    layout: str = "NCHW",
    flip: bool = False,
    algorithm: str = "auto",
    accuracy: str = "default",
    workspace_limit: int | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Three-dimensional transposed convolution; all is as in `conv_transpose2d`, with three spatial axes.

    Parameters
    ----------
    x : array_like
        Volumes, (N, C, D, H, W), or one volume, (C, D, H, W).
    weight : array_like
        Filters, (C, OC // groups, KD, KH, KW).
    bias : array_like, optional
        (OC,).
    stride, padding, output_padding, output_size, groups, dilation
        See `conv_transpose2d`.
    activation, layout, flip, algorithm, accuracy, workspace_limit
        As for `conv3d`.
    out : numpy.ndarray, optional
        Where to put the result.

    Returns
    -------
    numpy.ndarray
        (N, OC, D', H', W').

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> ones = np.ones((1, 4, 2, 2, 2), np.float32)
    >>> fastconv.conv_transpose3d(ones, ones.swapaxes(0, 1), stride=2).shape
    (1, 1, 4, 4, 4)
    """
    options = (
        stride, padding, output_padding, output_size, groups, dilation, activation, layout, flip, algorithm, accuracy,
        workspace_limit,
    )  # fmt: skip
    return _transposed(3, x, weight, bias, options, out)


#: Input shapes that a prepared layer remembers.
SHAPES_LIMIT = 32


class PreparedConvTranspose:
    """A transposed convolution with its weights, made by `prepare_transpose` and called as ``layer(x)``.

    For each shape of x the algorithm is chosen at the first call and the weights are brought into the form it wants,
    once. The layer owns copies of weight and bias.
    """

    def __init__(self, weight: Any, bias: Any, options: Options) -> None:
        self.weight = arrays.as_array("weight", weight).copy()
        self.ndim = self.weight.ndim - 2
        if self.ndim not in (1, 2, 3):
            raise ValueError(
                f"weight must have 3 to 5 axes (C, OC // groups, 1 to 3 spatial), got shape {self.weight.shape}"
            )
        self.options = options
        numbers = arrays.numbers(self.weight.dtype, self.weight.dtype)
        call.layout_is_channels_last(options.layout, self.ndim)
        call.make_epilogue(numbers, options.activation)
        groups = per_axis("groups", options.groups, 1)[0]
        self.bias = None
        if bias is not None:
            self.bias = call.check_bias(bias, self.weight.shape[1] * groups, numbers.result).copy()
        self._bound: dict[Any, tuple[InputCall, Any]] = {}

    def __call__(self, x: ArrayLike, *, out: np.ndarray | None = None) -> np.ndarray:
        """The transposed convolution of x with this layer's weights.

        Parameters
        ----------
        x : array_like
            As for `conv_transpose2d`.
        out : numpy.ndarray, optional
            Where to put the result.

        Returns
        -------
        numpy.ndarray
            The result, or `out`.
        """
        x = arrays.as_array("x", x)
        key = (x.shape, x.dtype, x.strides, get_num_threads(), store.edition)
        found = self._bound.get(key)
        if found is None:
            bound = bind(self.ndim, x, self.weight, self.options, prepared=True)
            if len(self._bound) >= SHAPES_LIMIT:
                self._bound.clear()
            found = self._bound[key] = bound, bound.pack(self.weight)
        return found[0](x, self.weight, found[1], self.bias, out)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if not name.startswith("_")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._bound = {}

    def __repr__(self) -> str:
        changed = [
            f"{name}={value!r}"
            for (name, value), default in zip(self.options._asdict().items(), Options(), strict=True)
            if value != default
        ]
        size = "x".join(map(str, self.weight.shape))
        parts = [f"{size} {self.weight.dtype}", *(["bias"] if self.bias is not None else []), *changed]
        return f"PreparedConvTranspose({', '.join(parts)})"


def prepare_transpose(
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    stride: IntOrTuple = 1,
    padding: PaddingLike = 0,
    output_padding: IntOrTuple = 0,
    output_size: Sequence[int] | None = None,
    groups: int = 1,
    dilation: IntOrTuple = 1,
    activation: str | tuple[Any, ...] | None = None,
    layout: str = "NCHW",
    flip: bool = False,
    algorithm: str = "auto",
    accuracy: str = "default",
    workspace_limit: int | None = None,
) -> PreparedConvTranspose:
    """Make a transposed convolution's weights ready once, for many inputs.

    Parameters
    ----------
    weight : array_like
        Filters, (C, OC // groups, *kernel) with one to three kernel axes; they are copied.
    bias : array_like, optional
        One value per output channel.
    stride, padding, output_padding, output_size, groups, dilation, activation, layout, flip
        What to compute; see `conv_transpose2d`.
    algorithm, accuracy, workspace_limit
        How to compute it; see `conv2d`.

    Returns
    -------
    PreparedConvTranspose
        Call it as ``layer(x)``.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> layer = fastconv.prepare_transpose(np.ones((8, 3, 4, 4), np.float32), stride=2, padding=1)
    >>> layer
    PreparedConvTranspose(8x3x4x4 float32, stride=2, padding=1)
    >>> layer(np.ones((1, 8, 16, 16), np.float32)).shape
    (1, 3, 32, 32)
    """
    options = (
        stride, padding, output_padding, output_size, groups, dilation, activation, layout, flip, algorithm, accuracy,
        workspace_limit,
    )  # fmt: skip
    return PreparedConvTranspose(weight, bias, Options(*map(call.frozen, options)))
