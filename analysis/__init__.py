"""From a table of runs to what to train next, and for real: laws, fits with intervals, optima,
designs, reports.

Five rooms, and imports run one way: data -> laws -> fit -> answer -> show -> cli. Nothing here
imports torch or Ray, and of raysparse only how numbers and files are written. Importing the package
imports only numpy: the names below are loaded when first used, scipy and matplotlib only where a
function needs them. See docs/analysis.md.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analysis.answer.study import Study, analyse
    from analysis.data.points import Points
    from analysis.data.table import Runs, read_table
    from analysis.fit import Fit
    from analysis.laws import LAWS, Law
    from analysis.show.report import Report, write_report

__all__ = ["LAWS", "Fit", "Law", "Points", "Report", "Runs", "Study", "analyse", "read_table", "write_report"]

_HOME = {
    "Fit": "fit",
    "LAWS": "laws",
    "Law": "laws",
    "Points": "data.points",
    "Report": "show.report",
    "Runs": "data.table",
    "Study": "answer.study",
    "analyse": "answer.study",
    "read_table": "data.table",
    "write_report": "show.report",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"analysis.{_HOME[name]}"), name)
    raise AttributeError(f"module 'analysis' has no attribute {name!r}")
