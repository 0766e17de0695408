"""The pictures of a report, in the order in which it shows them, with what each says.

A new picture is a function from `Study` to `Figure` and one line here.
"""

from __future__ import annotations

from collections.abc import Callable

from matplotlib.figure import Figure

from analysis.answer.study import Study
from analysis.show.plots.fitted import law, predicted_vs_measured, profiles
from analysis.show.plots.losses import isoflop, isoloss, loss_over_epochs
from analysis.show.plots.optimal import optimal_sparsity, sparsity_over_unique

# file name -> (how to draw it, caption)
PICTURES: dict[str, tuple[Callable[[Study], Figure], str]] = {
    "optimal_sparsity": (optimal_sparsity, "The law's optimum inside the searched box. Grey lies beyond the data."),
    "loss_over_epochs": (loss_over_epochs, "Markers are runs, lines the law, bands its 95 % interval."),
    "isoflop": (
        isoflop,
        "Loss at equal compute as size trades against epochs; the star is each density's best. Open "
        "markers are runs near that budget, moved onto it along the law.",
    ),
    "law": (
        law,
        "The law's numbers with 95 % intervals; what density does to an active parameter; what an epoch is worth.",
    ),
    "predicted_vs_measured": (predicted_vs_measured, "A good law scatters evenly around the line at every compute."),
    "sparsity_over_unique": (
        sparsity_over_unique,
        "With alpha = beta and R* free of U, the right-hand curves must be "
        "flat: such a law cannot say that sparsity should grow with data.",
    ),
    "isoloss": (isoloss, "Measured losses interpolated between runs (above), the law (below), same colours."),
    "profiles": (
        profiles,
        "Scaled increase of the objective; the dashed line bounds the 95 % interval. Orange: the "
        "runs do not limit the parameter on some side.",
    ),
}
