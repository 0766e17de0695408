"""Does the answer of today predict dense runs that it has not seen better than one law did?

Public tables of dense runs that others trained (`--data`: a folder of them; which they are, and
which of them may not be kept here, docs/analysis.md says). Each is split twice: every fifth row,
drawn by a seed, is held out and the rest fitted; and the cheaper half is fitted and the dearer half
held out. Today's answer is the stacked laws with their smooth rest (`answer.ensemble`), and the
laws alone; the other side is what `auto` chose at the commit of `--before`, run from its own files
in a process of its own. The figure is the error of ln L on held-out rows over the other's, averaged
as a geometric mean. Writes results/analysis_dense.json; run
`python -m benchmarks.analysis_dense --data FOLDER`.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.csv as csv

from analysis.answer.ensemble import ensemble
from analysis.data.files import write_json
from analysis.data.points import Array
from analysis.data.table import Runs
from analysis.fit.select import candidates, pick

ROOT = Path(__file__).parents[1]
BEFORE = "330f34c"  # chose the plainest law within one standard error of the best
HELD_OUT = 5  # one row in so many
BEFORE_CODE = """
import json, sys
import numpy as np
from analysis.fit.select import candidates, pick
from analysis.table import Runs
asked = json.load(sys.stdin)
runs, held = (Runs.from_arrays(*map(np.array, asked[key])) for key in ("fitted", "held"))
chosen = pick(candidates(runs))
out = {"law": None}
if chosen is not None:
    loss = chosen.law.predict(chosen.fit.theta, held.points)
    out = {"law": chosen.law.name, "log_loss": np.log(loss).tolist()}
json.dump(out, sys.stdout)
"""


def tables(data: Path) -> Iterator[tuple[str, Runs]]:
    """(name, dense runs), one data set and one run a point each."""
    one = _columns(data / "public" / "kyo.csv")
    yield "kyo", _runs(one["N"], one["D"], one["D"], one["loss"])
    one = _columns(data / "public" / "openlm104.csv")
    for corpus in sorted(set(one["dataset"])):
        at = one["dataset"] == corpus
        yield f"open_lm, {corpus}", _runs(*(one[name][at] for name in ("params", "tokens", "tokens", "loss_openlm")))
    for name in ("misfitting", "scalefit"):
        one = _columns(data / "public" / f"{name}.csv")
        at = one["source"] != "source"
        yield name, _runs(*(one[key][at].astype(float) for key in ("params", "tokens", "tokens", "loss")))
    one = _columns(data / "epoch_chinchilla_245.csv")
    at = ~one["excluded_outlier"].astype(bool)
    yield "chinchilla", _runs(*(one[name][at] for name in ("params", "tokens", "tokens", "loss")))
    one = _columns(data / "datablations_fit182.csv")
    yield "datablations", _runs(*(one[name] for name in ("params", "unique_tokens", "tokens", "val_loss")))
    for name in ("had_last", "step_dense_all"):
        one = _columns(data / "public" / f"{name}.csv")
        yield f"{name}, the best of each point", _best(_runs(one["N"], one["D"], one["D"], one["loss"]))


def _columns(path: Path) -> dict[str, Any]:
    table = csv.read_csv(path)
    return {name: np.array(table[name].to_pylist()) for name in table.column_names}


def _runs(active: Array, unique: Array, tokens: Array, loss: Array) -> Runs:
    known = np.isfinite(np.asarray(loss, dtype=float))
    return Runs.from_arrays(active[known], 1.0, unique[known], tokens[known], loss[known])


def _best(runs: Runs) -> Runs:
    """The row of least loss at every point."""
    order = np.lexsort((runs.loss, runs.group))
    return runs.take(np.sort(order[np.unique(runs.group[order], return_index=True)[1]]))


def splits(runs: Runs, seed: int) -> Iterator[tuple[str, Array]]:
    """(name, (n,) which rows are held out)."""
    drawn = np.random.default_rng(seed).permutation(len(runs))
    yield "one in five", drawn % HELD_OUT == 0
    spent = runs.points.log_active + runs.points.log_tokens
    yield "the dearer half", spent > np.median(spent)


def now(fitted: Runs, held: Runs) -> dict[str, Any]:
    """The errors of today's predictions."""
    tried = candidates(fitted)
    chosen = pick(tried)
    if chosen is None or chosen.fit is None:
        return {"law": None}
    laws = ensemble(tried, draws=20)
    whole = laws.log_loss(laws.numbers[:1], held.points)[0]
    alone = whole - laws.rest(np.zeros(1, dtype=int), laws.frame.coordinates(held.points))[0]
    single = chosen.law.log_loss(chosen.fit.theta[None], held.points)[0]
    return {
        "law": chosen.law.name,
        "laws": {fit.law.name: round(float(w), 3) for fit, w in zip(laws.fits, laws.weights[0], strict=True)},
        "answer": _error(whole, held),
        "laws_alone": _error(alone, held),
        "best_law": _error(single, held),
    }


def before(code: Path, fitted: Runs, held: Runs) -> dict[str, Any]:
    """The error of what the earlier commit predicts."""
    asked = {
        name: [getattr(runs.points, key).tolist() for key in ("active", "density", "unique", "tokens")]
        + [runs.loss.tolist()]
        for name, runs in (("fitted", fitted), ("held", held))
    }
    call = [sys.executable, "-c", BEFORE_CODE]
    done = subprocess.run(call, cwd=code, input=json.dumps(asked), capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    return {"law": found["law"]} | (
        {"error": _error(np.array(found["log_loss"]), held)} if found["law"] is not None else {}
    )


def _error(log_loss: Array, held: Runs) -> float:
    return float(np.sqrt(np.mean((log_loss - held.log_loss) ** 2)))


def summarise(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Geometric means over the tables, by split."""
    told = {}
    for split in dict.fromkeys(row["split"] for row in rows):
        some = [row for row in rows if row["split"] == split and "error" in row["before"] and "answer" in row["now"]]
        told[split] = {"splits": len(some)} | {
            key: float(np.exp(np.mean([np.log(row["now"][key] / row["before"]["error"]) for row in some])))
            for key in ("answer", "laws_alone", "best_law")
        }
    return told


def unpacked(commit: str, place: Path) -> Path:
    """The analysis of a commit."""
    packed = subprocess.run(["git", "archive", commit, "analysis"], cwd=ROOT, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=BytesIO(packed)) as archive:
        archive.extractall(place, filter="data")
    return place


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder of the public tables")
    parser.add_argument("--before", default=BEFORE, help="a commit (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=2, help="draws of the rows that are held out")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as place:
        code = unpacked(arguments.before, Path(place))
        for name, runs in tables(arguments.data):
            for seed in range(arguments.seeds):
                for split, held in splits(runs, seed):
                    if seed and split != "one in five":
                        continue  # it is the same again
                    parts = runs.take(~held), runs.take(held)
                    row = {"table": name, "rows": len(runs), "split": split, "seed": seed}
                    rows.append(row | {"now": now(*parts), "before": before(code, *parts)})
                    print(json.dumps(rows[-1]), flush=True)
    result = {
        "command": f"python -m benchmarks.analysis_dense --data FOLDER --seeds {arguments.seeds}",
        "before": arguments.before,
        "device": platform.machine(),
        "python": platform.python_version(),
        "geometric_mean_of_error_over_before": summarise(rows),
        "rows": rows,
    }
    print(json.dumps(result["geometric_mean_of_error_over_before"], indent=1))
    write_json(ROOT / "benchmarks" / "results" / "analysis_dense.json", result)


if __name__ == "__main__":
    main()
