"""From a table of runs to what to train next, and for real: laws, fits with intervals, optima, designs, reports.

Imports run one way: table -> laws -> fit -> compare -> optimum -> design -> simulate -> plots -> report -> cli.
Nothing here imports torch, Ray or raysparse, and importing the package imports only numpy: the names below are
loaded when first used, scipy and matplotlib only where a function needs them. See docs/analysis.md.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analysis.fit import Fit
    from analysis.laws import LAWS, Law
    from analysis.points import Points
    from analysis.report import Report, write_report
    from analysis.study import Study, analyse
    from analysis.table import Runs, read_table

__all__ = ["LAWS", "Fit", "Law", "Points", "Report", "Runs", "Study", "analyse", "read_table", "write_report"]

_HOME = {
    "Fit": "fit", "LAWS": "laws", "Law": "laws", "Points": "points", "Report": "report", "Runs": "table",
    "Study": "study", "analyse": "study", "read_table": "table", "write_report": "report",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"analysis.{_HOME[name]}"), name)
    raise AttributeError(f"module 'analysis' has no attribute {name!r}")
