"""From the table back to a trial: what is recommended can be trained, costs at most the budget, and
is compared with its prediction.
"""

from __future__ import annotations

import math
import shutil
from types import SimpleNamespace

import pytest

from analysis.show.best import short
from raysparse import counts, ladder
from raysparse.console import cli, script
from raysparse.console.training import train_recommended
from raysparse.files import Folder
from raysparse.placement import Placement
from raysparse.results import Evaluation, Outcome, Results, make_row
from raysparse.run_folder import RunFolder
from raysparse.spec import DataSpec, OptimizerSpec, SparsitySpec, TrialSpec
from raysparse.sweep import runner
from raysparse.sweep.plan import Plan, load
from raysparse.sweep.planners.grid import grid
from raysparse.sweep.planners.recipe import Recipe
from raysparse.sweep.planners.recommended import answer_of, trial_of
from raysparse.sweep.settings import Settings

RECIPE = Recipe(
    vocab_size=257, context=128, sparsity=SparsitySpec(update_every=20), optimizer=OptimizerSpec(batch_sequences=4)
)
DECAYS = [0.3, 1.0, 3.0, 10.0]


def loss_of(spec: TrialSpec) -> float:
    """A smooth truth: larger is better, weight decay 2 is best, and helps more the more epochs."""
    size = counts.parameters(spec.model, spec.sparsity).active_non_embedding
    off = math.log(spec.optimizer.weight_decay / 2.0) ** 2
    return 2.0 + 0.3 * (1e5 / size) ** 0.3 + 0.4 / spec.data.epochs**0.7 + 0.01 * off * spec.data.epochs**0.5


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> RunFolder:
    """A finished sweep of 48 trials, without the training."""
    found = RunFolder.named(Folder(tmp_path_factory.mktemp("storage")), "grid")
    specs = grid(
        RECIPE, sizes=["laptop-xs", "laptop-s", "laptop-m"], densities=[1.0, 0.25], unique_tokens=[50_000],
        epochs=[3, 9], settings={"optimizer.weight_decay": DECAYS},
    )  # fmt: skip
    Plan(specs=specs).save(found)
    for spec in specs:
        end = Evaluation(spec.steps, spec.tokens, loss_of(spec))
        outcome = Outcome(
            status="completed", validation_loss=end.loss, evaluations=(end,), steps=spec.steps, tokens=spec.tokens,
            seconds=1.0,
        )  # fmt: skip
        Results(found).record(make_row(spec, Placement(), outcome))
    return found


def test_a_setting_of_whole_numbers_stays_one(tmp_path):
    found = RunFolder.named(Folder(tmp_path), "grid")
    sizes = {"sizes": ["laptop-xs"], "densities": [1.0, 0.5], "unique_tokens": [8_000], "epochs": [1, 2, 4]}
    for spec in grid(RECIPE, **sizes, settings={"optimizer.batch_sequences": [2, 4, 8]}):
        loss = 2.0 + 0.1 * math.log(spec.optimizer.batch_sequences / 3.0) ** 2 + 0.1 / spec.data.epochs
        end = Evaluation(spec.steps, spec.tokens, loss)
        outcome = Outcome(
            status="completed", validation_loss=loss, evaluations=(end,), steps=spec.steps, tokens=spec.tokens
        )
        Results(found).record(make_row(spec, Placement(), outcome))
    best = answer_of(Results(found).table())
    assert trial_of(best.best, Results(found).rows(), best).optimizer.batch_sequences in range(2, 9)


def test_what_is_recommended_is_a_trial_within_the_budget(folder):
    rows = Results(folder).rows()
    best = answer_of(Results(folder).table())
    for choice in (best.dense, best.sparse):
        spec = trial_of(choice, rows, best, seed=7)
        assert counts.flops(spec)[0] <= best.budget
        assert spec.trial_id not in {row["trial_id"] for row in rows}
        assert (spec.seed, spec.data.unique_tokens) == (7, 50_000)
        assert spec.optimizer.weight_decay == pytest.approx(choice.settings["weight_decay"].value)
        assert (spec.sparsity.method == "dense") == (choice is best.dense)
    assert 1.0 < best.best.settings["weight_decay"].value < 4.0
    assert best.best.loss.low <= loss_of(trial_of(best.best, rows, best)) <= best.best.loss.high


def test_a_smaller_budget_is_kept_too(folder):
    rows, table = Results(folder).rows(), Results(folder).table()
    budget = sorted(row["flops_active"] for row in rows)[10]
    best = answer_of(table, budget=budget)
    assert counts.flops(trial_of(best.best, rows, best))[0] <= budget


def test_a_size_gets_the_rate_of_its_own_shape(folder):
    best = answer_of(Results(folder).table())
    spec = trial_of(best.best, Results(folder).rows(), best)
    assert spec.optimizer.lr == ladder.dense_lr(spec.model)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train"], "train what?"),
        (["train", "--from", "nowhere"], "not a run folder"),
        (["train", "--from", "{folder}", "--row", "zzz"], "names 0 trials"),
        (["train", "--from", "{folder}", "--budget", "1"], "budget"),
        (["train", "--from", "{folder}", "--budget", "0"], "--budget is 0, expected a positive number"),
        (["train", "--from", "{folder}", "--budget", "-5"], "--budget is -5, expected a positive number"),
        (["train", "--from", "{folder}", "--set", "optimizer.clip=1"], "--set optimizer.clip=1 and --from"),
        (["train", "--from", "{folder}", "--precision", "bf16"], "--precision bf16 and --from"),
        (["train", "--from", "{folder}", "--balanced"], "--balanced and --from"),
        (["train", "--from", "{folder}", "--context", "128"], "--context 128 and --from"),  # the usual one
        (["train", "laptop-xs", "--from", "{folder}"], "SIZE laptop-xs and --from"),
        (["train", "--from", "{folder}", "--storage", "elsewhere"], "--storage elsewhere and --from"),
        (["train", "--from", "{folder}", "--row", "zzz", "--method", "set"], "--method set and --from"),
    ],
)
def test_a_mistake_is_one_line(arguments, message, folder, capsys):
    assert cli.main([word.format(folder=folder.uri) for word in arguments]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_a_folder_with_too_few_rows_recommends_nothing(tmp_path, capsys):
    found = RunFolder.named(Folder(tmp_path), "begun")
    Plan(specs=(RECIPE.spec("laptop-xs", 1.0, 50_000, 3),)).save(found)
    assert cli.main(["train", "--from", found.uri]) == 2
    assert "recommends nothing; run its sweep first" in capsys.readouterr().err


def test_what_was_recommended_earlier_stays_behind_what_is_now(folder, tmp_path, monkeypatch, capsys):
    """A sweep that grew recommends something else; the models' folder keeps what it holds."""
    shutil.copytree(folder.local_path, tmp_path / "grid")
    models, seen = RunFolder.named(Folder(tmp_path), "grid-model"), {}
    earlier = RECIPE.spec("laptop-xs", 0.25, 50_000, 4)
    Plan(specs=(earlier,)).save(models)

    def run(plan, storage, name, settings, *, only, **_):
        seen.update(plan=plan, name=name, only=only)
        raise ValueError("far enough")

    monkeypatch.setattr(runner, "run", run)
    where = ["train", "--from", str(tmp_path / "grid")]
    monkeypatch.chdir(tmp_path / "grid")
    assert cli.main(["train", "--from", "."]) == 2
    assert seen["name"] == "grid-model", "a folder that is said as . has a name"
    assert cli.main(where) == 2
    plan = seen["plan"]
    assert plan.specs[1:] == (earlier,)
    assert (seen["name"], seen["only"]) == ("grid-model", [plan.specs[0].trial_id])
    plan.save(models)
    args = script.parser("", name="grid").parse_args(["--storage", str(tmp_path)])
    with pytest.raises(ValueError, match="far enough"):
        train_recommended(args, RunFolder.named(Folder(tmp_path), "grid"), both=True)
    both = seen["plan"].specs
    assert (both[0], both[2:], len(seen["only"])) == (plan.specs[0], (earlier,), 2)
    seen["plan"].save(models)
    assert cli.main(where) == 2
    assert seen["plan"].specs == (both[0], both[1], earlier)
    assert seen["only"] == [both[0].trial_id], "the other kind is not asked for now"
    assert cli.main([*where, "--name", "mine"]) == 2
    assert (seen["name"], seen["plan"].specs) == ("mine", both[:1])


def test_the_recommendation_is_trained_and_compared(corpus, tmp_path, capsys):
    """Real trials, seconds each: a sweep, then `raysparse train --from` it, twice."""
    recipe = Recipe(
        vocab_size=257, context=64, data=DataSpec(corpus=corpus, validation_tokens=1_000),
        sparsity=SparsitySpec(update_every=5), optimizer=OptimizerSpec(batch_sequences=4),
    )  # fmt: skip
    specs = grid(
        recipe, sizes=["laptop-xs"], densities=[1.0, 0.5], unique_tokens=[4_097], epochs=[1, 2],
        settings={"optimizer.weight_decay": [0.1, 1.0]},
    )  # fmt: skip
    runner.run(Plan(specs=specs), Folder(tmp_path), "small", Settings(executor="inline"))
    assert cli.main(["train", "--from", str(tmp_path / "small"), "--again"]) == 2
    assert "small-model has no model that was trained from this sweep; leave --again out" in capsys.readouterr().err
    assert cli.main(["train", "--from", str(tmp_path / "small")]) == 0
    said = capsys.readouterr().out
    assert "recommended: " in said
    assert "predicted " in said
    assert "measured " in said
    [row] = Results(RunFolder.named(Folder(tmp_path), "small-model")).rows()
    assert row["seed"] == 1, "a seed that the sweep did not use"
    args = script.parser("", name="small").parse_args(["--storage", str(tmp_path), "--executor", "inline"])
    assert train_recommended(args, RunFolder.named(Folder(tmp_path), "small"), both=True) == 0
    said = capsys.readouterr().out
    assert said.count("recommended: ") == 1
    assert "dense minus sparse: predicted " in said
    assert "\nwith both in the table, sparsity: " in said
    assert f"(`raysparse train --from {RunFolder.named(Folder(tmp_path), 'small').uri} --again` does)" in said
    assert ("best dense: " in said) != ("best sparse: " in said), "the other kind, and not the recommended one again"
    assert cli.main(["train", "--from", str(tmp_path / "small")]) == 0
    assert "nothing to do: 1 of 1 trials are finished already" in capsys.readouterr().out, "one of the two"
    models = RunFolder.named(Folder(tmp_path), "small-model")
    plan = load(models)
    plan.replace(specs=plan.specs[::-1]).save(models)  # as if the other had been recommended then
    assert cli.main(["train", "--from", str(tmp_path / "small")]) == 0
    assert load(models).specs == plan.specs, "the first is the recommended one, also where nothing is to be trained"
    capsys.readouterr()
    again = ["train", "--from", str(tmp_path / "small"), "--row", specs[0].trial_id]
    assert cli.main([*again, "--seed", "5"]) == 0
    assert f"trial {specs[0].replace(seed=5).trial_id}" in capsys.readouterr().out


def test_a_row_is_trained_again_as_it_is_told_to_be_and_named_so(folder, monkeypatch, capsys):
    """Every field can be changed, those with an argument of their own by it."""
    seen = []

    def run(plan, *_, **__):
        seen.extend(plan.specs)
        raise ValueError("far enough")

    monkeypatch.setattr(runner, "run", run)
    specs = load(folder).specs
    row, sparse = specs[0], next(spec.sparsity for spec in specs if spec.sparsity.density < 1)
    assert row.sparsity.method == "dense"
    again = ["train", "--from", folder.uri, "--row", row.trial_id]
    changes = ["--epochs", "4", "--density", ".5", "--set", "optimizer.weight_decay=0.7", "--seed", str(row.seed)]
    assert cli.main(again) == cli.main([*again, *changes]) == 2
    same, other = seen
    assert (same, same.name) == (row, row.name)
    assert (other.data.epochs, other.sparsity.density, other.optimizer.weight_decay) == (4.0, 0.5, 0.7)
    assert other.sparsity == sparse.replace(density=0.5), "a dense row that becomes sparse is like the sparse ones"
    assert other.sparsity.update_every != SparsitySpec().update_every
    assert other.name == f"{row.name}, again with density=0.5 epochs=4.0 weight_decay=0.7"
    assert "far enough" in capsys.readouterr().err
    of_another = sparse.replace(method="set")
    monkeypatch.setattr(
        "raysparse.sweep.plan.load", lambda _: Plan(specs=(*specs, specs[0].replace(sparsity=of_another)))
    )
    assert cli.main([*again, "--density", ".5"]) == 2
    assert "have 2 rules (set of layout element, smet of layout element); say which" in capsys.readouterr().err
    assert cli.main([*again, "--density", ".5", "--set", "sparsity.method=set"]) == 2
    assert seen[-1].sparsity == of_another.replace(density=0.5)
    tiles = sparse.replace(layout="tile", block=16)
    monkeypatch.setattr("raysparse.sweep.plan.load", lambda _: Plan(specs=(*specs, specs[0].replace(sparsity=tiles))))
    assert cli.main([*again, "--density", ".5", "--set", "sparsity.layout=element"]) == 2
    assert seen[-1].sparsity == sparse.replace(density=0.5), "said, though the dense trial has it too"


def test_what_would_be_trained_is_what_again_trains(folder, tmp_path, monkeypatch, capsys):
    """A smaller sweep's model lies there too: `--again` heeds it, so what is printed does."""
    shutil.copytree(folder.local_path, tmp_path / "grid")
    sweep, models = (RunFolder.named(Folder(tmp_path), name) for name in ("grid", "grid-model"))
    earlier = RECIPE.spec("laptop-m", 0.25, 50_000, 9, seed=3, settings={"optimizer.weight_decay": 1.9})

    def train(spec, loss):
        outcome = Outcome(status="completed", validation_loss=loss, steps=spec.steps, tokens=spec.tokens, seconds=1.0)
        Results(models).record(make_row(spec, Placement(), outcome))

    def run(plan, storage, name, settings, *, only, **_):
        plan.save(models)
        for spec in plan.specs:
            if spec.trial_id in only:
                train(spec, loss_of(spec))
        return runner.Summary(models, len(only), len(only), len(only), 0, {})

    Plan(specs=(earlier,)).save(models)
    train(earlier, 3.0)
    monkeypatch.setattr(runner, "run", run)
    args = script.parser("", name="grid").parse_args(["--storage", str(tmp_path)])
    assert train_recommended(args, sweep, both=True) == 0
    now = answer_of(Results(sweep).table(), trained=Results(models).table())
    assert f"and it would train: {short(now.best)} (" in capsys.readouterr().out


def test_again_heeds_what_was_trained_and_trains_another(folder, tmp_path, monkeypatch, capsys):
    """The models' rows teach, and ask nothing: the budget is still that of the sweep."""
    shutil.copytree(folder.local_path, tmp_path / "grid")
    sweep, models = (RunFolder.named(Folder(tmp_path), name) for name in ("grid", "grid-model"))
    best = answer_of(Results(sweep).table())
    spec = trial_of(best.best, Results(sweep).rows(), best, seed=7)
    spec = spec.replace(data=spec.data.replace(epochs=2 * spec.data.epochs))  # dearer than the budget
    Plan(specs=(spec,)).save(models)
    outcome = Outcome(status="completed", validation_loss=9.0, steps=spec.steps, tokens=spec.tokens, seconds=1.0)
    Results(models).record(make_row(spec, Placement(), outcome))
    seen = {}

    def run(plan, storage, name, settings, **_):
        seen.update(plan=plan, name=name)
        raise ValueError("far enough")

    monkeypatch.setattr(runner, "run", run)
    assert cli.main(["train", "--from", str(tmp_path / "grid"), "--again"]) == 2
    assert "far enough" in capsys.readouterr().err
    again, earlier = seen["plan"].specs
    assert (seen["name"], earlier, again.seed) == ("grid-model", spec, 8)
    assert counts.flops(again)[0] <= best.budget * 1.001
    assert cli.main(["train", "laptop-xs", "--again"]) == 2
    assert "--again says nothing of SIZE laptop-xs" in capsys.readouterr().err


def test_an_answer_is_kept_until_the_analysis_is_another_one(folder, tmp_path, monkeypatch, capsys):
    shutil.copytree(folder.local_path, tmp_path / "grid")
    args = script.parser("", name="grid").parse_args(["--storage", str(tmp_path)])
    made = []

    def write_report(table, place, *, title, beside):
        made.append(title)
        return SimpleNamespace(summary=f"answer {len(made)}")

    monkeypatch.setattr("analysis.show.report.write_report", write_report)
    for _ in range(2):
        script.report(args, title="Grid")
        assert "\nanswer 1\n" in capsys.readouterr().out
    monkeypatch.setattr(script, "_fingerprint", lambda package: "newer")
    for _ in range(2):
        script.report(args, title="Grid")
        assert "\nanswer 2\n" in capsys.readouterr().out
