"""Fast N-d convolution on the CPU in pure Python, compiled by Numba, with a dispatcher that explains itself."""

from fastconv import grad
from fastconv.conv import conv1d, conv2d, conv3d
from fastconv.cpu.threads import get_num_threads, set_num_threads
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
from fastconv.pool_norm import (
    lp_pool1d,
    lp_pool1d_backward,
    lp_pool2d,
    lp_pool2d_backward,
    lp_pool3d,
    lp_pool3d_backward,
)
from fastconv.prepared import PreparedConv, prepare
from fastconv.transpose import (
    PreparedConvTranspose,
    conv_transpose1d,
    conv_transpose2d,
    conv_transpose3d,
    prepare_transpose,
)

# Last: the function `plan` takes the place of the subpackage of that name, which is loaded by now.
from fastconv.planning import autotune, explain, plan  # isort: skip

__all__ = [
    "PreparedConv",
    "PreparedConvTranspose",
    "autotune",
    "avg_pool1d",
    "avg_pool1d_backward",
    "avg_pool2d",
    "avg_pool2d_backward",
    "avg_pool3d",
    "avg_pool3d_backward",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "explain",
    "get_num_threads",
    "grad",
    "lp_pool1d",
    "lp_pool1d_backward",
    "lp_pool2d",
    "lp_pool2d_backward",
    "lp_pool3d",
    "lp_pool3d_backward",
    "max_pool1d",
    "max_pool1d_backward",
    "max_pool2d",
    "max_pool2d_backward",
    "max_pool3d",
    "max_pool3d_backward",
    "plan",
    "prepare",
    "prepare_transpose",
    "set_num_threads",
    "show_versions",
]


def show_versions() -> None:
    """Print what a bug report needs: versions, CPU, instruction set, threads, cache folder."""
    from fastconv.cpu import info

    info.show_versions()


def __getattr__(name: str) -> str:
    if name != "__version__":
        raise AttributeError(f"module 'fastconv' has no attribute {name!r}")
    from importlib import metadata  # slow to import, and seldom asked for

    try:
        return metadata.version("fastconv")
    except metadata.PackageNotFoundError:  # a checkout that is not installed
        return "unknown"
