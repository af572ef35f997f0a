"""How functions are compiled and cached.

Numba's own cache has two traps that this module closes: it ignores changes in callees that live in other
files (numba #8359), and it fails on an installation without a writable folder (numba #4908). Kernels are
therefore cached in one private folder, and are stale when any module they are built from changes.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from llvmlite.binding import create_pass_builder, create_pipeline_tuning_options
from numba import njit, types
from numba.core.caching import CompileResultCacheImpl, FunctionCache, _CacheLocator
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler

_PACKAGE = __name__.partition(".")[0]

# A fused multiply-add rounds once instead of twice. Reassociation, no-NaN and no-infinity stay off: a result must
# not depend on how LLVM vectorised a loop, and NaN must stay NaN.
FASTMATH = {"contract", "nsz"}


@cache
def cache_folder() -> Path:
    """Folder of compiled kernels, calibration and wisdom; only its owner may read it (cache files are pickles)."""
    asked = os.environ.get("FASTCONV_CACHE_DIR")
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    folder = Path(asked) if asked else Path(home) / "fastconv"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(f"{folder} is not writable")
        return folder
    except OSError as error:
        fallback = Path(tempfile.mkdtemp(prefix="fastconv-"))
        warnings.warn(f"fastconv cannot cache compiled kernels ({error}); every new process compiles again. "
                      "Set FASTCONV_CACHE_DIR to a writable folder.", RuntimeWarning, stacklevel=2)  # fmt: skip
        return fallback


def _used(module: ModuleType) -> set[ModuleType]:
    """The other modules of this package whose names it holds."""
    found = set()
    for value in vars(module).values():
        name = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
        if isinstance(name, str) and name.startswith(_PACKAGE + ".") and name in sys.modules:
            found.add(sys.modules[name])
    return found - {module}


@cache
def _behind(module: ModuleType) -> frozenset[ModuleType]:
    """`module`, which is imported completely, and those it uses, transitively; imports have no cycles."""
    return frozenset({module}).union(*map(_behind, _used(module)))


@cache
def _state(module: ModuleType) -> str:
    state = os.stat(str(module.__file__))
    return f"{module.__name__} {state.st_mtime_ns} {state.st_size}\n"


class _Locator(_CacheLocator):  # type: ignore[misc]
    """Puts a function's cache into `cache_folder()` and stamps it with all its sources."""

    def __init__(self, py_func: Callable[..., Any], py_file: str) -> None:
        self._module = sys.modules[py_func.__module__]
        self._line = py_func.__code__.co_firstlineno

    def get_cache_path(self) -> str:
        return str(cache_folder() / "kernels")

    def get_source_stamp(self) -> str:
        modules = {self._module}.union(*map(_behind, _used(self._module)))  # this one is still being imported
        return hashlib.sha256("".join(sorted(map(_state, modules))).encode()).hexdigest()

    def get_disambiguator(self) -> str:
        return str(self._line)

    @classmethod
    def from_function(cls, py_func: Callable[..., Any], py_file: str) -> _Locator:
        return cls(py_func, py_file)


class _CacheImpl(CompileResultCacheImpl):  # type: ignore[misc]
    _locator_classes = (_Locator,)


class _KernelCache(FunctionCache):  # type: ignore[misc]
    _impl_class = _CacheImpl

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        # Numba's own method first imports everything that lowers code, and SciPy: 0.3 s that finished code can spare.
        with self._guard_against_spurious_io_errors():
            return self._load_overload(sig, target_context)


# Compiled code allocates nothing, so arrays need no reference counts; counting costs an atomic pair for every array
# handed to a helper, 200 cycles for one row stored. C never calls it.
_OPTIONS = {"nogil": True, "error_model": "numpy", "fastmath": FASTMATH, "_nrt": False, "no_cfunc_wrapper": True}


class _Bitcode(JITCodeLibrary):  # type: ignore[misc]
    """Code that only other code links: not optimised and never turned into machine code by itself."""

    def _optimize_final_module(self) -> None:
        pass

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._finalized = True


class _Machine(JITCodeLibrary):  # type: ignore[misc]
    """Code that is called: optimised with the helpers that are linked into it.

    As numba does it, but in one go, for there are no reference counts to prune before, and loops stay as they are
    written. Those that matter are made of vectors and unrolled where that pays; to unroll the others too takes a fifth
    of the time of compilation.
    """

    def _optimize_final_module(self) -> None:
        options = create_pipeline_tuning_options(speed_level=3)
        options.loop_unrolling, options.slp_vectorization = False, False
        builder = create_pass_builder(self._codegen._tm, options)
        builder.getModulePassManager().run(self._final_module, builder)


class _KernelCompiler(Compiler):  # type: ignore[misc]
    """Makes a `_Machine`, whose code can be cached, of what Python or a launch calls."""

    def _compile_core(self) -> Any:
        self.state.library = _Machine(self.state.targetctx.codegen(), self.state.func_id.func_qualname)
        self.state.library.enable_object_caching()
        return super()._compile_core()


class _HelperCompiler(Compiler):  # type: ignore[misc]
    """Leaves a helper as it is: it is optimised and finished inside the kernels it is linked into."""

    def _compile_core(self) -> Any:
        target = self.state.targetctx
        self.state.library = _Bitcode(target.codegen(), self.state.func_id.func_qualname)
        # What Python would call has to be some built-in function, another one for each helper; nobody calls it.
        self.state.targetctx = target.subtarget(get_executable=lambda library, fndesc, env: [library].append)
        return super()._compile_core()


def cached(function: Callable[..., Any]) -> Any:
    """Compile on first call, without the GIL, cached on disk; with NumPy's division rules (no exceptions)."""
    dispatcher = njit(**_OPTIONS, pipeline_class=_KernelCompiler)(function)
    dispatcher._cache = _KernelCache(function)
    return dispatcher


def native(function: Callable[..., Any], source: Callable[..., Any]) -> Any:
    """The same for what only other compiled code calls, by its address.

    `source` is the function that this one was made from: it names the cache's files.
    """
    dispatcher = njit(**_OPTIONS, no_cpython_wrapper=True, pipeline_class=_KernelCompiler)(function)
    dispatcher._cache = _KernelCache(source)
    return dispatcher


def _helper(function: Callable[..., Any], forceinline: bool) -> Any:
    options = {**_OPTIONS, "no_cpython_wrapper": True, "forceinline": forceinline}
    dispatcher = njit(**options, pipeline_class=_HelperCompiler)(function)
    template = dispatcher.get_call_template
    # A constant argument is a type of its own, for which numba would compile the helper once more.
    dispatcher.get_call_template = lambda args, kws: template(tuple(map(types.unliteral, args)), kws)
    return dispatcher


def inline(function: Callable[..., Any]) -> Any:
    """A helper that only other kernels call: compiled into them, with no cache, wrappers or code of its own."""
    return _helper(function, forceinline=True)


def outlined(function: Callable[..., Any]) -> Any:
    """As `inline`, but for what is large and used at several places: there once in a kernel, and called."""
    return _helper(function, forceinline=False)
