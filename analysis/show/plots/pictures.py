"""The pictures of a report, in the order in which it shows them, with what each says and when.

A picture that has nothing to show for a table is left out, not drawn empty. A new one is a function
from `Study` to `Figure` and one entry here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from matplotlib.figure import Figure

from analysis.answer.study import Study
from analysis.fit.select import MULTI, levels
from analysis.show.plots.compute import compute_optimal
from analysis.show.plots.fitted import law, law_panels, predicted_vs_measured, profiles
from analysis.show.plots.losses import isoflop, isoloss, loss_over_epochs, loss_over_tokens, planes
from analysis.show.plots.optimal import optimal_sparsity, sparsity_over_unique

TUNED = "Runs are points, each at its own best settings, with the loss that the model of all rows expects there."


@dataclass(frozen=True)
class Picture:
    """suits: whether the table has what `draw` shows."""

    draw: Callable[[Study], Figure]
    caption: str
    suits: Callable[[Study], bool]

    def said_of(self, study: Study) -> str:
        """The caption, with what the runs of a table with settings are."""
        return f"{self.caption} {TUNED}" if study.tuned else self.caption


def _fitted(study: Study) -> bool:
    return study.fit is not None


def _repeated(study: Study) -> bool:
    return bool((study.runs.points.epochs > MULTI).any())


def _sparse(study: Study) -> bool:
    return _fitted(study) and levels(study.runs.points.density) > 1


# file name -> the picture
PICTURES: dict[str, Picture] = {
    "optimal_sparsity": Picture(
        optimal_sparsity,
        "The law's optimum inside the searched box, with the 95 % band of where it lies. Star: the run to train; "
        "rings: the best measured runs within the budget. Grey lies beyond the data.",
        lambda study: bool(study.curves) and (_repeated(study) or _sparse(study)),
    ),
    "compute_optimal": Picture(
        compute_optimal,
        "The best size and tokens along compute by the fitted law, with the 95 % band of its draws, and the optima "
        "that other approaches read off the runs. Grey lies beyond the data.",
        lambda study: study.fresh is not None,
    ),
    "loss_over_epochs": Picture(
        loss_over_epochs,
        "Markers are runs, lines the law. Dark bands: 95 % of the mean; light bands: 95 % of one run.",
        _repeated,
    ),
    "loss_over_tokens": Picture(
        loss_over_tokens,
        "Markers are runs, lines the law. Dark bands: 95 % of the mean; light bands: 95 % of one run.",
        lambda study: not _repeated(study),
    ),
    "isoflop": Picture(
        isoflop,
        "Loss at equal compute as size trades against tokens, with the 95 % band of the mean; triangles: each "
        "density's best by the law. Open markers are runs near that budget, moved onto it along the law.",
        _fitted,
    ),
    "law": Picture(
        law,
        "The law's numbers with 95 % intervals; what density does to an active parameter; what an epoch is worth. "
        "Bands: 95 % of the mean.",
        lambda study: study.fit is not None and bool(law_panels(study.fit)),
    ),
    "predicted_vs_measured": Picture(
        predicted_vs_measured, "A good law scatters evenly around the line at every compute.", _fitted
    ),
    "sparsity_over_unique": Picture(
        sparsity_over_unique,
        "With alpha = beta and R* free of U, the right-hand curves must be flat: such a law cannot say that sparsity "
        "should grow with data.",
        lambda study: _sparse(study) and len(study.curves) > 1,
    ),
    "isoloss": Picture(
        isoloss,
        "Losses of the runs, interpolated between them (above), the law (below), same colours.",
        lambda study: _fitted(study) and bool(planes(study)),
    ),
    "profiles": Picture(
        profiles,
        "How much worse the fit gets as one parameter is pushed away, all others refitted; the dashed line bounds "
        "the 95 % interval. Orange: the runs do not limit the parameter on some side.",
        lambda study: study.fit is not None and study.fit.objective > 0,
    ),
}
