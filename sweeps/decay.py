"""Which weight decay, at which density, for how many epochs - and in which unit does the best one
move least?

Run it: `python sweeps/decay.py` (about an hour and a half of two cores). Dense and a quarter dense,
weight decay x epochs, three seeds, two sizes; a quarter dense once more with the decay multiplied
by the dense rate. It prints the losses, what sparsity gains when either side has its own best
settings, and for every unit of `OptimizerSpec.decay_per` the best value of each cell. The unit
`run` needs no trials of its own: it is the dense rate's with another name for each value. A value
that serves every cell makes a default; it is only as good as the 12 cells here, all of one corpus
and batch. `--tables NAME ...` prints the same from run folders that exist, and trains nothing.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from statistics import mean, stdev
from typing import Any

import numpy as np

from raysparse.console import script
from raysparse.data.tokenizer import vocab_size
from raysparse.files import Folder
from raysparse.results import Results
from raysparse.run_folder import RunFolder
from raysparse.spec import DataSpec, OptimizerSpec, SparsitySpec, TrialSpec
from raysparse.sweep.plan import load
from raysparse.sweep.planners.grid import grid
from raysparse.sweep.planners.recipe import Recipe

SIZES = ["laptop-s", "laptop-m"]
DENSITIES = [1.0, 0.25]
EPOCHS = [3, 9, 27]
DECAYS = [0, 0.3, 1, 3, 10]
UNITS = ["own_rate", "dense_rate", "run"]

Cell = tuple[str, float, float]  # size, density, epochs
Losses = dict[float, dict[int, float]]  # weight decay -> seed -> validation loss at the end


def specs(sizes: Sequence[str]) -> tuple[TrialSpec, ...]:
    recipe = Recipe(
        vocab_size=vocab_size("bytes"),
        context=128,
        evaluations=4,
        data=DataSpec(validation_tokens=32_768),
        sparsity=SparsitySpec(update_every=20),
        optimizer=OptimizerSpec(batch_sequences=4),
    )

    def points(densities: list[float], epochs: list[float], decays: list[float], seeds: list[int], unit: str) -> Any:
        by_rate = recipe.replace(optimizer=recipe.optimizer.replace(decay_per=unit))
        axes = {"densities": densities, "unique_tokens": [50_000], "epochs": epochs, "seeds": seeds}
        return grid(by_rate, sizes=sizes, settings={"optimizer.weight_decay": decays}, **axes)

    return (
        *points(DENSITIES, EPOCHS, DECAYS, [0, 1, 2], "own_rate"),
        *points([0.25], EPOCHS, [0.3, 1, 3, 10], [0], "dense_rate"),
    )


def by_cell(rows: Iterable[dict[str, Any]]) -> dict[str, dict[Cell, Losses]]:
    """unit -> cell -> losses, of the completed rows. A dense trial has one rate: it is of either
    unit; `run` is the dense rate's with each value times rate x steps.
    """
    found: dict[str, dict[Cell, Losses]] = {unit: {} for unit in UNITS}
    for row in rows:
        if row["status"] != "completed":
            continue
        cell = (row["model"], row["density"], row["epochs"])
        units = {row["decay_per"]} if row["density"] < 1 else {"own_rate", "dense_rate"}
        values = dict.fromkeys(units, row["weight_decay"])
        if "dense_rate" in units:
            values["run"] = row["weight_decay"] * row["lr"] * row["steps"]
        for unit, value in values.items():
            found[unit].setdefault(cell, {}).setdefault(value, {})[row["seed"]] = row["validation_loss"]
    return found


def shown(losses: dict[int, float] | None) -> str:
    """Mean and standard deviation over seeds."""
    if not losses:
        return ""
    values = list(losses.values())
    return f"{mean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")


def loss_table(cells: dict[Cell, Losses]) -> list[str]:
    """A row a cell, a column a weight decay; the lowest mean of a row in bold."""
    decays = sorted({value for losses in cells.values() for value in losses})
    lines = ["| size | density | epochs | " + " | ".join(f"{d:g}" for d in decays) + " |"]
    lines.append("|---" * (len(decays) + 3) + "|")
    for (size, density, epochs), losses in sorted(cells.items()):
        lowest = min(losses, key=lambda value: mean(losses[value].values()))
        texts = [f"**{shown(losses[d])}**" if d == lowest else shown(losses.get(d)) for d in decays]
        lines.append(f"| {size} | {density:g} | {epochs:g} | " + " | ".join(texts) + " |")
    return lines


def best_setting(cells: dict[Cell, Losses], size: str, density: float) -> tuple[float, float, dict[int, float]]:
    """(epochs, weight decay, losses) with the lowest mean, of the settings with several seeds if
    there are any.
    """
    mine = {epochs: losses for (n, d, epochs), losses in cells.items() if (n, d) == (size, density)}
    settings = [(epochs, value, seeds) for epochs, losses in mine.items() for value, seeds in losses.items()]
    repeated = [setting for setting in settings if len(setting[2]) > 1]
    return min(repeated or settings, key=lambda setting: mean(setting[2].values()))


def gains(cells: dict[Cell, Losses]) -> list[str]:
    """Dense against sparse, each at its own best epochs and decay. The minimum over so many
    settings flatters both alike.
    """
    lines = []
    for size in sorted({size for size, _, _ in cells}):
        if {(size, d) for d in DENSITIES} - {(n, d) for n, d, _ in cells}:
            continue  # one side has no trials yet
        best = [best_setting(cells, size, density) for density in DENSITIES]
        for density, (epochs, decay, losses) in zip(DENSITIES, best, strict=True):
            lines.append(f"{size}, density {density:g}: {shown(losses)} at {epochs:g} epochs, decay {decay:g}")
        dense, sparse = (losses for _, _, losses in best)
        differences = {seed: dense[seed] - sparse[seed] for seed in dense if seed in sparse}
        lines.append(f"{size}, loss that sparsity saves, seed by seed: {shown(differences)}")
    return lines


def lowest_point(losses: dict[float, float]) -> tuple[float, str]:
    """(the value with the lowest loss, "") by the parabola in log value through the best value and
    its neighbours; at the end of the tested values the value itself, and the side it may lie on.
    """
    values = sorted(losses)
    n = min(range(len(values)), key=lambda i: losses[values[i]])
    if n in (0, len(values) - 1):
        return values[n], "≥" if n else "≤"
    near = values[n - 1 : n + 2]
    curvature, slope, _ = np.polyfit(np.log(near), [losses[v] for v in near], 2)
    return math.exp(-slope / (2 * curvature)), ""


def excess(curves: Sequence[dict[float, float]]) -> tuple[float, float]:
    """(the one value, tested in every cell's range, that costs least, its mean loss above each
    cell's best tested value); in between, losses are linear in log value. NaN without such a range.
    """
    low, high = max(min(curve) for curve in curves), min(max(curve) for curve in curves)
    if low > high:
        return math.nan, math.nan

    def cost(value: float, curve: dict[float, float]) -> float:
        tested = sorted(curve)
        between = np.interp(math.log(value), np.log(tested), [curve[v] for v in tested])
        return float(between) - min(curve.values())

    costs = {v: mean(cost(v, curve) for curve in curves) for v in np.geomspace(low, high, 200).tolist()}
    best = min(costs, key=costs.__getitem__)
    return best, costs[best]


def unit_table(units: dict[str, dict[Cell, Losses]]) -> list[str]:
    """The best value of every cell in all units, from the seeds that all have."""
    cells = sorted(set.intersection(*(set(units[unit]) for unit in UNITS)))
    curves: dict[str, list[dict[float, float]]] = {unit: [] for unit in UNITS}
    for cell in cells:
        tested = {unit: {v: seeds for v, seeds in units[unit][cell].items() if v > 0} for unit in UNITS}
        held = [set(seeds) for losses in tested.values() for seeds in losses.values()]
        common = set.intersection(*held) if held else set()
        if not common:
            return [f"no seed has all values of {cell[0]}, density {cell[1]:g}, {cell[2]:g} epochs yet"]
        for unit, losses in tested.items():
            curves[unit].append({v: mean(seeds[s] for s in common) for v, seeds in losses.items()})
    if len(cells) < 2:
        return ["fewer than two cells have trials in every unit yet"]
    best = {unit: [lowest_point(curve) for curve in curves[unit]] for unit in UNITS}
    lines = ["| size | density | epochs | " + " | ".join(UNITS) + " |", "|---" * (len(UNITS) + 3) + "|"]
    for n, (size, density, epochs) in enumerate(cells):
        texts = [f"{best[unit][n][1]}{best[unit][n][0]:.3g}" for unit in UNITS]
        lines.append(f"| {size} | {density:g} | {epochs:g} | " + " | ".join(texts) + " |")
    spreads = {unit: stdev(math.log(value) for value, _ in best[unit]) for unit in UNITS}
    single = {unit: excess(curves[unit]) for unit in UNITS}
    lines.append("| sd of the logarithm | | | " + " | ".join(f"{spreads[unit]:.2f}" for unit in UNITS) + " |")
    lines.append("| one value for all | | | " + " | ".join(f"{single[unit][0]:.3g}" for unit in UNITS) + " |")
    lines.append("| its cost, nats | | | " + " | ".join(f"{single[unit][1]:.3f}" for unit in UNITS) + " |")
    return [*lines, "", f"the best value moves least in the unit {min(spreads, key=spreads.__getitem__)!r}"]


def answer(rows: Sequence[dict[str, Any]]) -> str:
    """All tables, as Markdown."""
    units = by_cell(rows)
    own = units["own_rate"]
    sparse = {cell: losses for cell, losses in units["dense_rate"].items() if cell[1] < 1}
    parts = [
        ["Decay times a group's own rate:", "", *loss_table(own)],
        ["Each density at its own best:", "", *gains(own)],
        ["Decay times the dense rate:", "", *loss_table(sparse)],
        ["Best weight decay by unit (≤, ≥: at the end of what was tried):", "", *unit_table(units)],
    ]
    return "\n\n".join("\n".join(part) for part in parts)


@script.guarded
def main() -> int:
    parser = script.study_parser(__doc__ or "", name="decay")
    parser.add_argument("--sizes", nargs="+", default=SIZES, help="(default: %(default)s)")
    parser.add_argument("--tables", nargs="+", metavar="NAME", help="print the answer of these run folders")
    args = parser.parse_args()
    if args.tables:
        folders = [RunFolder.named(Folder(args.storage), name) for name in args.tables]
        for folder in folders:
            load(folder)  # refuses one that is none
        print(answer([row for folder in folders for row in Results(folder).rows()]))
        return 0
    summary = script.run(script.plan_of(args, specs(args.sizes)), args)
    if summary is None:
        return 0
    print(answer(Results(summary.folder).rows()))
    return 1 if summary.unfinished else 0


if __name__ == "__main__":
    sys.exit(main())
