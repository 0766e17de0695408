"""The house rules that a machine can hold: imports run one way, roots are light, every file says what it is for."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
SOURCES = sorted(p for folder in ("raysparse", "analysis", "sweeps") for p in (REPOSITORY / folder).rglob("*.py"))

# Rooms from top to bottom. A file may import from its own room and from rooms below it.
ROOMS = [
    "sweeps",
    "raysparse.__main__",
    "raysparse.cli",
    "raysparse.sweep",
    "raysparse.train",
    "raysparse.data",
    "raysparse.model",
    "raysparse.sparsity",
    "raysparse.kernels",
    "raysparse",
]
# data/ and model/ stand side by side: neither needs the other.
FORBIDDEN_PAIRS = {
    ("raysparse.data", "raysparse.model"),
    ("raysparse.data", "raysparse.sparsity"),
    ("raysparse.data", "raysparse.kernels"),
}
# Where a heavy library may be imported at all, and nowhere else.
ONLY_IN = {
    "ray": ("raysparse/sweep/", "raysparse/train/ray_worker.py"),
    "datasets": ("raysparse/data/corpus.py",),
    "optuna": ("raysparse/sweep/",),
    "torch": ("raysparse/kernels/", "raysparse/sparsity/", "raysparse/model/", "raysparse/train/", "raysparse/sweep/", "sweeps/"),
    "scipy": ("analysis/",),
    "matplotlib": ("analysis/", "sweeps/"),
    "analysis": ("analysis/", "sweeps/"),
}


def module_of(path: Path) -> str:
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str:
    return next((room for room in ROOMS if module == room or module.startswith(room + ".")), "")


def imports(path: Path) -> set[str]:
    """Every module that a file imports, at its top or inside a function; `from a import b` counts as a.b."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_imports_run_downwards(path):
    here = room_of(module_of(path))
    for target in imports(path):
        there = room_of(target)
        if not here or not there:
            continue
        assert ROOMS.index(here) <= ROOMS.index(there), f"{module_of(path)} imports {target}, which is above it"
        assert (here, there) not in FORBIDDEN_PAIRS, f"{module_of(path)} imports {target}"


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_heavy_libraries_stay_in_their_rooms(path):
    where = str(path.relative_to(REPOSITORY))
    for target in imports(path):
        allowed = ONLY_IN.get(target.split(".")[0])
        assert allowed is None or where.startswith(allowed), f"{where} imports {target}; only {', '.join(allowed)} may"


@pytest.mark.parametrize("path", [p for p in SOURCES if module_of(p).startswith("analysis")], ids=module_of)
def test_analysis_stands_alone(path):
    assert not any(target.split(".")[0] in ("raysparse", "torch", "ray") for target in imports(path))


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_every_file_says_what_it_is_for(path):
    assert ast.get_docstring(ast.parse(path.read_text())), f"{path.name} opens without saying what it is for"


@pytest.mark.parametrize("module", ["raysparse", "raysparse.spec", "raysparse.results", "raysparse.cli", "analysis"])
def test_importing_the_roots_loads_neither_torch_nor_ray(module):
    program = f"import sys, {module}; print(sorted({{'torch', 'ray', 'triton', 'datasets'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert done.stdout.strip() == "[]"


def test_training_needs_neither_ray_nor_datasets():
    """One trial also runs where neither is installed: on a bare GPU machine, in a debugger."""
    program = (
        "import sys; sys.modules.update(dict.fromkeys(['ray', 'datasets', 'optuna', 'tokenizers']));"
        "import raysparse.train.trial, raysparse.data.store"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=REPOSITORY, env=dict(os.environ))


def test_files_and_functions_stay_readable():
    """No file over 350 lines and no function over 60: beyond that it has two jobs."""
    for path in SOURCES:
        text = path.read_text()
        assert text.count("\n") <= 350, f"{path.relative_to(REPOSITORY)} has {text.count(chr(10))} lines"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                length = node.end_lineno - node.lineno + 1
                assert length <= 60, f"{path.relative_to(REPOSITORY)}: {node.name} has {length} lines"
