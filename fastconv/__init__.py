"""Fast N-d convolution on the CPU in pure Python, compiled by Numba, with a dispatcher that explains itself."""

import importlib
from typing import Any

from fastconv import grad
from fastconv.activation import (
    activate,
    activate_backward,
    cross_entropy,
    cross_entropy_backward,
    log_softmax,
    log_softmax_backward,
    relu,
    sigmoid,
    softmax,
    softmax_backward,
    tanh,
)
from fastconv.adaptive import (
    adaptive_avg_pool1d,
    adaptive_avg_pool1d_backward,
    adaptive_avg_pool2d,
    adaptive_avg_pool2d_backward,
    adaptive_avg_pool3d,
    adaptive_avg_pool3d_backward,
    adaptive_max_pool1d,
    adaptive_max_pool1d_backward,
    adaptive_max_pool2d,
    adaptive_max_pool2d_backward,
    adaptive_max_pool3d,
    adaptive_max_pool3d_backward,
)
from fastconv.conv import conv1d, conv2d, conv3d
from fastconv.cpu.threads import get_num_threads, set_num_threads
from fastconv.depthwise_separable import (
    depthwise_separable_conv1d,
    depthwise_separable_conv1d_backward,
    depthwise_separable_conv2d,
    depthwise_separable_conv2d_backward,
    depthwise_separable_conv3d,
    depthwise_separable_conv3d_backward,
)
from fastconv.dropout import dropout, dropout_backward
from fastconv.fold import fold, unfold
from fastconv.linear import conv_to_linear, linear, linear_backward, linear_to_conv
from fastconv.local import locally_connected, locally_connected_backward, locally_connected_shape
from fastconv.norm import (
    batch_norm,
    batch_norm_backward,
    group_norm,
    group_norm_backward,
    instance_norm,
    instance_norm_backward,
)
from fastconv.norm_rows import layer_norm, layer_norm_backward
from fastconv.pool import (
    max_pool1d,
    max_pool1d_backward,
    max_pool2d,
    max_pool2d_backward,
    max_pool3d,
    max_pool3d_backward,
)
from fastconv.pool_average import (
    avg_pool1d,
    avg_pool1d_backward,
    avg_pool2d,
    avg_pool2d_backward,
    avg_pool3d,
    avg_pool3d_backward,
)
from fastconv.pool_channels import (
    lp_pool_channels,
    lp_pool_channels_backward,
)
from fastconv.pool_fractional import (
    fractional_max_pool1d,
    fractional_max_pool1d_backward,
    fractional_max_pool2d,
    fractional_max_pool2d_backward,
    fractional_max_pool3d,
    fractional_max_pool3d_backward,
)
from fastconv.pool_global import (
    global_avg_pool,
    global_avg_pool_backward,
    global_max_pool,
    global_max_pool_backward,
)
from fastconv.pool_mixed import (
    mixed_pool1d,
    mixed_pool1d_backward,
    mixed_pool2d,
    mixed_pool2d_backward,
    mixed_pool3d,
    mixed_pool3d_backward,
)
from fastconv.pool_norm import (
    lp_pool1d,
    lp_pool1d_backward,
    lp_pool2d,
    lp_pool2d_backward,
    lp_pool3d,
    lp_pool3d_backward,
)
from fastconv.pool_random import (
    stochastic_pool1d,
    stochastic_pool1d_backward,
    stochastic_pool2d,
    stochastic_pool2d_backward,
    stochastic_pool3d,
    stochastic_pool3d_backward,
)
from fastconv.prepared import PreparedConv, prepare
from fastconv.pyramid import (
    spatial_pyramid_pool1d,
    spatial_pyramid_pool1d_backward,
    spatial_pyramid_pool2d,
    spatial_pyramid_pool2d_backward,
    spatial_pyramid_pool3d,
    spatial_pyramid_pool3d_backward,
)
from fastconv.receptive import Field, Window, conv_parameters, output_size, receptive_field
from fastconv.resample import (
    interpolate,
    interpolate_backward,
)
from fastconv.response_norm import local_response_norm, local_response_norm_backward
from fastconv.separable import (
    flatten_kernel,
    flattened_conv2d,
    kernel_rank,
    separable_conv2d,
    separate,
)
from fastconv.separable3d import separable_conv3d, separable_conv3d_backward, separate3d
from fastconv.separable_grad import (
    flattened_conv2d_backward,
    separable_conv2d_backward,
)
from fastconv.spectral import (
    spectral_pool1d,
    spectral_pool1d_backward,
    spectral_pool2d,
    spectral_pool2d_backward,
    spectral_pool3d,
    spectral_pool3d_backward,
)
from fastconv.toeplitz import toeplitz
from fastconv.transpose import (
    PreparedConvTranspose,
    conv_transpose1d,
    conv_transpose2d,
    conv_transpose3d,
    prepare_transpose,
)
from fastconv.unpool import (
    max_unpool1d,
    max_unpool1d_backward,
    max_unpool2d,
    max_unpool2d_backward,
    max_unpool3d,
    max_unpool3d_backward,
)
from fastconv.unpool_average import (
    avg_unpool1d,
    avg_unpool1d_backward,
    avg_unpool2d,
    avg_unpool2d_backward,
    avg_unpool3d,
    avg_unpool3d_backward,
)
from fastconv.unpool_blocks import (
    bed_of_nails_unpool1d,
    bed_of_nails_unpool1d_backward,
    bed_of_nails_unpool2d,
    bed_of_nails_unpool2d_backward,
    bed_of_nails_unpool3d,
    bed_of_nails_unpool3d_backward,
    nearest_unpool1d,
    nearest_unpool1d_backward,
    nearest_unpool2d,
    nearest_unpool2d_backward,
    nearest_unpool3d,
    nearest_unpool3d_backward,
)

# Last: the function `plan` takes the place of the subpackage of that name, which is loaded by now.
from fastconv.planning import autotune, explain, plan  # isort: skip

__all__ = [
    "Field",
    "PreparedConv",
    "PreparedConvTranspose",
    "Window",
    "activate",
    "activate_backward",
    "adaptive_avg_pool1d",
    "adaptive_avg_pool1d_backward",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool2d_backward",
    "adaptive_avg_pool3d",
    "adaptive_avg_pool3d_backward",
    "adaptive_max_pool1d",
    "adaptive_max_pool1d_backward",
    "adaptive_max_pool2d",
    "adaptive_max_pool2d_backward",
    "adaptive_max_pool3d",
    "adaptive_max_pool3d_backward",
    "autotune",
    "avg_pool1d",
    "avg_pool1d_backward",
    "avg_pool2d",
    "avg_pool2d_backward",
    "avg_pool3d",
    "avg_pool3d_backward",
    "avg_unpool1d",
    "avg_unpool1d_backward",
    "avg_unpool2d",
    "avg_unpool2d_backward",
    "avg_unpool3d",
    "avg_unpool3d_backward",
    "batch_norm",
    "batch_norm_backward",
    "bed_of_nails_unpool1d",
    "bed_of_nails_unpool1d_backward",
    "bed_of_nails_unpool2d",
    "bed_of_nails_unpool2d_backward",
    "bed_of_nails_unpool3d",
    "bed_of_nails_unpool3d_backward",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_parameters",
    "conv_to_linear",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "cross_entropy",
    "cross_entropy_backward",
    "depthwise_separable_conv1d",
    "depthwise_separable_conv1d_backward",
    "depthwise_separable_conv2d",
    "depthwise_separable_conv2d_backward",
    "depthwise_separable_conv3d",
    "depthwise_separable_conv3d_backward",
    "dropout",
    "dropout_backward",
    "explain",
    "flatten_kernel",
    "flattened_conv2d",
    "flattened_conv2d_backward",
    "fold",
    "fractional_max_pool1d",
    "fractional_max_pool1d_backward",
    "fractional_max_pool2d",
    "fractional_max_pool2d_backward",
    "fractional_max_pool3d",
    "fractional_max_pool3d_backward",
    "get_num_threads",
    "global_avg_pool",
    "global_avg_pool_backward",
    "global_max_pool",
    "global_max_pool_backward",
    "grad",
    "group_norm",
    "group_norm_backward",
    "instance_norm",
    "instance_norm_backward",
    "interpolate",
    "interpolate_backward",
    "kernel_rank",
    "layer_norm",
    "layer_norm_backward",
    "linear",
    "linear_backward",
    "linear_to_conv",
    "local_response_norm",
    "local_response_norm_backward",
    "locally_connected",
    "locally_connected_backward",
    "locally_connected_shape",
    "log_softmax",
    "log_softmax_backward",
    "lp_pool1d",
    "lp_pool1d_backward",
    "lp_pool2d",
    "lp_pool2d_backward",
    "lp_pool3d",
    "lp_pool3d_backward",
    "lp_pool_channels",
    "lp_pool_channels_backward",
    "max_pool1d",
    "max_pool1d_backward",
    "max_pool2d",
    "max_pool2d_backward",
    "max_pool3d",
    "max_pool3d_backward",
    "max_unpool1d",
    "max_unpool1d_backward",
    "max_unpool2d",
    "max_unpool2d_backward",
    "max_unpool3d",
    "max_unpool3d_backward",
    "mixed_pool1d",
    "mixed_pool1d_backward",
    "mixed_pool2d",
    "mixed_pool2d_backward",
    "mixed_pool3d",
    "mixed_pool3d_backward",
    "nearest_unpool1d",
    "nearest_unpool1d_backward",
    "nearest_unpool2d",
    "nearest_unpool2d_backward",
    "nearest_unpool3d",
    "nearest_unpool3d_backward",
    "output_size",
    "plan",
    "prepare",
    "prepare_transpose",
    "receptive_field",
    "relu",
    "separable_conv2d",
    "separable_conv2d_backward",
    "separable_conv3d",
    "separable_conv3d_backward",
    "separate",
    "separate3d",
    "set_num_threads",
    "show_versions",
    "sigmoid",
    "softmax",
    "softmax_backward",
    "spatial_pyramid_pool1d",
    "spatial_pyramid_pool1d_backward",
    "spatial_pyramid_pool2d",
    "spatial_pyramid_pool2d_backward",
    "spatial_pyramid_pool3d",
    "spatial_pyramid_pool3d_backward",
    "spectral_pool1d",
    "spectral_pool1d_backward",
    "spectral_pool2d",
    "spectral_pool2d_backward",
    "spectral_pool3d",
    "spectral_pool3d_backward",
    "stochastic_pool1d",
    "stochastic_pool1d_backward",
    "stochastic_pool2d",
    "stochastic_pool2d_backward",
    "stochastic_pool3d",
    "stochastic_pool3d_backward",
    "tanh",
    "toeplitz",
    "unfold",
]


def show_versions() -> None:
    """Print what a bug report needs: versions, CPU, instruction set, threads, cache folder."""
    from fastconv.cpu import info

    info.show_versions()


def __getattr__(name: str) -> Any:
    if name == "nn":  # loaded when it is used
        return importlib.import_module("fastconv.nn")
    if name != "__version__":
        raise AttributeError(f"module 'fastconv' has no attribute {name!r}")
    from importlib import metadata  # slow to import, and seldom asked for

    try:
        return metadata.version("fastconv")
    except metadata.PackageNotFoundError:  # a checkout that is not installed
        return "unknown"
