"""Imports point only downward, importing is light, and files stay readable."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import fastconv

ROOT = Path(fastconv.__file__).parent

#: From the ground up. A module may import from its own floor and from those below.
FLOORS = [
    ["spec", "pool_spec", "arrays", "adjoint"],
    ["cpu"],
    ["kernels"],
    ["plan"],
    ["call", "gradient_call", "planning", "conv", "prepared", "grad", "transpose", "fold", "toeplitz"],
    [
        "features",
        "activation",
        "dropout",
        "linear",
        "local",
        "norm",
        "norm_rows",
        "receptive",
        "response_norm",
        "separable",
        "separable_grad",
        "separable3d",
        "depthwise_separable",
    ],
    [
        "pool_call",
        "pool_window",
        "pool",
        "pool_average",
        "pool_norm",
        "resample",
        "adaptive",
        "pool_global",
        "unpool_call",
        "unpool",
        "unpool_average",
        "unpool_blocks",
        "pool_channels",
        "pool_mixed",
        "pool_random",
        "pool_fractional",
        "pyramid",
        "spectral",
    ],
    ["nn"],
    ["bench", "demo", "integrations", "cli", "__main__"],
]
MAX_LINES = 600

#: Imported by the package's own code only where they are used, never at `import fastconv`.
HEAVY = ("torch", "scipy", "matplotlib", "rich", "PIL", "skimage", "sklearn", "pandas", "onnx", "dask", "jax", "cv2")


def files() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in files()}


def floor(module: str) -> int:
    part = module.split(".")[1]
    for level, parts in enumerate(FLOORS):
        if part in parts:
            return level
    raise AssertionError(f"{module}: give {part!r} a floor in FLOORS")


def imports(path: Path, at_import_only: bool = False) -> set[str]:
    """Modules of the package that a file imports; with `at_import_only`, those that importing it really loads."""
    found = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if at_import_only and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in MODULES else str(node.module))
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text()))
    return {name for name in found if name.split(".")[0] == "fastconv"}


def test_imports_point_downward():
    wrong = []
    for module, path in MODULES.items():
        if module == "fastconv":
            continue
        for used in imports(path):
            if used == "fastconv":
                # The public face, as a user sees it: for what stands on top only.
                if floor(module) < len(FLOORS) - 2:
                    wrong.append(f"{module} imports the public package")
            elif floor(used) > floor(module):
                wrong.append(f"{module} imports {used}, which is above it")
    assert not wrong, "\n".join(wrong)


def test_no_circular_imports():
    graph = {module: imports(path, at_import_only=True) & set(MODULES) for module, path in MODULES.items()}
    done: set[str] = set()

    def visit(module: str, path: list[str]) -> None:
        assert module not in path, "circular import: " + " -> ".join([*path[path.index(module) :], module])
        if module in done:
            return
        for used in graph[module]:
            visit(used, [*path, module])
        done.add(module)

    for module in graph:
        visit(module, [])
    assert len(done) == len(MODULES)


def test_spec_is_pure_python():
    loaded = run("import json, sys; import importlib.util as u; s = u.spec_from_file_location('spec', r'%s');"
                 "m = u.module_from_spec(s); sys.modules['spec'] = m; s.loader.exec_module(m);"
                 "print(json.dumps(sorted(sys.modules)))" % (ROOT / "spec.py"))  # fmt: skip
    assert not {"numpy", "numba", "fastconv"} & set(loaded)


def run(code: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    return json.loads(done.stdout.splitlines()[-1])


def test_import_is_light():
    report = "; print(json.dumps(sorted(sys.modules)))"
    numba_alone = set(run("import json, sys, numba" + report))  # numba itself looks whether scipy is there
    loaded = set(run("import json, sys, fastconv" + report))
    assert not (loaded - numba_alone) & set(HEAVY)
    assert "torch" not in loaded
    assert not [name for name in loaded if name.startswith(("scipy.signal", "fastconv.bench", "fastconv.demo"))]
    assert "fastconv.cli" not in loaded


def test_import_compiles_nothing():
    code = """
import json, numba.core.dispatcher as d
compiled = []
original = d.Dispatcher.compile
d.Dispatcher.compile = lambda self, sig: (compiled.append(self.py_func.__qualname__), original(self, sig))[1]
import fastconv
print(json.dumps(compiled))
"""
    assert run(code) == []


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_files_stay_short(path):
    lines = len(path.read_text().splitlines())
    assert lines <= MAX_LINES, f"{path} has {lines} lines: split it"


def test_public_names():
    assert fastconv.__all__ == sorted(fastconv.__all__)
    for name in fastconv.__all__:
        assert getattr(fastconv, name).__doc__, f"{name} has no docstring"
    assert callable(fastconv.plan), "the function, not the subpackage"
    assert isinstance(fastconv.__version__, str)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        fastconv.nonsense  # noqa: B018


def test_the_plan_function_survives_imports_of_its_subpackage():
    code = """
import json, importlib
import fastconv
import fastconv.plan.dispatch, fastconv.plan.autotune, fastconv.plan.wisdom
importlib.import_module("fastconv.plan.explain")
from fastconv.plan import cost
assert cost.__name__ == "fastconv.plan.cost"
print(json.dumps(type(fastconv.plan).__name__))
"""
    assert run(code) == "function"


def test_typed():
    assert (ROOT / "py.typed").exists()
