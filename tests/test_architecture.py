"""The house rules that a machine can hold: imports run one way, roots are light, every file says
what it is for.
"""

import ast
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
    "raysparse.console",
    "raysparse.release",
    "raysparse.sweep.runner",
    "raysparse.sweep.ray",
    "raysparse.sweep.inline",
    "raysparse.sweep.attempt",
    "raysparse.sweep",
    "raysparse.train",
    "raysparse.data",
    "raysparse.model",
    "raysparse.sparsity",
    "raysparse.kernels",
    "analysis.__main__",
    "analysis.cli",
    "analysis.verbs",
    "analysis.show",
    "analysis.answer",
    "analysis.fit",
    "analysis.laws",
    "analysis.data",
    "analysis",
    "raysparse",
]
# data/ and model/ stand side by side: neither needs the other.
FORBIDDEN_PAIRS = {
    ("raysparse.data", "raysparse.model"),
    ("raysparse.data", "raysparse.sparsity"),
    ("raysparse.data", "raysparse.kernels"),
}
# Where a heavy library, or a part of our own that stands apart, may be imported at all.
ONLY_IN = {
    "ray": ("raysparse/sweep/ray/",),
    "datasets": ("raysparse/data/stream.py",),
    "datasketch": ("raysparse/data/near.py",),
    "huggingface_hub": ("raysparse/data/hub.py",),
    "optuna": ("raysparse/sweep/",),
    "rich": ("raysparse/console/", "sweeps/"),
    "torch": ("raysparse/kernels/", "raysparse/sparsity/", "raysparse/model/", "raysparse/train/", "raysparse/sweep/",
              "raysparse/release/", "raysparse/console/", "sweeps/"),
    "safetensors": ("raysparse/release/",),
    "lm_eval": ("raysparse/release/",),
    "scipy": ("analysis/",),
    "matplotlib": ("analysis/", "sweeps/"),
    "analysis": ("analysis/", "raysparse/sweep/planners/", "raysparse/console/", "sweeps/"),
}  # fmt: skip
# What analysis may take from raysparse: how numbers and files are written. Neither needs torch.
SHARED = ("raysparse.units", "raysparse.files")


def module_of(path: Path) -> str:
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str:
    return next((room for room in ROOMS if module == room or module.startswith(room + ".")), "")


def imports(path: Path) -> set[str]:
    """Every module that a file imports, at its top or inside a function; `from a import b` counts
    as a.b.
    """
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
    if here == "analysis":  # its __init__ only says where its names live
        return
    for target in imports(path):
        there = room_of(target)
        if not here or not there:
            continue
        assert ROOMS.index(here) <= ROOMS.index(there), f"{module_of(path)} imports {target}, which is above it"
        assert (here, there) not in FORBIDDEN_PAIRS, f"{module_of(path)} imports {target}"


def test_there_is_no_circle():
    """Of modules, imports inside functions counted: no file needs another read first."""
    modules = {module_of(path): path for path in SOURCES}
    graph = {
        name: {there for target in imports(path) if (there := owner(target, modules)) and there != name}
        for name, path in modules.items()
    }
    while leaves := {name for name, targets in graph.items() if not targets & set(graph)}:
        graph = {name: targets for name, targets in graph.items() if name not in leaves}
    assert not graph, f"these modules import each other in a circle: {', '.join(sorted(graph))}"


def owner(target: str, modules: dict[str, Path]) -> str:
    """The module that an import of `a.b.c` loads: a.b.c, or a.b if c is a name in it."""
    found = target if target in modules else target.rpartition(".")[0]
    return found if found in modules and modules[found].name != "__init__.py" else ""


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_heavy_libraries_stay_in_their_rooms(path):
    where = str(path.relative_to(REPOSITORY))
    for target in imports(path):
        allowed = ONLY_IN.get(target.split(".")[0])
        assert allowed is None or where.startswith(allowed), f"{where} imports {target}; only {', '.join(allowed)} may"


@pytest.mark.parametrize("path", [p for p in SOURCES if module_of(p).startswith("analysis")], ids=module_of)
def test_analysis_stands_alone(path):
    outside = {target for target in imports(path) if target.split(".")[0] in ("raysparse", "torch", "ray")}
    assert all(target.startswith(SHARED) for target in outside), outside


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_every_file_says_what_it_is_for(path):
    assert ast.get_docstring(ast.parse(path.read_text())), f"{path.name} opens without saying what it is for"


@pytest.mark.parametrize(
    "module", ["raysparse", "raysparse.spec", "raysparse.results", "raysparse.console.cli", "analysis"]
)
def test_importing_the_roots_loads_neither_torch_nor_ray(module):
    program = f"import sys, {module}; print(sorted({{'torch', 'ray', 'triton', 'datasets'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert done.stdout.strip() == "[]"


def test_training_needs_neither_ray_nor_datasets_and_loads_no_compiler():
    """One trial also runs where neither is installed: on a bare GPU machine, in a debugger. The
    compiler of torch takes longer to load than a small trial to train.
    """
    program = (
        "import sys; sys.modules.update(dict.fromkeys(['ray', 'datasets', 'optuna', 'tokenizers']));"
        "import raysparse.train.trial, raysparse.data.store; print('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert done.stdout == "False\n"


def test_the_driver_of_a_sweep_on_ray_loads_no_torch():
    """It never trains, and torch would be seconds of its start and memory of the head."""
    program = "import sys, raysparse.sweep.runner, raysparse.sweep.ray.fleet; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert done.stdout == "False\n"


def test_a_sweep_script_begins_where_nothing_is_installed_that_trains():
    """So that what is missing is said in one line, with the extra (`script.guarded`)."""
    program = (
        "import sys, runpy; absent = ['torch', 'ray', 'optuna', 'datasets', 'tokenizers', 'scipy', 'matplotlib'];"
        "sys.modules.update(dict.fromkeys(absent));"
        "[runpy.run_path(f'sweeps/{name}.py') for name in 'grid search isoflop adaptive methods decay'.split()]"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=REPOSITORY)


def test_files_and_functions_stay_readable():
    """No file over 350 lines and no function over 60: beyond that it has two jobs."""
    for path in SOURCES:
        text = path.read_text()
        assert text.count("\n") <= 350, f"{path.relative_to(REPOSITORY)} has {text.count(chr(10))} lines"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                length = node.end_lineno - node.lineno + 1
                assert length <= 60, f"{path.relative_to(REPOSITORY)}: {node.name} has {length} lines"
