"""Is anything better than the published law on the paper's 11 held-out runs? The answer, with every
attempt.

The 50 real runs decoded from the paper's figure (one U, two densities) update each law from the
published parameters in two ways: all parameters free under a Gaussian prior around the published
ones, at several widths; or the published 13 held and only the extension's own parameters free.
Every attempt is scored on the 11 held-out runs, which no fit sees. Choosing the best attempt by
that score would be cheating: the table is the result. Writes results/analysis_heldout.json; run
`python benchmarks/analysis_heldout.py`.
"""

from __future__ import annotations

import argparse
import platform
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from analysis.data.files import dumps
from analysis.data.points import Points
from analysis.data.table import Runs, read_table
from analysis.fit import Prior, fit
from analysis.laws import Law, Saturation, named, published_vector
from analysis.laws.density import PublishedFactor

ROOT = Path(__file__).parents[1]
DATA = ROOT / "tests" / "analysis" / "data"
# Spread of the published parameters over bootstraps of a table of the paper's size (see
# docs/analysis.md).
SPREAD = {
    "ln_A": 0.15,
    "ln_B": 0.2,
    "ln_E": 0.03,
    "alpha": 0.02,
    "eps": 0.1,
    "mu": 0.3,
    "P": 0.06,
    "ln_R_D": 0.1,
    "ln_R_N": 0.15,
    "l1": 0.6,
    "s1": 0.7,
    "l2": 0.5,
    "s2": 0.5,
}
# Extensions: (mean, deviation). Means that leave the published law unchanged, or nearly so for the
# penalty.
EXTENSION = {
    "beta": (0.3268, 0.02),
    "v_D": (0.0, 0.1),
    "v_N": (0.0, 0.1),
    "ln_K": (-9.0, 2.0),
    "q": (1.5, 0.5),
    "r": (0.5, 0.3),
}


def laws() -> list[Law]:
    both = {"factor": PublishedFactor(), "tied": False}
    return [named(name) for name in ("sparse_published", "sparse_untied", "sparse_unique", "sparse_overfit")] + [
        Law("untied + unique", "", saturation=Saturation("quadratic", unique=True), **both),
        Law("untied + overfit", "", saturation=Saturation("quadratic"), penalty="power", **both),
    ]


def tables() -> tuple[Runs, Runs]:
    fitted_to = read_table(DATA / "dc_isoloss_decoded.csv", {"loss": "loss_decoded_from_png", "active": "N_active"})
    held = read_table(DATA / "dc_heldout.csv", {"loss": "loss_true", "active": "N_dense_equiv"})
    p = held.points
    return fitted_to, replace(held, points=Points(p.active * p.density, p.density, p.unique, p.tokens))


def attempts(fitted_to: Runs, held: Runs) -> list[dict[str, object]]:
    published = dict(zip(named("sparse_published").names, published_vector(), strict=True))
    rows: list[dict[str, object]] = []

    def score(law: Law, how: str, width: float, **options: object) -> None:
        found = fit(law, fitted_to, **options)  # type: ignore[arg-type]
        error = found.predict(held.points) - held.loss
        rows.append(
            {
                "law": law.name,
                "free": how,
                "prior_width": width,
                "delta": found.delta,
                "rmse_on_the_50": found.rmse,
                "rmse_held_out": float(np.sqrt(np.mean(error**2))),
                "bias_held_out": float(error.mean()),
                "extension": {name: found.stored[name] for name in law.names if name not in published},
            }
        )

    for law in laws():
        mean = {name: published.get(name, EXTENSION.get(name, (0.0, 0.0))[0]) for name in law.names}
        spread = {name: SPREAD.get(name) or EXTENSION[name][1] for name in law.names}
        for delta in (1e-3, 1e-2):
            for width in (0.3, 1.0, 3.0):
                prior = Prior(mean, {name: width * spread[name] for name in law.names})
                score(law, "all", width, prior=prior, delta=delta, warm=law.vector(mean))
                own = [name for name in law.names if name not in published]
                if own:
                    prior = Prior({n: mean[n] for n in own}, {n: width * spread[n] for n in own})
                    score(law, "extension", width, prior=prior, delta=delta, fixed=published)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "analysis_heldout.json")
    arguments = parser.parse_args()
    fitted_to, held = tables()
    law = named("sparse_published")
    base = {
        f"published_rmse_{name}": float(
            np.sqrt(np.mean((law.predict(published_vector(), runs.points) - runs.loss) ** 2))
        )
        for name, runs in (("held_out", held), ("on_the_50", fitted_to))
    }
    rows = attempts(fitted_to, held)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(
        dumps(
            {
                "command": "python " + " ".join(["benchmarks/analysis_heldout.py", *sys.argv[1:]]),
                "device": platform.processor() or platform.machine(),
                "python": platform.python_version(),
                "numpy": np.__version__,
                **base,
                "rows": rows,
            }
        )
        + "\n"
    )
    print(base)
    for row in sorted(rows, key=lambda row: float(str(row["rmse_held_out"]))):
        print(
            f"{row['law']!s:18} free {row['free']!s:10} width {row['prior_width']} delta {row['delta']}  "
            f"on the 50 {row['rmse_on_the_50']:.4f}  held out {row['rmse_held_out']:.5f}"
        )


if __name__ == "__main__":
    main()
