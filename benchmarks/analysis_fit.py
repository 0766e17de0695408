"""How fast and how exact the fits are: one row per operation, CPU seconds without imports.

Each operation is repeated and the median and the fastest are kept, because the machine may be
shared; the objective reached stands beside the time, so that speed is never bought with a worse
minimum. Also measured: the import of the package, the report of a laptop table, and a million-row
table. Writes results/analysis_fit.json; run `python benchmarks/analysis_fit.py`. The Chinchilla
rows need RAYSPARSE_SHARED_DATA and are left out otherwise.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import scipy
from pyarrow import csv

from analysis.answer.costs import ACTIVE
from analysis.answer.optimum import Box, search
from analysis.answer.simulate import simulate
from analysis.answer.study import analyse
from analysis.data.files import dumps
from analysis.data.points import Points
from analysis.data.table import Runs, read_table
from analysis.fit import fit
from analysis.fit.intervals import bootstrap
from analysis.fit.joint import Fit
from analysis.fit.staged import staged
from analysis.laws import named, published_vector
from analysis.show.report import write_report

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
DATA = ROOT / "tests" / "analysis" / "data"
FIXED = {"ln_A": 6.255414, "ln_B": 7.3049974, "ln_E": 0.6254804, "alpha": 0.3526596}


def timed(name: str, run: Callable[[], Any], repeats: int, describe: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
    seconds, result = [], None
    for _ in range(repeats):
        start = time.process_time()
        result = run()
        seconds.append(time.process_time() - start)
    row = {
        "operation": name,
        "cpu_seconds_median": float(np.median(seconds)),
        "cpu_seconds_least": float(min(seconds)),
        "repeats": repeats,
        **describe(result),
    }
    print(row, flush=True)
    return row


def about(found: Fit) -> dict[str, Any]:
    return {
        "rows": len(found.runs),
        "law": found.law.name,
        "objective": found.objective,
        "minima": [m.objective for m in found.minima],
        "parameters": found.parameters,
    }


def synthetic(column: str) -> Runs:
    return read_table(DATA / "synthetic_sparse500.csv", {"loss": column, "active": "active_params"})


def public_tables(repeats: int) -> list[dict[str, Any]]:
    rows = []
    folder = Path(os.environ.get("RAYSPARSE_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if (folder / "epoch_chinchilla_245.csv").exists():
        table = csv.read_csv(folder / "epoch_chinchilla_245.csv")
        every = read_table(table, {"active": "params"})
        clean = read_table(table.filter(pc.equal(table["excluded_outlier"], False)), {"active": "params"})
        law = named("chinchilla")
        rows += [
            timed("chinchilla, 240 rows", lambda: fit(law, clean), repeats, about),
            timed("chinchilla, 245 rows", lambda: fit(law, every), repeats, about),
            timed(
                "chinchilla, 4000 bootstraps",
                lambda: bootstrap(fit(law, clean), 4000),
                3,
                lambda draws: {"intervals_95": draws.parameter_intervals()},
            ),
        ]
    repeated = read_table(DATA / "datablations_fit182.csv", {"active": "params"})
    one_epoch = read_table(DATA / "datablations_all_runs.csv", {"active": "params"})
    one_epoch = one_epoch.take(one_epoch.points.epochs <= 2.5)
    rows += [
        timed(
            "datablations, R_D and R_N", lambda: fit(named("data_constrained"), repeated, fixed=FIXED), repeats, about
        ),
        timed("datablations, all seven", lambda: fit(named("data_constrained_untied"), repeated), repeats, about),
        timed("datablations, up to 2.5 epochs", lambda: fit(named("chinchilla_tied"), one_epoch), repeats, about),
    ]
    return rows


def sparse_law(repeats: int) -> list[dict[str, Any]]:
    law, clean, noisy = named("sparse_published"), synthetic("loss_clean"), synthetic("loss")
    found = fit(law, noisy)
    theta = np.tile(published_vector(), (200, 1))
    box = Box((1e6, 1e11), (1 / 16, 1.0), (1.0, 64.0))

    def stages(result: Any) -> dict[str, Any]:
        return {"objectives": [s.objective for s in result.stages], "parameters": result.fit.parameters}

    return [
        timed("joint fit, 13 parameters, 500 clean rows", lambda: fit(law, clean), repeats, about),
        timed("joint fit, 13 parameters, 500 noisy rows", lambda: fit(law, noisy), repeats, about),
        timed("four-stage fit, loss", lambda: staged(noisy), repeats, stages),
        timed("four-stage fit, loss_staged", lambda: staged(synthetic("loss_staged")), repeats, stages),
        timed(
            "200 bootstraps of the joint fit",
            lambda: bootstrap(found, 200),
            5,
            lambda draws: {"intervals_95": draws.parameter_intervals()},
        ),
        timed(
            "optimum of 200 laws at one budget",
            lambda: search(law, theta, box, 1e21, 2.6e9),
            repeats,
            lambda best: {"density": float(best.density[0])},
        ),
        timed(
            "optimum over a grid of 13 U x 25 budgets",
            lambda: _sparsity_grid(law, box),
            5,
            lambda best: {"optima": len(best.loss)},
        ),
    ]


def _sparsity_grid(law: Any, box: Box) -> Any:
    unique, budget = (axis.ravel() for axis in np.meshgrid(np.geomspace(1e8, 1e11, 13), np.geomspace(1e18, 1e23, 25)))
    return search(law, np.tile(published_vector(), (len(unique), 1)), box, budget, unique)


def whole_reports() -> list[dict[str, Any]]:
    from tests.analysis.tables import laptop

    table = laptop(densities=(1.0, 0.5, 0.25))
    with tempfile.TemporaryDirectory() as folder:
        return [
            timed(
                "report of a laptop sweep, pictures included",
                lambda: write_report(table, folder, title="benchmark"),
                3,
                lambda report: {"rows": table.num_rows, "files": len(report.paths)},
            )
        ]


def million() -> list[dict[str, Any]]:
    generator, n = np.random.default_rng(0), 1_000_000
    unique = 10 ** generator.uniform(8, 10, n)
    points = Points(
        10 ** generator.uniform(7, 9, n),
        generator.choice([1, 0.5, 0.25, 0.125], n),
        unique,
        unique * 2.0 ** generator.integers(0, 6, n),
    )
    loss = simulate(named("sparse_published"), published_vector(), points).loss
    table = pa.table(
        {
            "active": points.active,
            "density": points.density,
            "unique_tokens": points.unique,
            "tokens": points.tokens,
            "loss": loss,
        }
    )
    runs: list[Runs] = []
    rows = [timed("a million rows, read and checked", lambda: runs.append(read_table(table)), 1, lambda _: {"rows": n})]
    study = timed(
        "a million rows, law chosen, fitted, intervals, optimum",
        lambda: analyse(runs[0], bootstraps=100),
        1,
        lambda study: {"law": study.fit.law.name, "rmse": study.fit.rmse, "cost": ACTIVE.name},
    )
    return [*rows, study]


def import_seconds() -> dict[str, Any]:
    code = "import time; t = time.process_time(); import analysis; print(time.process_time() - t)"
    every = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout)
        for _ in range(7)
    ]
    row = {
        "operation": "import analysis",
        "cpu_seconds_median": float(np.median(every)),
        "cpu_seconds_least": min(every),
        "repeats": len(every),
    }
    print(row, flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--skip-million", action="store_true")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "analysis_fit.json")
    arguments = parser.parse_args()
    rows = [import_seconds(), *public_tables(arguments.repeats), *sparse_law(arguments.repeats), *whole_reports()]
    if not arguments.skip_million:
        rows += million()
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(
        dumps(
            {
                "command": "python " + " ".join(["benchmarks/analysis_fit.py", *sys.argv[1:]]),
                "device": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
                "threads": os.environ.get("OMP_NUM_THREADS", "default"),
                "python": platform.python_version(),
                "numpy": np.__version__,
                "scipy": scipy.__version__,
                "pyarrow": pa.__version__,
                "rows": rows,
            }
        )
        + "\n"
    )


if __name__ == "__main__":
    main()
