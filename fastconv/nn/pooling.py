"""Pools and what undoes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastconv import adaptive, pool, pool_average, pool_norm, resample, unpool, unpool_average, unpool_blocks
from fastconv.nn.module import Module, remembered
from fastconv.receptive import Window
from fastconv.spec import IntOrTuple, PaddingLike, per_axis

__all__ = [
    "AdaptiveAvgPool1d", "AdaptiveAvgPool2d", "AdaptiveAvgPool3d", "AdaptiveMaxPool1d", "AdaptiveMaxPool2d",
    "AdaptiveMaxPool3d", "AvgPool1d", "AvgPool2d", "AvgPool3d", "AvgUnpool1d", "AvgUnpool2d", "AvgUnpool3d",
    "BedOfNailsUnpool1d", "BedOfNailsUnpool2d", "BedOfNailsUnpool3d", "LPPool1d", "LPPool2d", "LPPool3d", "MaxPool1d",
    "MaxPool2d", "MaxPool3d", "MaxUnpool1d", "MaxUnpool2d", "MaxUnpool3d", "NearestUnpool1d", "NearestUnpool2d",
    "NearestUnpool3d", "Upsample",
]  # fmt: skip


class _Pool(Module):
    """A layer without parameters: `_forward` and `_backward` are functions of an array and the options."""

    ndim = 2
    name = ""
    library: Any = None

    def __init__(self, **options: Any) -> None:
        self.options = options
        self.forget()

    def forget(self) -> None:
        self._x: Any = None

    def _function(self, backward: bool = False) -> Any:
        return getattr(self.library, f"{self.name}{self.ndim}d{'_backward' if backward else ''}")

    def forward(self, x: np.ndarray) -> np.ndarray:
        if self.training:
            self._x = x
        return self._function()(x, **self.options)

    def backward(self, grad: np.ndarray) -> np.ndarray:
        return self._function(backward=True)(grad, remembered(self._x, self), **self.options)

    def windows(self, shape: tuple[int, ...]) -> list[Window] | None:
        options = self.options
        kernel = per_axis("kernel_size", options["kernel_size"], self.ndim)
        stride = options.get("stride")
        strides = kernel if stride is None else per_axis("stride", stride, self.ndim)
        padding = per_axis("padding", options.get("padding", 0), self.ndim, 0)
        dilation = per_axis("dilation", options.get("dilation", 1), self.ndim)
        return [Window(*axis) for axis in zip(kernel, strides, padding, dilation, strict=True)]

    def extra(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.options.items() if value not in (None, False))


class _MaxPool(_Pool):
    name, library = "max_pool", pool

    def __init__(
        self,
        kernel_size: IntOrTuple,
        stride: IntOrTuple | None = None,
        padding: PaddingLike = 0,
        dilation: IntOrTuple = 1,
        ceil_mode: bool = False,
    ) -> None:
        self.remember = False  # for a MaxUnpool that asks for the places of the maxima
        super().__init__(
            kernel_size=kernel_size, stride=stride, padding=padding, dilation=dilation, ceil_mode=ceil_mode
        )

    def forget(self) -> None:
        super().forget()
        self._places: Any = None

    def forward(self, x: np.ndarray) -> np.ndarray:
        if not (self.training or self.remember):
            return self._function()(x, **self.options)
        y, indices = self._function()(x, return_indices=True, **self.options)
        self._x, self._places = x, (indices, x.shape[-self.ndim :])
        return y

    def backward(self, grad: np.ndarray) -> np.ndarray:
        indices, _ = remembered(self._places, self)
        return self._function(backward=True)(grad, self._x, indices=indices, **self.options)

    @property
    def places(self) -> tuple[np.ndarray, tuple[int, ...]]:
        """Places of the last maxima, and the size of the map they were taken from."""
        return remembered(self._places, self)


class MaxPool1d(_MaxPool):
    """One-dimensional maximum pool; all is as in `MaxPool2d`."""

    ndim = 1


class MaxPool2d(_MaxPool):
    """Two-dimensional maximum pool.

    Parameters
    ----------
    kernel_size, stride, padding, dilation, ceil_mode
        As for `fastconv.max_pool2d`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> nn.MaxPool2d(2)(np.float32([[[[1, 1, 2, 4], [5, 6, 7, 8], [3, 2, 1, 0], [1, 2, 3, 4]]]]))
    array([[[[6., 8.],
             [3., 4.]]]], dtype=float32)
    """

    ndim = 2


class MaxPool3d(_MaxPool):
    """Three-dimensional maximum pool; all is as in `MaxPool2d`."""

    ndim = 3


class _AvgPool(_Pool):
    name, library = "avg_pool", pool_average

    def __init__(
        self,
        kernel_size: IntOrTuple,
        stride: IntOrTuple | None = None,
        padding: PaddingLike = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        super().__init__(kernel_size=kernel_size, stride=stride, padding=padding, ceil_mode=ceil_mode,
                         count_include_pad=count_include_pad)  # fmt: skip

    def backward(self, grad: np.ndarray) -> np.ndarray:
        return self._function(backward=True)(grad, remembered(self._x, self).shape, **self.options)


class AvgPool1d(_AvgPool):
    """One-dimensional average pool; all is as in `AvgPool2d`."""

    ndim = 1


class AvgPool2d(_AvgPool):
    """Two-dimensional average pool.

    Parameters
    ----------
    kernel_size, stride, padding, ceil_mode, count_include_pad
        As for `fastconv.avg_pool2d`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> nn.AvgPool2d(2)(np.float32([[[[1, 2], [3, 6]]]]))
    array([[[[3.]]]], dtype=float32)
    """

    ndim = 2


class AvgPool3d(_AvgPool):
    """Three-dimensional average pool; all is as in `AvgPool2d`."""

    ndim = 3


class _LPPool(_Pool):
    name, library = "lp_pool", pool_norm

    def __init__(
        self, norm_type: float, kernel_size: IntOrTuple, stride: IntOrTuple | None = None, ceil_mode: bool = False
    ) -> None:
        super().__init__(norm_type=norm_type, kernel_size=kernel_size, stride=stride, ceil_mode=ceil_mode)


class LPPool1d(_LPPool):
    """One-dimensional L_p pool; all is as in `LPPool2d`."""

    ndim = 1


class LPPool2d(_LPPool):
    """Two-dimensional L_p pool: the p-norm of every window.

    Parameters
    ----------
    norm_type, kernel_size, stride, ceil_mode
        As for `fastconv.lp_pool2d`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> nn.LPPool2d(2, (1, 2))(np.float32([[[[3, 4]]]]))
    array([[[[5.]]]], dtype=float32)
    """

    ndim = 2


class LPPool3d(_LPPool):
    """Three-dimensional L_p pool; all is as in `LPPool2d`."""

    ndim = 3


class _Adaptive(_Pool):
    library = adaptive

    def __init__(self, output_size: Any) -> None:
        super().__init__(output_size=output_size)

    def windows(self, shape: tuple[int, ...]) -> list[Window] | None:
        return None


class _AdaptiveAvg(_Adaptive):
    name = "adaptive_avg_pool"

    def backward(self, grad: np.ndarray) -> np.ndarray:
        return self._function(backward=True)(grad, remembered(self._x, self).shape)


class _AdaptiveMax(_Adaptive):
    name = "adaptive_max_pool"

    def backward(self, grad: np.ndarray) -> np.ndarray:
        return self._function(backward=True)(grad, remembered(self._x, self))


class AdaptiveAvgPool1d(_AdaptiveAvg):
    """Average pool to a fixed number of outputs, along one axis."""

    ndim = 1


class AdaptiveAvgPool2d(_AdaptiveAvg):
    """Average pool to a fixed size: `fastconv.adaptive_avg_pool2d`; size 1 is global pooling."""

    ndim = 2


class AdaptiveAvgPool3d(_AdaptiveAvg):
    """Average pool to a fixed size, along three axes."""

    ndim = 3


class AdaptiveMaxPool1d(_AdaptiveMax):
    """Maximum pool to a fixed number of outputs, along one axis."""

    ndim = 1


class AdaptiveMaxPool2d(_AdaptiveMax):
    """Maximum pool to a fixed size: `fastconv.adaptive_max_pool2d`."""

    ndim = 2


class AdaptiveMaxPool3d(_AdaptiveMax):
    """Maximum pool to a fixed size, along three axes."""

    ndim = 3


class _MaxUnpool(Module):
    ndim = 2

    def __init__(self, partner: _MaxPool) -> None:
        if not isinstance(partner, _MaxPool) or partner.ndim != self.ndim:
            raise TypeError(f"partner must be the MaxPool{self.ndim}d layer that this layer undoes, got {partner!r}")
        partner.remember = True
        self._partner = partner

    def forward(self, x: np.ndarray) -> np.ndarray:
        indices, size = self._partner.places
        options = {name: self._partner.options[name] for name in ("kernel_size", "stride", "padding")}
        return getattr(unpool, f"max_unpool{self.ndim}d")(x, indices, output_size=size, **options)

    def backward(self, grad: np.ndarray) -> np.ndarray:
        return getattr(unpool, f"max_unpool{self.ndim}d_backward")(grad, self._partner.places[0])

    def windows(self, shape: tuple[int, ...]) -> list[Window] | None:
        windows = self._partner.windows(shape)
        return windows and [Window(w.stride, w.stride, transposed=True) for w in windows]

    def extra(self) -> str:
        return f"of {self._partner!r}"


class MaxUnpool1d(_MaxUnpool):
    """One-dimensional max unpooling; all is as in `MaxUnpool2d`."""

    ndim = 1


class MaxUnpool2d(_MaxUnpool):
    """Puts every value back to where its partner, a `MaxPool2d` of the same network, found its last maximum.

    Parameters
    ----------
    partner : MaxPool2d

    References
    ----------
    M. Zeiler, R. Fergus, 2013; V. Badrinarayanan, A. Kendall, R. Cipolla: SegNet, 2015.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> pool = nn.MaxPool2d(2)
    >>> nn.Sequential(pool, nn.MaxUnpool2d(pool))(np.float32([[[[1, 2], [4, 3]]]]))
    array([[[[0., 0.],
             [4., 0.]]]], dtype=float32)
    """

    ndim = 2


class MaxUnpool3d(_MaxUnpool):
    """Three-dimensional max unpooling; all is as in `MaxUnpool2d`."""

    ndim = 3


class _BlockUnpool(_Pool):
    library = unpool_blocks

    def __init__(self, kernel_size: IntOrTuple) -> None:
        super().__init__(kernel_size=kernel_size)

    def backward(self, grad: np.ndarray) -> np.ndarray:
        return self._function(backward=True)(grad, **self.options)

    def windows(self, shape: tuple[int, ...]) -> list[Window] | None:
        kernel = per_axis("kernel_size", self.options["kernel_size"], self.ndim)
        return [Window(k, k, transposed=True) for k in kernel]


class _NearestUnpool(_BlockUnpool):
    name = "nearest_unpool"


class _BedOfNails(_BlockUnpool):
    name = "bed_of_nails_unpool"


class _AvgUnpool(_BlockUnpool):
    name, library = "avg_unpool", unpool_average


class NearestUnpool1d(_NearestUnpool):
    """Every value repeated along one axis."""

    ndim = 1


class NearestUnpool2d(_NearestUnpool):
    """Every value fills a block: `fastconv.nearest_unpool2d`."""

    ndim = 2


class NearestUnpool3d(_NearestUnpool):
    """Every value fills a block, along three axes."""

    ndim = 3


class BedOfNailsUnpool1d(_BedOfNails):
    """Every value followed by zeros along one axis."""

    ndim = 1


class BedOfNailsUnpool2d(_BedOfNails):
    """Every value in the first cell of a block of zeros: `fastconv.bed_of_nails_unpool2d`."""

    ndim = 2


class BedOfNailsUnpool3d(_BedOfNails):
    """Every value in the first cell of a block of zeros, along three axes."""

    ndim = 3


class AvgUnpool1d(_AvgUnpool):
    """Every value spread evenly along one axis."""

    ndim = 1


class AvgUnpool2d(_AvgUnpool):
    """Every value spread evenly over a block: `fastconv.avg_unpool2d`."""

    ndim = 2


class AvgUnpool3d(_AvgUnpool):
    """Every value spread evenly over a block, along three axes."""

    ndim = 3


class Upsample(Module):
    """Interpolation to another size: `fastconv.interpolate`.

    Parameters
    ----------
    size, scale_factor, mode, align_corners
        As for `fastconv.interpolate`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> nn.Upsample(scale_factor=2)(np.float32([[[1, 2]]]))
    array([[[1., 1., 2., 2.]]], dtype=float32)
    """

    def __init__(
        self,
        size: IntOrTuple | None = None,
        scale_factor: float | Sequence[float] | None = None,
        mode: str = "nearest",
        align_corners: bool | None = None,
    ) -> None:
        self.options = {"size": size, "scale_factor": scale_factor, "mode": mode, "align_corners": align_corners}
        self.forget()

    def forget(self) -> None:
        self._shape: Any = None

    def forward(self, x: np.ndarray) -> np.ndarray:
        if self.training:
            self._shape = np.shape(x)
        return resample.interpolate(x, **self.options)  # type: ignore[arg-type]

    def backward(self, grad: np.ndarray) -> np.ndarray:
        return resample.interpolate_backward(grad, remembered(self._shape, self), **self.options)  # type: ignore[arg-type]

    def windows(self, shape: tuple[int, ...]) -> list[Window] | None:
        return None

    def extra(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.options.items() if value is not None)
