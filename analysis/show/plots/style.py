"""How our pictures look: one place for colours, sizes and how a figure becomes files.

Colours are Okabe and Ito's (2008), told apart by the colour-blind; each density also has its own
marker. Text is large enough to read at half size. Figures are made without pyplot's global state,
so that threads and notebooks are left alone. Matplotlib is imported here and in the other plot
files only, never by `import analysis`.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ParamSpec, cast

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator
from numpy.typing import NDArray

from analysis.data.files import write_bytes
from raysparse.units import count

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C510A", "#000000")
MARKERS = "osD^vPXd"
GREY = "#555555"
SHADES = "cividis_r"  # made for colour-blind readers; dark is high loss
DPI = 120
RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
ROOM = 0.25  # of the range of the lines, above and below them
P = ParamSpec("P")
RC: Any = {
    "font.size": 14,
    "axes.titlesize": 15,
    "axes.labelsize": 15,
    "legend.fontsize": 13,
    "xtick.labelsize": 13,
    "ytick.labelsize": 13,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "lines.linewidth": 2.2,
    "lines.markersize": 7,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "svg.hashsalt": "raysparse",
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titley": 1.0,  # where it lies anyway: matplotlib need not look for it
}


class Look:
    """Colour and marker of each density level of one study, densest first; the same in every
    picture.
    """

    def __init__(self, densities: NDArray[np.float64]):
        self.levels = [float(value) for value in np.unique(densities)[::-1]]

    def color(self, density: float) -> str:
        return PALETTE[self.levels.index(density) % len(PALETTE)]

    def marker(self, density: float) -> str:
        return MARKERS[self.levels.index(density) % len(MARKERS)]


def picture(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Decorator: draw under our settings, whatever the caller's are."""

    @functools.wraps(draw)
    def drawn(*arguments: P.args, **options: P.kwargs) -> Figure:
        with mpl.rc_context(RC):
            return draw(*arguments, **options)

    return drawn


def figure(
    rows: int = 1, columns: int = 1, size: tuple[float, float] | None = None, title: str = ""
) -> tuple[Figure, NDArray[np.object_]]:
    """A figure of (rows, columns) axes, `size` inches."""
    made = Figure(figsize=size or (6.2 * columns, 4.8 * rows), dpi=DPI, layout="constrained")
    axes = made.subplots(rows, columns, squeeze=False)
    for axis in axes.ravel():  # ticks and labels lie farther out, and asking spines for their extent takes as long
        for spine in axis.spines.values():
            spine.set_in_layout(False)
    if title:
        made.suptitle(title, fontsize=18, fontweight="bold", x=0.01, ha="left")
    return made, axes


def marked(axis: Axes, at: Sequence[tuple[float, float, bool]]) -> None:
    """The run to train (a star) and the best measured runs (rings): (x, y, whether to train)."""
    rings = [(x, y) for x, y, answer in at if not answer]
    stars = [(x, y) for x, y, answer in at if answer]
    ring: Any = {"marker": "o", "markersize": 15, "markerfacecolor": "none", "markeredgewidth": 1.8}
    star: Any = {"marker": "*", "markersize": 21, "markerfacecolor": "black", "markeredgewidth": 1.2}
    if rings:
        axis.plot(*zip(*rings, strict=True), linestyle="none", color="black", label="best measured", zorder=5, **ring)
    if stars:
        label = "run to train"
        axis.plot(*zip(*stars, strict=True), linestyle="none", color="white", label=label, zorder=6, **star)


def epoch_ticks(most: float) -> list[float]:
    """1, 2, 4, ... up to the first power of two at or above `most`."""
    return [float(2**power) for power in range(int(np.ceil(np.log2(max(most, 2.0)) - 1e-9)) + 1)]


def power(value: float) -> str:
    """10¹², 5·10¹²: matplotlib's own label, whose typesetting takes as long as a small picture."""
    digit, exponent = f"{value:.0e}".split("e")
    return f"{'' if digit == '1' else f'{digit}·'}10{str(int(exponent)).translate(RAISED)}"


def log_axis(
    axis: Axes,
    which: str,
    ticks: NDArray[np.float64] | list[float] | None = None,
    label: Callable[[float], str] = count,
) -> None:
    """A logarithmic axis labelled in plain numbers (1k, 1M) or by `label`; `ticks` puts them where
    the data are.
    """
    getattr(axis, f"set_{which}scale")("log")
    target = getattr(axis, f"{which}axis")
    target.set_major_formatter(FuncFormatter(lambda value, _: label(value)))
    target.set_minor_formatter(NullFormatter())
    target.set_tick_params(which="minor", label1On=False)
    low, high = getattr(axis, f"get_{which}lim")()
    if ticks is None and high < 100 * low:
        target.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    if ticks is not None:
        target.set_ticks(list(ticks))
        target.set_minor_locator(NullLocator())


def near_lines(axis: Axes) -> None:
    """The y axis around its lines and markers: a band that runs away leaves the picture instead of
    pressing everything else flat.
    """
    values = np.concatenate([np.asarray(line.get_ydata(), dtype=float) for line in axis.get_lines()] or [np.zeros(0)])
    values = values[np.isfinite(values)]
    if len(values) and np.ptp(values) > 0:
        low, high = axis.get_ylim()
        axis.set_ylim(max(low, values.min() - ROOM * np.ptp(values)), min(high, values.max() + ROOM * np.ptp(values)))


def save(made: Figure, folder: Path, name: str, vector: bool = False) -> list[Path]:
    """Write NAME.png (and NAME.svg where `vector`) atomically; returns the paths.

    The canvases print themselves, because `savefig` draws every figure twice.
    """
    with mpl.rc_context(RC):
        buffer = io.BytesIO()
        cast(Any, FigureCanvasAgg(made)).print_png(buffer)
        paths = [write_bytes(folder / f"{name}.png", buffer.getvalue())]
        if vector:
            made.set_layout_engine("none")  # laid out once; the second format keeps it
            buffer = io.BytesIO()
            cast(Any, FigureCanvasSVG(made)).print_svg(buffer, metadata={"Date": None})
            paths.append(write_bytes(folder / f"{name}.svg", buffer.getvalue()))
    return paths
