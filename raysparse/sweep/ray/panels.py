"""A page of a sweep's gauges, which Ray's dashboard shows under "Metrics" where no Grafana is.

Ray embeds there what RAY_GRAFANA_HOST serves, once that address and RAY_PROMETHEUS_HOST have
answered a question each. This small server gives both answers and draws the record that a sweep's
view and gauges show. The Ray that a sweep starts for itself is given a free port; on a cluster
Ray's head was told of one before any sweep, so the script that runs there takes that one. It
listens on the loopback interface only and stands aside for whoever has named a Grafana. Left out:
Ray's own charts, which need the real ones, and anything before this session.
"""

from __future__ import annotations

import errno
import html
import json
import os
import sys
import threading
import time
from collections.abc import Container, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from raysparse.sweep.snapshot import Running, Snapshot
from raysparse.units import amount

GRAFANA, PROMETHEUS = "RAY_GRAFANA_HOST", "RAY_PROMETHEUS_HOST"
PORT = 8266  # of a cluster's head; its files name it to Ray
PAGE = "/d/sweep"
ANSWERS = {"/api/health": {"database": "ok"}, "/api/v1/query": {"status": "success", "data": {"result": []}}}
NOT_HERE = "Charts of Ray itself need Prometheus and Grafana; the page Metrics has the sweep's."
EMBEDDED = "and in the dashboard, under Metrics"
TAKEN = "the dashboard has those of another sweep"
REFRESH = 2  # seconds between looks of a browser
MOST_CURVES, MOST_POINTS = 8, 300
WIDTH, HEIGHT, LEFT, BELOW = 560, 220, 56, 24  # of a chart, and its margins, pixels
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999")
STYLE = """
body {font: 14px sans-serif; margin: 16px; color: #222; background: #fff}
h1 {font-size: 18px; margin: 0 0 4px}
h2 {font-size: 14px; margin: 12px 0 4px}
td, th {padding: 2px 12px 2px 0; text-align: right}
td:first-child, th:first-child {text-align: left}
.charts {display: flex; flex-wrap: wrap; gap: 16px}
text {font-size: 11px; fill: #444}
"""

Curve = list[tuple[float, float]]  # (seconds since the session began, value)


class Panels:
    """The server, from the moment it is made until `close`. `sweep` and the `unit` of its budget
    are set by who runs it; it knows nothing before `show`.
    """

    def __init__(self, port: int = 0) -> None:
        self.sweep, self.unit = "", ""
        self._now: Snapshot | None = None
        self._began, self._lock = time.monotonic(), threading.Lock()
        self._curves: dict[str, dict[str, Curve]] = {"loss": {}, "tokens_per_second": {}}
        self._server = _Server(("127.0.0.1", port), _handler(self))
        threading.Thread(target=self._server.serve_forever, name="panels", daemon=True).start()

    @classmethod
    def of_a_new_ray(cls) -> Panels | None:
        """For a Ray that is to start with `environment`; None where somebody has named a Grafana or
        a Prometheus for it.
        """
        return None if {GRAFANA, PROMETHEUS} & os.environ.keys() else cls()

    @classmethod
    def of_a_cluster(cls) -> Panels | None:
        """Where the head's Ray looks for it, if this is the head; at a port of its own while
        another sweep has that one; None where Ray was told to look elsewhere.
        """
        if os.environ.get(GRAFANA) != f"http://127.0.0.1:{PORT}":
            return None
        try:
            return cls(PORT)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            return cls()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def environment(self) -> dict[str, str]:
        """What Ray must be started with."""
        return dict.fromkeys((GRAFANA, PROMETHEUS), self.address)

    @property
    def told(self) -> str:
        """Where to look, for people."""
        embedded = os.environ.get(GRAFANA, self.address) == self.address
        return f"gauges: {self.address}{PAGE} ({EMBEDDED if embedded else TAKEN})"

    def show(self, now: Snapshot) -> None:
        """Draw this from now on; curves grow by what it says of the running trials."""
        seconds = time.monotonic() - self._began
        with self._lock:
            self._now = now
            running = {f"{one.name} [{one.trial_id[:6]}]": one for one in now.running}
            for field, curves in self._curves.items():
                for name, one in running.items():
                    _grow(curves, name, seconds, getattr(one, field), running)

    def page(self) -> str:
        """The whole page, HTML."""
        with self._lock:
            parts = [f"<h1>{html.escape(self.sweep or 'raysparse')}</h1>", *_body(self._now, self.unit)]
            charts = [
                chart("training loss, nats per token", self._curves["loss"]),
                chart("tokens per second", self._curves["tokens_per_second"]),
            ]
        head = f'<meta charset="utf-8"><meta http-equiv="refresh" content="{REFRESH}"><style>{STYLE}</style>'
        return (
            f'<!doctype html><html><head>{head}</head><body>{"".join(parts)}<div class="charts">{"".join(charts)}</div>'
        )

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that went away in the middle is no news."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def _handler(panels: Panels) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0].rstrip("/")
            if path in ANSWERS:
                self._send(200, "application/json", json.dumps(ANSWERS[path]))
            elif path.startswith("/d/"):
                self._send(200, "text/html; charset=utf-8", panels.page())
            elif path.startswith("/d-solo/"):
                self._send(200, "text/plain; charset=utf-8", NOT_HERE)
            else:
                self._send(404, "text/plain; charset=utf-8", f"the gauges are at {PAGE}")

        def _send(self, status: int, kind: str, text: str) -> None:
            body = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: Any) -> None:
            """Nothing: the terminal is the sweep's."""

    return Handler


def _grow(curves: dict[str, Curve], name: str, seconds: float, value: float | None, running: Container[str]) -> None:
    """Add a point. For a new curve the oldest of those that do not grow any more goes; where all do
    it is not begun. A curve that is full keeps every second point.
    """
    if value is None:
        return
    if name not in curves and len(curves) >= MOST_CURVES:
        over = next((old for old in curves if old not in running), None)
        if over is None:
            return
        del curves[over]
    curve = curves.setdefault(name, [])
    curve.append((seconds, value))
    if len(curve) > MOST_POINTS:
        del curve[-2::-2]


def _body(now: Snapshot | None, unit: str) -> list[str]:
    if now is None:
        return ["<p>waiting for the first trial</p>"]
    counts = ", ".join(f"{count} {html.escape(status)}" for status, count in now.counts.items() if count)
    left = "" if now.left is None else f", {amount(now.left)} left"
    return [f"<p>{counts}; {amount(now.spent)} {html.escape(unit)} spent{left}</p>", _table(now.running)]


def _table(running: Sequence[Running]) -> str:
    head = "<tr><th>running<th>steps<th>loss<th>validation loss<th>tokens/s<th>density</tr>"
    rows = "".join(
        f"<tr><td>{html.escape(one.name)}<td>{one.step} of {one.steps}<td>{_said(one.loss, '.3f')}"
        f"<td>{_said(one.validation_loss, '.3f')}<td>{_said(one.tokens_per_second, ',.0f')}<td>{one.density:.3g}</tr>"
        for one in running
    )
    return f"<table>{head}{rows}</table>"


def _said(value: float | None, how: str) -> str:
    return "" if value is None else format(value, how)


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def chart(title: str, curves: Mapping[str, Curve]) -> str:
    """Curves over the seconds of the session, as SVG with a legend."""
    points = [point for curve in curves.values() for point in curve]
    if not points:
        return ""
    times, values = zip(*points, strict=True)
    low, high, begin = min(values), max(values), min(times)
    end = max(*times, begin + 1.0)
    span = high - low or abs(high) or 1.0

    def place(seconds: float, value: float) -> str:
        across = LEFT + (WIDTH - LEFT) * (seconds - begin) / (end - begin)
        return f"{across:.1f},{(HEIGHT - BELOW) * (1.0 - (value - low) / span) + 4:.1f}"

    lines = "".join(
        f'<polyline fill="none" stroke="{colour}" stroke-width="1.5" points="{" ".join(place(*p) for p in curve)}"/>'
        for colour, curve in zip(COLOURS, curves.values(), strict=False)
    )
    legend = "".join(
        f'<div><span style="color:{colour}">&#9632;</span> {html.escape(name)}</div>'
        for colour, name in zip(COLOURS, curves, strict=False)
    )
    labels = (
        f'<text x="0" y="14">{_short(high)}</text><text x="0" y="{HEIGHT - BELOW}">{_short(low)}</text>'
        f'<text x="{LEFT}" y="{HEIGHT - 4}">{begin:.0f}</text>'
        f'<text x="{WIDTH}" y="{HEIGHT - 4}" text-anchor="end">{end:.0f} s</text>'
    )
    drawing = f'<svg width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}">{lines}{labels}</svg>'
    return f"<div><h2>{html.escape(title)}</h2>{drawing}{legend}</div>"
