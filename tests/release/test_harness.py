"""lm-eval over our adapter, over an export through its own `hf` model, and our own number: one."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from raysparse.release import evaluate
from raysparse.release.export import export
from raysparse.release.opened import open_model
from raysparse.release.task_file import TASK, write_task

lm_eval = pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install '.[harness]'")


@pytest.fixture(scope="module")
def adapter(run):
    from raysparse.release.harness import RaysparseLM

    return RaysparseLM(path=run.uri, batch_size=1)


class Request:
    def __init__(self, *args):
        self.args = args


def bits_per_byte(task_folder, model, **arguments) -> float:
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    found = simple_evaluate(
        model=model, model_args=arguments, tasks=[TASK], task_manager=TaskManager(include_path=str(task_folder)),
        bootstrap_iters=0,
    )  # fmt: skip
    return found["results"][TASK]["bits_per_byte,none"]


def test_three_ways_to_bits_per_byte_agree(run, tmp_path):
    import raysparse.release.harness  # noqa: F401  (makes the model known)

    opened = open_model(run.uri)
    ours = evaluate.held_out_by_document(opened).bits_per_byte
    write_task(opened, tmp_path / "task")
    folder = export(opened, str(tmp_path / "out"))
    adapter = bits_per_byte(tmp_path / "task", "raysparse", path=run.uri)
    hf = bits_per_byte(tmp_path / "task", "hf", pretrained=str(folder), device="cpu", dtype="float32")
    assert adapter == pytest.approx(ours, abs=1e-4)
    assert hf == pytest.approx(ours, abs=1e-4)


def test_the_likelihood_of_a_continuation_is_that_of_its_tokens(adapter):
    pairs = [("the tree", " of a"), ("", "small"), ("the " * 20, "house"), ("a ", "b")]
    found = adapter.loglikelihood([Request(*pair) for pair in pairs], disable_tqdm=True)
    model = adapter.opened.model
    for (context, continuation), (likelihood, greedy) in zip(pairs, found, strict=True):
        text = ([*context.encode()] or [256]) + [*continuation.encode()]
        text = text[-(adapter.max_length + 1) :]
        logits = model.hidden(torch.tensor([text[:-1]]))[0] @ model.head.t()
        scored = len(continuation.encode()) + context.endswith(" ")  # lm-eval counts a last space to what follows
        expected = -F.cross_entropy(logits[-scored:], torch.tensor(text[-scored:]), reduction="sum").item()
        assert likelihood == pytest.approx(expected, abs=1e-3)
        assert greedy == (logits[-scored:].argmax(dim=1).tolist() == text[-scored:])


def test_generation_stops_where_a_task_says(adapter):
    whole = adapter.generate_until([Request("the tree", {"until": [], "max_gen_toks": 20})])[0]
    end = whole[5:7]
    cut = adapter.generate_until([Request("the tree", {"until": [end], "max_gen_toks": 20})])[0]
    assert cut == whole[: whole.index(end)]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to compute on")
def test_the_device_of_lm_evals_command_line_is_a_wish_where_there_is_no_gpu(run, caplog):
    from raysparse.release.harness import RaysparseLM

    assert RaysparseLM(path=run.uri, device="cuda:0").opened.device.type == "cpu"
    assert "torch finds no GPU here: computing on the CPU" in caplog.text


def test_a_mistake_in_the_arguments_is_told(run):
    from raysparse.release.harness import RaysparseLM

    with pytest.raises(ValueError, match="--model_args pth is unknown; expected path"):
        RaysparseLM(path=run.uri, pth="x")
