"""Which trials would tell dense from sparse, for an answer with settings that does not.

The answer compares two runs, the best dense and the best sparse one; what is unsure is their
difference. Candidates are these two runs and the best measured ones, each with new seeds, because a
run elsewhere teaches less about these two. How draws of the model vary together says how much each
takes away (`design.choose_trials`). Limits: the two runs are held fixed, although new rows may move
them; the gain is what the model expects of itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from analysis.answer.choice import BestRun
from analysis.answer.costs import Cost
from analysis.answer.design import choose_trials
from analysis.answer.paths import draw
from analysis.answer.settings import difference_spans
from analysis.answer.surrogate import Surrogate
from analysis.data.points import Points

TRIALS = 12  # that are proposed at most
SEEDS = 4  # of one run at most
DRAWS = 400


@dataclass(frozen=True)
class Settling:
    """trials: (what is trained again, with how many new seeds). cost: of all of them, in `unit`.
    before, after: half-width of the 95 % interval of dense minus sparse, nats.
    """

    trials: tuple[tuple[str, int], ...]
    cost: float
    unit: str
    before: float
    after: float


def settling(model: Surrogate, best: BestRun, cost: Cost, seed: int = 0) -> Settling | None:
    """None where a difference is shown, or there is nothing to compare, or no trial helps."""
    from scipy.special import ndtri

    if best.dense is None or best.sparse is None or best.shown:
        return None
    names = ["the best dense run", "the best sparse run", *(row.row for row in best.rows)]
    runs = [*((c.active.value, c.density.value, c.epochs.value) for c in (best.dense, best.sparse))]
    runs += [(row.active, row.density, row.epochs) for row in best.rows]
    size, density, epochs = np.array(runs).T
    points = Points.at(size, density, best.unique, best.unique * epochs)
    chosen = [{name: value.value for name, value in c.settings.items()} for c in (best.dense, best.sparse)]
    settings = [*chosen, *(dict(row.settings) for row in best.rows)]
    columns = model.columns(points, {name: np.array([each[name] for each in settings]) for name in model.settings})
    losses = model.drawn(draw(model.processes, DRAWS, seed), columns)
    price = cost.of(points)
    noise = max(model.noise, model.least_noise)
    rows, sd = choose_trials(losses, losses[:, [0]] - losses[:, [1]], noise, price, TRIALS, replicates=SEEDS)
    if not len(rows):
        return None
    counted = tuple((names[row], int((rows == row).sum())) for row in dict.fromkeys(rows.tolist()))
    sds = float(ndtri((1 + difference_spans(model)) / 2))
    return Settling(counted, float(price[rows].sum()), cost.unit, sds * float(sd[0]), sds * float(sd[-1]))
