"""How big, how sparse, for how many epochs? A grid of small models on two cores, and the answer
that their losses give.

Run it: `python sweeps/grid.py` (or `make sweep`). It trains every combination of size, density,
unique tokens and epochs below, fits the scaling law, and writes what to train next into the run
folder's report/. Run it again after anything went wrong: it continues. `--plan` says what it will
cost first. The defaults were chosen so that repeating the data visibly stops paying off within a
few minutes of training; they are no study of anything larger.
"""

from __future__ import annotations

import argparse
import sys

from raysparse.console import arguments, cli
from raysparse.data.tokenizer import vocab_size
from raysparse.spec import DataSpec, Placement
from raysparse.sweep.budget import Budget
from raysparse.sweep.plan import Plan
from raysparse.sweep.planners.grid import grid
from raysparse.sweep.planners.recipe import Recipe

SIZES = ["laptop-xs", "laptop-s", "laptop-m"]
DENSITIES = [1.0, 0.5, 0.25]
UNIQUE_TOKENS = [50_000, 150_000]
EPOCHS = [1, 3, 9]  # laptop-m is at its best after 4 to 8 passes over either, and worse after more


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--plan", nargs="?", const="", metavar="FILE", help="print the plan and its cost, run nothing; write it to FILE"
    )
    parser.add_argument(
        "--max-flops", type=float, help="never compute more than this in all (the cheapest trials are kept)"
    )
    question = parser.add_argument_group("the question")
    question.add_argument(
        "--sizes", nargs="+", default=SIZES, help="names of raysparse/ladder.py (default: %(default)s)"
    )
    question.add_argument(
        "--densities", nargs="+", type=float, default=DENSITIES, help="share of weights kept (%(default)s)"
    )
    question.add_argument("--unique-tokens", nargs="+", type=int, default=UNIQUE_TOKENS, help="(%(default)s)")
    question.add_argument("--epochs", nargs="+", type=float, default=EPOCHS, help="passes over them (%(default)s)")
    question.add_argument("--seeds", nargs="+", type=int, default=[0])
    question.add_argument("--method", default="smet", help="dense, static, set, rigl, smet, smet_grad (%(default)s)")
    question.add_argument("--corpus", default="python", help="a name, path, glob, or hf:NAME (%(default)s)")
    question.add_argument("--tokenizer", default="bytes", help="bytes, bpe:VOCABULARY, or hf:NAME (%(default)s)")
    question.add_argument("--validation-tokens", type=int, default=32_768, help="held out (%(default)s)")
    question.add_argument("--context", type=int, default=128, help="tokens a sequence (%(default)s)")
    question.add_argument("--batch-sequences", type=int, default=4, help="sequences a step (%(default)s)")
    arguments.add_engine_arguments(parser)
    arguments.add_run_arguments(parser, name="grid")
    parser.add_argument("--workers", type=int, default=1, help="processes that train one trial together (%(default)s)")
    return parser


def make_plan(args: argparse.Namespace) -> Plan:
    sparsity, optimizer = arguments.engine_from(args)
    recipe = Recipe(
        vocab_size=vocab_size(args.tokenizer),
        method=args.method,
        context=args.context,
        evaluations=4,
        data=DataSpec(corpus=args.corpus, tokenizer=args.tokenizer, validation_tokens=args.validation_tokens),
        sparsity=sparsity.replace(update_every=20),
        optimizer=optimizer,
        precision=args.precision,
    )
    specs = grid(
        recipe,
        sizes=args.sizes,
        densities=args.densities,
        unique_tokens=args.unique_tokens,
        epochs=args.epochs,
        seeds=args.seeds,
    )
    placement = Placement(workers=args.workers, device="cuda" if args.gpus else "cpu", resident=args.resident)
    return Plan(specs=specs, placement=placement, budget=Budget(total=args.max_flops))


def answer(args: argparse.Namespace, *, again: bool) -> None:
    """Fit the law to the results and print what it says; the answer is kept, and printed again when
    nothing was run since.
    """
    results = cli.run_folder(args)
    report = results.report
    if again or not report.exists("answer.txt"):
        from analysis.show.report import write_report
        from raysparse.results import Results

        written = write_report(Results(results).table(), report.local_path, title=f"Grid sweep {args.name!r}")
        report.write("answer.txt", written.summary.encode())
    print(f"\n{report.read('answer.txt').decode()}\nreport: {report.uri}/report.html")


@cli.guarded
def main() -> int:
    args = make_parser().parse_args()
    plan = make_plan(args)
    if args.plan is not None:
        cli.show_plan(plan, args)
        if args.plan:
            cli.save_plan(plan, args.plan)
        return 0
    summary = cli.run_plan(plan, args)
    answer(args, again=summary.ran > 0)
    return 1 if summary.unfinished else 0


if __name__ == "__main__":
    sys.exit(main())
