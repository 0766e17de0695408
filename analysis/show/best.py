"""The answer with settings as lines for a terminal: the verdict first, then what it rests on."""

from __future__ import annotations

from collections.abc import Mapping

from analysis.answer.choice import BestRun, Choice, Measured, Refused
from analysis.answer.recommend import Interval
from analysis.answer.settle import Settling
from raysparse.units import count


def lines(best: BestRun | Refused, settling: Settling | None = None) -> list[str]:
    """What to train, what to expect, dense beside sparse and what would tell them apart, the best
    measured runs, warnings; or why there is no answer.
    """
    asked = f"for {count(best.unique)} unique tokens and at most {best.budget:.3g} {best.unit}"
    if isinstance(best, Refused):
        return [f"{asked}: no answer: {best.reason}"]
    told = [
        f"{asked}, train:",
        *_choice(best.best, best.unit),
        verdict(best),
        *_settling(settling),
    ]
    for name, choice in (("dense", best.dense), ("sparse", best.sparse)):
        if choice is not None:
            told.append(f"best {name}: {short(choice)}")
    if best.rows:
        told.append("best measured runs within the budget (measured / expected, nats per token):")
        told += [f"  {_row(row, best.unit)}" for row in best.rows]
    return told + [f"warning: {warning}" for warning in best.warnings]


def _choice(choice: Choice, unit: str) -> list[str]:
    named = {"active parameters": choice.active, "density": choice.density, "epochs": choice.epochs, **choice.settings}
    width = max(len(name) for name in [*named, "loss of one run"])
    told = [f"  {name:{width}}  {_interval(value)}" for name, value in named.items()]
    told.append(f"  {'loss of one run':{width}}  {_loss(choice.loss)} nats per token")
    told.append(f"  {'cost':{width}}  {choice.cost:.3g} {unit}")
    return told


def verdict(best: BestRun) -> str:
    """What the table says of dense beside sparse, a line."""
    if best.difference is None:
        return "sparsity: not compared, because only one of dense and sparse is in the table, the box and the budget"
    own = "size, epochs and settings" if best.best.settings else "size and epochs"
    gain = f"dense minus sparse {_loss(best.difference)} nats, each at its own best {own}"
    if not best.shown:
        return f"sparsity: no difference shown ({gain})"
    return f"sparsity: {'better' if best.difference.value > 0 else 'worse'} ({gain})"


def _settling(found: Settling | None) -> list[str]:
    if found is None:
        return []
    trials = ", ".join(f"{name} with {seeds} new seed{'s' * (seeds > 1)}" for name, seeds in found.trials)
    return [
        f"what would settle it: {trials}; {found.cost:.3g} {found.unit} would bring the difference from "
        f"±{found.before:.3f} to ±{found.after:.3f} nats, if the model holds"
    ]


def short(choice: Choice) -> str:
    """A run and the loss of one training, in a line."""
    settings = "".join(f", {name} {value.value:.3g}" for name, value in choice.settings.items())
    return (
        f"{count(choice.active.value)} active, density {choice.density.value:.3g}, "
        f"{choice.epochs.value:.3g} epochs{settings}: loss {_loss(choice.loss)}"
    )


def _row(row: Measured, unit: str) -> str:
    return (
        f"{row.row}: {count(row.active)} active, density {row.density:.3g}, {row.epochs:.3g} epochs"
        f"{_settings(row.settings)}: {row.loss:.3f} / {row.expected:.3f}, {row.cost:.3g} {unit}"
    )


def _settings(settings: Mapping[str, float]) -> str:
    return "".join(f", {name} {value:.3g}" for name, value in settings.items())


def _interval(value: Interval) -> str:
    if value.value >= 1e4:
        return f"{count(value.value)} [{count(value.low)}, {count(value.high)}]"
    return f"{value.value:.3g} [{value.low:.3g}, {value.high:.3g}]"


def _loss(value: Interval) -> str:
    return f"{value.value:.3f} [{value.low:.3f}, {value.high:.3f}]"
