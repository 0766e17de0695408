"""The command line: verbs print what they should, mistakes are one clear line, and nothing heavy is
imported too early.
"""

import json
import subprocess
import sys

import pytest

from raysparse.console import cli, script
from raysparse.files import Folder
from raysparse.run_folder import RunFolder
from raysparse.sweep import runner
from tests.conftest import REPOSITORY
from tests.sweep.plans import small_plan


def python(*arguments: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=120, cwd=REPOSITORY, **options
    )


def test_importing_the_command_line_imports_neither_torch_nor_ray():
    code = (
        "import sys, raysparse.console.cli; print([m for m in ('torch', 'ray', 'pyarrow', 'numpy', "
        "'rich') if m in sys.modules])"
    )
    assert python("-c", code).stdout.strip() == "[]"


@pytest.mark.parametrize("verb", [[], ["plan"], ["sweep"], ["status"], ["train"], ["memory"], ["doctor"]])
def test_every_verb_explains_itself(verb, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main([*verb, "--help"])
    assert ended.value.code == 0
    assert "usage: raysparse" in capsys.readouterr().out


def test_plan_prints_the_plan_and_its_cost(tmp_path, capsys):
    file = tmp_path / "plan.json"
    script.save_plan(small_plan("text"), str(file))
    assert cli.main(["plan", str(file)]) == 0
    printed = capsys.readouterr().out
    assert "4 trials" in printed
    assert "laptop-xs" in printed
    assert "executed" in printed
    assert all(len(line) <= 80 for line in printed.splitlines())
    assert "…" not in printed, "nothing is cut on a terminal of 80 columns"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--slots", "-1"], "--slots is -1, expected 0 (as many as fit) or more"),
        (["--price-per-hour", "-3"], "--price-per-hour is -3.0, expected 0 (not known) or more"),
    ],
)
def test_a_plan_has_no_negative_time_or_cost(arguments, message, tmp_path, capsys):
    small_plan("text").save(RunFolder(tmp_path))
    assert cli.main(["plan", str(tmp_path), *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plan", "nowhere.json"], "there is no plan 'nowhere.json'"),
        (["status", "nowhere"], "not a run folder"),
        (["train", "laptop-xs", "--density", "1.5"], "sparsity.density is 1.5, expected a fraction in (0, 1]"),
        (["train", "laptop-xs", "--density", "0.5", "--method", "dense"], "use density 1 or a sparse method"),
        (
            ["train", "laptop-xs", "--layout", "tile", "--block", "64"],
            "does not divide layers.0.attention.query of 32 x 32",
        ),
        (["train", "laptop-xs", "--row", "zzz"], "--row zzz says nothing of SIZE laptop-xs, which trains from scratch"),
        (["train", "laptop-xs", "--budget", "3"], "--budget 3.0 says nothing of SIZE"),
        (["train", "laptop-xs", "--epochs", "+2"], "--epochs +2 says nothing of SIZE"),
        (["train", "laptop-xs", "--balanced"], "sparsity.balanced is for layout 'tile', not 'element'"),
        (["memory", "--model", "60m"], "size '60m' could be dc-60m or smet-60m; give the whole name"),
        (["train", "laptop-xs", "--tokenizer", "words"], "tokenizer 'words' is unknown"),
        (["train", "laptop-xs", "--device", "cuda:9"], "placement.device is 'cuda:9', but torch finds"),
        (["train", "laptop-xs", "--device", "gpu"], "placement.device is 'gpu', expected cpu, cuda, or cuda:NUMBER"),
        (["train", "laptop-xs", "--micro-batch", "-1"], "placement.micro_batch is -1, expected 0"),
        (
            ["train", "laptop-xs", "--compile", "--recompute", "mlp"],
            "placement.recompute is 'mlp' and placement.compile is on",
        ),
    ],
)
def test_a_mistake_is_one_line_and_status_2(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.startswith("error: ")
    assert len(captured.err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"


@pytest.mark.parametrize(
    "command",
    [
        ["train", "--from", "runs/grid", "--row", ""],
        ["train", "laptop-xs", "--from", ""],
        ["train", "laptop-xs", "--epochs", ""],
        ["ensemble", "runs/grid", "--row", ""],
    ],
)
def test_an_empty_word_is_refused(command, capsys):
    """As a shell's variable that was never set: it must not train what was not asked for."""
    with pytest.raises(SystemExit, match="2"):
        cli.main(command)
    assert f"argument {command[-2]}: is empty, expected a value" in capsys.readouterr().err


def test_a_price_is_asked_only_where_a_plan_is_printed(capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["sweep", "plan.json", "--price-per-hour", "2"])
    assert "unrecognized arguments: --price-per-hour 2" in capsys.readouterr().err


def test_our_own_mistakes_keep_their_traceback():
    @script.guarded
    def broken() -> int:
        raise RuntimeError("ours")

    with pytest.raises(RuntimeError, match="ours"):
        broken()


def test_ctrl_c_says_how_to_continue(capsys):
    @script.guarded
    def interrupted() -> int:
        raise KeyboardInterrupt

    assert interrupted() == 130
    assert "again to continue" in capsys.readouterr().err


@pytest.mark.parametrize("engine", ["", "--layout tile --block 16 --balanced --precision bf16_master --resident"])
def test_train_runs_one_trial_and_status_shows_it(engine, corpus, tmp_path, capsys):
    trial = (
        f"train laptop-xs --density 0.5 --unique-tokens 4097 --context 64 --batch-sequences 8 "
        f"--validation-tokens 1000 {engine}"
    )
    assert cli.main([*trial.split(), "--corpus", corpus, "--storage", str(tmp_path), "--name", "one"]) == 0
    assert "1 of 1 trials are finished" in capsys.readouterr().out
    assert cli.main(["status", str(tmp_path / "one")]) == 0
    printed = capsys.readouterr().out
    assert "1 of 1 trials finished, 0 begun, 0 not begun" in printed
    assert "best at laptop-xs" in printed


def test_a_plan_file_is_what_a_run_folder_holds(corpus, tmp_path, capsys):
    file = tmp_path / "plan.json"
    script.save_plan(small_plan(corpus, densities=(1.0,), epochs=(1,)), str(file))
    assert cli.main(["sweep", str(file), "--executor", "inline", "--storage", str(tmp_path), "--name", "run"]) == 0
    assert json.loads((tmp_path / "run" / "plan.json").read_text()) == json.loads(file.read_text())


@pytest.mark.parametrize("place", ["runs/one", "."])
def test_a_run_folder_is_continued_where_it_lies(place, tmp_path, monkeypatch):
    """Its name and storage are those that are not said; --workers is applied, so another number
    than the folder's is refused.
    """
    made, seen = RunFolder.named(Folder(tmp_path / "runs"), "one"), []
    small_plan("text").save(made)
    monkeypatch.setattr(runner, "run", lambda plan, storage, name, *_, **__: seen.append((plan, storage, name)))
    monkeypatch.chdir(made.local_path if place == "." else tmp_path)
    for said in ([], ["--name", "two"], ["--storage", "s"], ["--workers", "2"]):
        with pytest.raises(AttributeError):  # there is no summary to print
            cli.main(["sweep", place, "--executor", "inline", *said])
    places = [(storage.uri, name) for _, storage, name in seen]
    here = made.storage.uri
    assert places == [(here, "one"), (here, "two"), ("s", "one"), (here, "one")]
    assert [plan.placement.workers for plan, *_ in seen] == [1, 1, 1, 2]
    with pytest.raises(ValueError, match="workers is 1 there and 2 here"):
        seen[-1][0].check(made)


def test_doctor_looks_at_everything(tmp_path, capsys):
    assert cli.main(["doctor", "--storage", str(tmp_path / "new")]) == 0
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("Python", "torch", "ray", "CPUs", "storage"))
    (tmp_path / "file").write_text("")
    assert cli.main(["doctor", "--storage", str(tmp_path / "file")]) == 1


def test_the_grid_script_prints_its_plan_without_running(tmp_path):
    where = ("--plan", str(tmp_path / "grid.json"), "--storage", str(tmp_path / "runs"))
    done = python("sweeps/grid.py", *where, "--price-per-hour", "36")
    assert done.returncode == 0, done.stderr
    assert "in money at 36 an hour, " in done.stdout
    plan = json.loads((tmp_path / "grid.json").read_text())
    assert len(plan["specs"]) == 12
    assert plan["planner"]["kind"] == "search"
    assert {spec["sparsity"]["density"] for spec in plan["specs"]} == {1.0, 0.25}
    axes = {axis["name"]: axis for axis in plan["planner"]["space"]["axes"]}
    assert set(axes) == {"size", "density", "epochs", "weight_decay", "lr"}, "what the search may change"
    assert len(axes["size"]["choices"]) == 3
    assert axes["epochs"]["high"] == 18
    assert not (tmp_path / "runs").exists()


def test_a_gpu_can_be_said(capsys, monkeypatch):
    """--gpus means the device, its precision and a worker's part of a card; what contradicts that
    is refused.
    """
    from sweeps import grid

    def plan(*arguments: str):
        return grid.make_plan(grid.make_parser().parse_args(["--sizes", "dc-20m", *arguments]))

    shared = plan("--gpus", "0.25", "--micro-batch", "8", "--checkpoint-seconds", "5")
    place = shared.placement
    assert (place.device, place.device_share, place.micro_batch, place.checkpoint_seconds) == ("cuda", 0.25, 8, 5.0)
    assert {spec.precision for spec in shared.specs} == {"bf16_master"}
    assert {spec.precision for spec in plan("--device", "cuda", "--precision", "bf16").specs} == {"bf16"}
    assert {spec.precision for spec in plan().specs} == {"fp32"}
    assert "H100" in shared.throughput.source or "measured" in shared.throughput.source
    for wrong, message in (
        (["--gpus", "1", "--device", "cpu"], "--gpus is 1"),
        (["--device", "cuda:1"], "--device cuda"),
    ):
        with pytest.raises(ValueError, match=message):
            plan(*wrong)


def test_the_grid_script_refuses_in_one_line(tmp_path):
    done = python("sweeps/grid.py", "--sizes", "huge", "--storage", str(tmp_path / "runs"))
    assert done.returncode == 2
    assert done.stderr.startswith("error: there is no size 'huge'")
    assert len(done.stderr.splitlines()) == 1


def test_ledger_measures_what_it_predicts(capsys):
    """The columns agree for everything that is stored; what a step needs besides is only
    predicted.
    """
    size = ["--model", "laptop-m", "--density", "0.25", "--vocab-size", "257"]
    assert cli.main(["memory", *size, "--resident", "--measure"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line]
    kinds = ("weights", "gradients", "moments", "ages", "layout", "scratch", "resident")
    stored = {line[0]: line[1:3] for line in lines if line[0] in kinds}
    assert len(stored) == len(kinds)
    assert all(predicted == measured for predicted, measured in stored.values())
