"""A law fitted again with what the field knows of exponents, for what lies beyond the rows.

Between rows a prior decides nothing; beyond them the exponents and E decide everything, and a few
dozen rows of one law's miss do not tell them. Published fits agree about the exponents of size and
tokens: .34 and .28 (Hoffmann et al. 2022, arXiv 2203.15556), .35 and .37 (the same runs, arXiv
2404.10102), .35 for both (Muennighoff et al. 2023, arXiv 2305.16264), .33 for both (arXiv
2606.01155). The prior about their means is wider than they are apart, and E is thought to be a
third to all of the least loss (two sds). Powers of over-fitting are thought to lie where a fit
begins to look for them (two sds): left free, they end on their bounds in small tables, and a
penalty that grows as N^3 is far off at ten times the size. The prior counts by the law's own mean
miss, so a table that a law fits to the last digit overrules it. Chosen on splits of public tables
(docs/experiments.md). Limits: all of this is of language models on text; outliers count in the mean
miss.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from analysis.fit.joint import Fit
from analysis.fit.problem import Prior
from analysis.fit.refit import refit, starting_points

# Stored name -> mean and sd. c, the power of a coupled sum, is 1 where size and tokens add.
EXPONENTS = {"alpha": (0.34, 0.1), "beta": (0.33, 0.1), "c": (1.0, 0.3)}
OVERFIT = ("gamma", "zeta", "q", "r")  # powers of over-fitting, whose prior is where starts are drawn from
FLOOR = (0.65, 0.3)  # E over the least measured loss: median, and sd of its logarithm
EXACT = 1e-9  # mean miss, at least: of a table without noise


def with_known(fitted: Fit) -> Fit:
    """The same law on the same rows, with the prior above in place of any that it had."""
    about = EXPONENTS | {"ln_E": (float(np.log(FLOOR[0] * fitted.runs.loss.min())), FLOOR[1])}
    powers = [parameter for parameter in fitted.law.parameters if parameter.name in OVERFIT]
    about |= {power.name: (sum(power.start) / 2, (power.start[1] - power.start[0]) / 4) for power in powers}
    names = [name for name in fitted.law.names if name in about]
    miss = max(float(np.abs(fitted.residuals).mean()), EXACT)
    noise = miss * min(1.0, miss / fitted.delta)  # below delta the objective is squares, not sizes
    prior = Prior({name: about[name][0] for name in names}, {name: about[name][1] for name in names}, noise)
    again = replace(fitted, prior=prior)
    found = refit(again.problem, starting_points(again), np.ones((1, len(fitted.runs))))
    return replace(again, theta=again.problem.full(found.free)[0], objective=float(found.objective[0]), minima=())
