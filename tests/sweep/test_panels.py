"""The page of gauges that Ray's dashboard shows: what it answers, and what it draws."""

from __future__ import annotations

import json
import urllib.error
import urllib.request

import pytest

from raysparse.sweep.ray import panels
from raysparse.sweep.ray.panels import PAGE, PORT, Panels, chart
from raysparse.sweep.snapshot import Running, Snapshot


def running(step: int, name: str = "laptop-s <d=0.25>", **what: float | None) -> Running:
    known = {"loss": 5.0 / (1 + step), "validation_loss": None, "tokens_per_second": 1234.0} | what
    return Running(trial_id="a", name=name, size="laptop-s", density=0.25, step=step, steps=10, **known)  # type: ignore[arg-type]


def snapshot(*trials: Running) -> Snapshot:
    return Snapshot(
        statuses={"completed": 2}, running=trials, waiting=3, unaffordable=0, at_work=1, wanted=0, present=(),
        spent=1e12, left=4e12, left_to_spend=3e12, seconds_done=1.0, seconds_left=2.0, best=(),
    )  # fmt: skip


@pytest.fixture
def served():
    made = Panels()
    made.sweep, made.unit = "grid", "active FLOPs"
    yield made
    made.close()


def read(address: str) -> str:
    with urllib.request.urlopen(address, timeout=10) as answer:
        return answer.read().decode()


def test_it_answers_what_the_dashboard_asks_of_a_grafana_and_a_prometheus(served, monkeypatch):
    assert json.loads(read(f"{served.address}/api/health"))["database"] == "ok"
    assert json.loads(read(f"{served.address}/api/v1/query?query=up"))["status"] == "success"
    assert "need Prometheus and Grafana" in read(f"{served.address}/d-solo/rayDefaultDashboard/?panelId=26")
    with pytest.raises(urllib.error.HTTPError, match="404"):
        read(f"{served.address}/metrics")
    assert set(served.environment.values()) == {served.address}
    assert served.told == f"gauges: {served.address}{PAGE} (and in the dashboard, under Metrics)"
    monkeypatch.setenv("RAY_GRAFANA_HOST", "http://grafana:3000")
    assert Panels.of_a_new_ray() is Panels.of_a_cluster() is None, "a Grafana that somebody named is not replaced"


def test_on_a_cluster_the_first_sweep_has_the_page_of_the_dashboard(monkeypatch):
    assert Panels.of_a_cluster() is None, "its Ray was told of none"
    monkeypatch.setenv("RAY_GRAFANA_HOST", f"http://127.0.0.1:{PORT}")
    first, second = Panels.of_a_cluster(), Panels.of_a_cluster()
    try:
        assert "waiting" in read(f"http://127.0.0.1:{PORT}{PAGE}")
        assert first.told.endswith("(and in the dashboard, under Metrics)")
        assert second.told.endswith("(the dashboard has those of another sweep)")
        assert "waiting" in read(second.address + PAGE)
    finally:
        first.close()
        second.close()
    again = Panels.of_a_cluster()
    assert again.address == first.address, "the port is free again"
    again.close()


def test_it_draws_what_runs(served):
    assert "waiting for the first trial" in read(served.address + PAGE)
    for step in (1, 2, 3):
        served.show(snapshot(running(step)))
    page = read(f"{served.address}/d/rayDefaultDashboard/?kiosk=1")
    assert "3 waiting" in page
    assert "2 completed" in page
    assert "1.00e12 active FLOPs spent, 4.00e12 left" in page
    assert "<td>3 of 10<td>1.250<td><td>1,234<td>0.25" in page
    assert "laptop-s &lt;d=0.25&gt;" in page, "names are text"
    assert "<d=0.25>" not in page
    loss, _ = page.split("<polyline")[1:]
    assert loss.count(",") == 3
    assert "tokens per second" in page


def test_curves_are_bounded_and_keep_their_ends(served, monkeypatch):
    monkeypatch.setattr(panels, "MOST_POINTS", 20)
    for step in range(200):
        served.show(snapshot(running(step % 10, loss=float(step))))
    [curve] = served._curves["loss"].values()
    assert len(curve) <= 20
    assert (curve[0][1], curve[-1][1]) == (0.0, 199.0)
    for n in range(12):
        served.show(snapshot(running(1, f"trial {n}")))
    assert list(served._curves["loss"]) == [f"trial {n} [a]" for n in range(4, 12)]


def test_curves_of_running_trials_stay_however_many_there_are(served):
    trials = [running(1, f"trial {n}") for n in range(12)]
    for _ in range(5):
        served.show(snapshot(*trials))
    assert [len(curve) for curve in served._curves["loss"].values()] == [5] * 8
    served.show(snapshot(*trials[6:]))
    assert list(served._curves["loss"])[-4:] == [f"trial {n} [a]" for n in range(8, 12)], "as others end"


@pytest.mark.parametrize("curve", [[(0.0, 1.0)], [(0.0, 0.0)], [(0.0, 2.0), (5.0, 2.0)]])
def test_a_flat_curve_or_a_single_point_is_drawn(curve):
    assert "nan" not in chart("loss", {"one": curve})
    assert chart("loss", {}) == ""
