"""Weights made ready once, used many times."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fastconv import arrays, call, planning
from fastconv.arrays import READY
from fastconv.call import Call, Options
from fastconv.cpu import store, threads
from fastconv.spec import ConvSpec, IntOrTuple, PaddingLike, per_axis, resolve_padding

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from fastconv.kernels.epilogue import Epilogue
    from fastconv.plan.dispatch import Plan
    from fastconv.plan.explain import Explanation

__all__ = ["PreparedConv", "prepare"]

#: Input shapes remembered per layer, each with its plan; what the plans share of the packed weights is held once.
SHAPES_LIMIT = 32


class PreparedConv:
    """A convolution with its weights, made by `prepare` and called as ``layer(x)``.

    For each shape, dtype and memory order of x the algorithm is chosen at the first call and the weights are brought
    into the form it wants, once. The layer owns copies of weight and bias: changing the originals has no effect.
    """

    def __init__(self, weight: Any, bias: Any, options: Options) -> None:
        self.weight = arrays.as_array("weight", weight).copy()
        self.ndim = self.weight.ndim - 2
        if self.ndim not in (1, 2, 3):
            raise ValueError(
                f"weight must have 3 to 5 axes (OC, C // groups, 1 to 3 spatial), got shape {self.weight.shape}"
            )
        numbers = arrays.numbers(self.weight.dtype, self.weight.dtype)
        self.options = options
        _check_options(self.weight.shape, numbers, options)
        self.bias = None
        if bias is not None:
            self.bias = call.check_bias(bias, self.weight.shape[0], numbers.result).copy()
        self._forget()

    def __call__(self, x: ArrayLike, *, residual: ArrayLike | None = None, out: np.ndarray | None = None) -> np.ndarray:
        """The convolution of x with this layer's weights.

        Parameters
        ----------
        x : array_like
            As for `conv2d`.
        residual : array_like, optional
            Added before the activation; of the shape and dtype of the result.
        out : numpy.ndarray, optional
            Where to put the result.

        Returns
        -------
        numpy.ndarray
            The result, or `out`.
        """
        if residual is None and out is None and type(x) is np.ndarray:
            latest = self._latest.get(x.shape)
            if latest is not None:
                dtype, flags, strides, count, edition, bound, packed, epilogue = latest
                if (
                    x.dtype is dtype
                    and x.flags.num & READY == flags
                    and (strides is None or x.strides == strides)
                    and threads.count == count
                    and store.edition == edition
                ):
                    return bound.compute(x, packed, epilogue)
        x = arrays.as_array("x", x)
        flags = x.flags.num & READY
        strides = None if flags & arrays.C_CONTIGUOUS else x.strides
        key = (x.shape, x.dtype, flags, strides, threads.count, store.edition)
        bound, packed, epilogue = self._bound.get(key) or self._bind(key, x)
        if epilogue is not None:
            self._latest[x.shape] = (x.dtype, *key[2:], bound, packed, epilogue)
        return bound.call(x, self.weight, packed, self.bias, residual, out)

    def plan(self, x_shape: Sequence[int]) -> Plan:
        """The plan by which inputs of this shape are computed; see `fastconv.plan`."""
        return planning.plan(x_shape, self.weight.shape, dtype=self.weight.dtype, **self.options._asdict())

    def explain(self, x_shape: Sequence[int]) -> Explanation:
        """Why that plan was chosen; see `fastconv.explain`."""
        return self.plan(x_shape).explain()

    def _forget(self) -> None:
        self._bound: dict[Any, tuple[Call, Any, Epilogue | None]] = {}
        # By shape, what the last call with an x of that shape came to: of its key, what must be the same, and the rest.
        self._latest: dict[tuple[int, ...], tuple[Any, ...]] = {}

    def _bind(self, key: Any, x: np.ndarray) -> tuple[Call, Any, Epilogue | None]:
        bound = Call(self.ndim, x, self.weight, self.options, prepared=True)
        packed = bound.pack(self.weight)
        for other, same, _ in list(self._bound.values()):
            # Plans of other shapes often want the very same bytes: hold them once.
            if other.plan.algorithm == bound.plan.algorithm and _same_bytes(same, packed):
                packed = same
                break
        # None sends the call the long way: nothing to compute, or numbers that must be converted first.
        epilogue = bound.epilogue(self.bias, None) if bound.short else None
        if len(self._bound) >= SHAPES_LIMIT:
            self._bound.clear()
            self._latest.clear()
        self._bound[key] = bound, packed, epilogue
        return bound, packed, epilogue

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if not name.startswith("_")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def __repr__(self) -> str:
        changed = [
            f"{name}={value!r}"
            for (name, value), default in zip(self.options._asdict().items(), Options(), strict=True)
            if value != default
        ]
        size = "x".join(map(str, self.weight.shape))
        parts = [f"{size} {self.weight.dtype}", *(["bias"] if self.bias is not None else []), *changed]
        return f"PreparedConv({', '.join(parts)})"


def _same_bytes(one: Any, other: Any) -> bool:
    if not isinstance(one, np.ndarray) or not isinstance(other, np.ndarray) or one.dtype != other.dtype:
        return False
    return one.shape == other.shape and np.array_equal(one.view(np.uint8), other.view(np.uint8))


def _check_options(weight_shape: tuple[int, ...], numbers: arrays.Numbers, options: Options) -> None:
    """Raise for what is wrong with the options whatever x will be, by trying them on a large enough x."""
    ndim = len(weight_shape) - 2
    call.layout_is_channels_last(options.layout, ndim)
    call.make_epilogue(numbers, options.activation)
    stride = per_axis("stride", options.stride, ndim)
    dilation = per_axis("dilation", options.dilation, ndim)
    groups = per_axis("groups", options.groups, 1)[0]
    extent = tuple((k - 1) * d + 1 for k, d in zip(weight_shape[2:], dilation, strict=True))
    padding = resolve_padding(options.padding, (2**40,) * ndim, extent, stride)
    size = tuple(e + max(pair) + 1 for e, pair in zip(extent, padding, strict=True))
    geometry = {
        name: getattr(options, name) for name in ("stride", "padding", "dilation", "groups", "padding_mode", "flip")
    }
    ConvSpec.make((1, weight_shape[1] * groups, *size), weight_shape, dtype=numbers.kernel, **geometry)


def prepare(
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    stride: IntOrTuple = 1,
    padding: PaddingLike = 0,
    dilation: IntOrTuple = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
    activation: str | tuple[Any, ...] | None = None,
    layout: str = "NCHW",
    flip: bool = False,
    algorithm: str = "auto",
    accuracy: str = "default",
    workspace_limit: int | None = None,
) -> PreparedConv:
    """Make a convolution's weights ready once, for many inputs.

    Parameters
    ----------
    weight : array_like
        Filters, (OC, C // groups, *kernel) with one to three kernel axes; they are copied.
    bias : array_like, optional
        One value per output channel.
    stride, padding, dilation, groups, padding_mode, activation, layout, flip
        What to compute; see `conv2d`.
    algorithm, accuracy, workspace_limit
        How to compute it; see `conv2d`.

    Returns
    -------
    PreparedConv
        Call it as ``layer(x)``, ``layer(x, residual=..., out=...)``.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> layer = fastconv.prepare(np.ones((8, 3, 3, 3), np.float32), padding="same", activation="relu")
    >>> layer
    PreparedConv(8x3x3x3 float32, padding='same', activation='relu')
    >>> layer(np.ones((1, 3, 32, 32), np.float32)).shape
    (1, 8, 32, 32)
    """
    options = Options(
        stride, padding, dilation, groups, padding_mode, activation, layout, flip, algorithm, accuracy, workspace_limit
    )
    return PreparedConv(weight, bias, Options(*map(call.frozen, options)))
