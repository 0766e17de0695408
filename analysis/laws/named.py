"""The laws that have names, and the published numbers to check them against.

A new law is one entry of `_ALL`. Published parameters are kept with their source so that tests and
the report can compare with them; no fit starts from them.
"""

from __future__ import annotations

from analysis.data.points import Array
from analysis.laws.density import ExponentialFactor, PublishedFactor, QuadraticFactor
from analysis.laws.law import Law
from analysis.laws.saturation import Saturation

_ALL = (
    Law("chinchilla", "Hoffmann et al. 2022 (arXiv 2203.15556): one epoch, dense", tied=False),
    Law("chinchilla_tied", "Chinchilla with alpha = beta"),
    Law(
        "data_constrained", "Muennighoff et al. 2023 (arXiv 2305.16264): repeated data, dense", saturation=Saturation()
    ),
    Law("data_constrained_untied", "repeated data, dense, alpha and beta apart", saturation=Saturation(), tied=False),
    Law(
        "repeated", "repeated data, dense, parameters never in excess", saturation=Saturation(excess=False), tied=False
    ),
    Law(
        "repeated_overfit_linear",
        "repeated data, dense, with a penalty linear in repetition",
        saturation=Saturation(excess=False),
        tied=False,
        penalty="linear",
    ),
    Law(
        "chinchilla_coupled",
        "Chinchilla with the sum of both terms to a power",
        tied=False,
        coupled=True,
    ),
    Law(
        "data_constrained_coupled",
        "repeated data, dense, the sum of both terms to a power",
        saturation=Saturation(),
        tied=False,
        coupled=True,
    ),
    Law(
        "sparse_small_coupled",
        "F = exp(k s), constant R*, the sum of both terms to a power",
        factor=ExponentialFactor(),
        saturation=Saturation("constant"),
        tied=False,
        coupled=True,
    ),
    Law(
        "sparse_single_epoch_coupled",
        "F = exp(k s), no repetition, the sum of both terms to a power",
        factor=ExponentialFactor(),
        tied=False,
        coupled=True,
    ),
    Law(
        "bounded_one_epoch",
        "one epoch, dense, never worse than E + G (after arXiv 2605.09189)",
        tied=False,
        bounded=True,
    ),
    Law(
        "bounded",
        "arXiv 2605.09189: repeated data, dense, over-fitting by N and U, never worse than E + G",
        tied=False,
        bounded=True,
        penalty="crowded",
    ),
    Law(
        "sparse_bounded",
        "the bounded law with F = exp(k s)",
        factor=ExponentialFactor(),
        tied=False,
        bounded=True,
        penalty="crowded",
    ),
    Law(
        "sparse_one_epoch_untied",
        "the published factor without repetition, alpha and beta apart",
        factor=PublishedFactor(),
        tied=False,
    ),
    Law("sparse_one_epoch", "arXiv 2606.01155, stages 1-2: density without repetition", factor=PublishedFactor()),
    Law(
        "sparse_published",
        "arXiv 2606.01155: density, repeated data, 13 parameters",
        factor=PublishedFactor(),
        saturation=Saturation("quadratic"),
    ),
    Law(
        "sparse_untied",
        "the published sparse law with alpha and beta apart",
        factor=PublishedFactor(),
        saturation=Saturation("quadratic"),
        tied=False,
    ),
    Law(
        "sparse_unique",
        "the published sparse law with R* a power of U",
        factor=PublishedFactor(),
        saturation=Saturation("quadratic", unique=True),
    ),
    Law(
        "sparse_overfit",
        "the published sparse law with an over-fitting penalty",
        factor=PublishedFactor(),
        saturation=Saturation("quadratic"),
        penalty="power",
    ),
    Law(
        "sparse_smooth",
        "the published law's flexibility with one-basin F(d) and R*(d), 12 parameters",
        factor=QuadraticFactor(),
        saturation=Saturation("curved"),
    ),
    Law(
        "sparse_smooth_untied",
        "sparse_smooth with alpha and beta apart",
        factor=QuadraticFactor(),
        saturation=Saturation("curved"),
        tied=False,
    ),
    Law(
        "sparse_identified",
        "one-basin F(d) and R*(d), ten parameters at most",
        factor=QuadraticFactor(),
        saturation=Saturation("exponential"),
    ),
    Law(
        "sparse_identified_untied",
        "one-basin F(d) and R*(d), alpha and beta apart",
        factor=QuadraticFactor(),
        saturation=Saturation("exponential"),
        tied=False,
    ),
    Law(
        "sparse_identified_overfit",
        "one-basin F(d) and R*(d), untied, with an over-fitting penalty",
        factor=QuadraticFactor(),
        saturation=Saturation("exponential"),
        tied=False,
        penalty="power",
    ),
    Law(
        "sparse_identified_overfit_linear",
        "one-basin F(d) and R*(d), untied, with a penalty linear in repetition",
        factor=QuadraticFactor(),
        saturation=Saturation("exponential", excess=False),
        tied=False,
        penalty="linear",
    ),
    Law(
        "sparse_small",
        "F = exp(k s), constant R*: for tables of a few dozen runs",
        factor=ExponentialFactor(),
        saturation=Saturation("constant"),
    ),
    Law(
        "sparse_small_untied",
        "F = exp(k s), constant R*, alpha and beta apart",
        factor=ExponentialFactor(),
        saturation=Saturation("constant"),
        tied=False,
    ),
    Law(
        "sparse_small_overfit",
        "F = exp(k s), constant R_D*, untied, with an over-fitting penalty",
        factor=ExponentialFactor(),
        saturation=Saturation("constant", excess=False),
        tied=False,
        penalty="power",
    ),
    Law(
        "sparse_small_overfit_linear",
        "F = exp(k s), constant R_D*, untied, with a penalty linear in repetition",
        factor=ExponentialFactor(),
        saturation=Saturation("constant", excess=False),
        tied=False,
        penalty="linear",
    ),
    Law(
        "sparse_single_epoch",
        "F = exp(k s), no repetition, alpha and beta apart",
        factor=ExponentialFactor(),
        tied=False,
    ),
)
LAWS: dict[str, Law] = {law.name: law for law in _ALL}

# arXiv 2606.01155, the parameters in the authors' notebook; R_N0 and R_D0 are unlogged there.
PUBLISHED: dict[str, float] = {
    "ln_A": 5.240737178917673,
    "ln_B": 6.103030891809012,
    "ln_E": 0.8535501324918354,
    "alpha": 0.3268217718148829,
    "eps": -0.009680437509279435,
    "mu": 0.8466179337054532,
    "P": -0.2728893199074849,
    "R_N": 11.087637121468322,
    "R_D": 4.404748822323469,
    "l1": 1.8213812238803706,
    "s1": -1.3653091691735397,
    "l2": 1.9039562899771467,
    "s2": -2.79909312658146,
}
_LOGGED = ("R_N", "R_D")


def published_vector() -> Array:
    """(13,) the published parameters of `sparse_published`, in its own coordinates."""
    from math import log

    law = LAWS["sparse_published"]
    return law.vector(
        {
            (f"ln_{name}" if name in _LOGGED else name): (log(value) if name in _LOGGED else value)
            for name, value in PUBLISHED.items()
        }
    )


def named(name: str) -> Law:
    """The law called `name`. Raises ValueError naming the nearest one."""
    if name not in LAWS:
        from analysis.data.columns import nearest

        raise ValueError(f"no law is called {name!r}{nearest(name, LAWS)}; laws are {', '.join(LAWS)}")
    return LAWS[name]
