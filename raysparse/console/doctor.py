"""`raysparse doctor`: what this machine has, what is missing, and what to do about it.

Every line is looked at, not assumed - a package is imported, a file is written, each node of a
cluster is asked by a task - and only what stops a sweep counts as a failure. Left out: fixing
anything.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform
from collections.abc import Callable, Iterator, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from raysparse.files import Folder

Finding = tuple[str, str, str]  # what, found, remedy (empty when all is well)


def examine(storage: str, address: str = "") -> int:
    """Print what was found; 1 when something that a sweep needs is missing, else 0. With the
    address of a cluster each of its nodes is asked too.
    """
    here = (_python, _packages, _devices, lambda: _machine(address), lambda: _storage(storage))
    wrong = _shown("", [finding for check in here for finding in check()])
    for node, findings in _nodes(storage, address) if address else ():
        wrong += _shown(node, findings)
    return 1 if wrong else 0


def _shown(title: str, findings: Sequence[Finding]) -> int:
    """Print findings as a table; how many have a remedy."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), title=escape(title), title_justify="left")
    for what, found, remedy in findings:
        table.add_row("[red]x[/]" if remedy else "[green]ok[/]", escape(what), escape(found))
        if remedy:
            table.add_row("", "", f"[red]{escape(remedy)}[/]")
    Console(highlight=False).print(table)
    return sum(bool(remedy) for _, _, remedy in findings)


def _nodes(storage: str, address: str) -> Iterator[tuple[str, list[Finding]]]:
    """What the nodes of a cluster find; a cluster that does not answer is a finding."""
    from raysparse.sweep.ray import environment

    environment.apply(joins_a_cluster=True)
    from raysparse.placement import Placement
    from raysparse.sweep.ray import check, cluster
    from raysparse.sweep.settings import Settings

    place = Folder(storage)
    try:
        with cluster.joined(Settings(address=address, slots=1), Placement(), place.uri, is_sweep=False):
            yield from check.nodes(Folder(place.local_path) if place.is_local else place)
    except ValueError as error:
        yield "cluster", [("Ray", address, str(error))]


def _python() -> Iterator[Finding]:
    yield "Python", platform.python_version(), ""


def _packages() -> Iterator[Finding]:
    extras = {
        "torch": "[train]",
        "pyarrow": "",
        "ray": "[sweep]",
        "optuna": "[sweep]",
        "scipy": "[analysis]",
        "matplotlib": "[analysis]",
    }
    for name, extra in extras.items():
        try:
            module = importlib.import_module(name)
        except ImportError as error:
            yield name, f"cannot be imported: {error}", f"pip install '.{extra}' in the clone"
        else:
            yield name, str(module.__version__), ""
    for name in ("triton", "liger_kernel"):
        found = importlib.util.find_spec(name) is not None
        yield (
            name,
            importlib.metadata.version(name)
            if found
            else "absent: only a GPU needs it, pip install '.[gpu]' in the clone",
            "",
        )


def _devices() -> Iterator[Finding]:
    import torch

    for n in range(torch.cuda.device_count()):
        found = torch.cuda.get_device_properties(n)
        yield f"GPU {n}", f"{found.name}, {found.total_memory / 2**30:.0f} GiB", ""
    if not torch.cuda.is_available():
        yield "GPU", "none: trials train on CPUs", ""
    yield "kernels on a CPU", _kernels(), ""


def _kernels() -> str:
    from raysparse.kernels.native import library

    if not library.is_wanted():
        return f"torch's, as {library.ASKED} asks"
    try:
        library.load()
    except library.NoLibrary as reason:
        return f"torch's, which are slower: {reason}"
    return "compiled"


def _machine(asked: str) -> Iterator[Finding]:
    pages: Callable[[str], int] = os.sysconf
    memory = pages("SC_PAGE_SIZE") * pages("SC_PHYS_PAGES") / 2**30
    yield "CPUs", str(len(os.sched_getaffinity(0))), ""
    yield (
        "memory",
        f"{memory:.0f} GiB",
        "" if memory >= 4 else "two trials at once under Ray need about 4 GiB; use --executor inline",
    )
    address = asked or os.environ.get("RAY_ADDRESS", "")
    yield "Ray cluster", f"{address}, asked below" if asked else address or "none set: sweeps start one here", ""
    has_dashboard = importlib.util.find_spec("aiohttp_cors") is not None
    yield "Ray dashboard", "available" if has_dashboard else "absent: pip install 'ray[default]' for it", ""


def _storage(storage: str) -> Iterator[Finding]:
    try:
        Folder(storage).writable()
    except ValueError as error:
        yield "storage", storage, str(error)
    else:
        yield "storage", f"{storage} can be written", ""
