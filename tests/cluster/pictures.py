"""What a person sees of a sweep on a cluster while trials run on two workers: Ray's dashboard with
our gauges, by an ssh tunnel to the head, and TensorBoard on the storage.

`python -m tests.cluster.pictures` brings the cluster of `ray_up` up, submits a sweep, opens both in
a headless browser (Chromium) on the laptop, and writes `docs/images/dashboard.png` and
`docs/images/tensorboard.png`. It fails when the dashboard finds no gauges, or when they do not show
the trials that run. Whether the pictures are good ones is for eyes.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

from raysparse.sweep.ray.panels import PAGE, PORT
from tests.cluster import browser
from tests.cluster.hosts import Host, Lan, lan, missing
from tests.cluster.ray_up import HOSTS, JOB, down, until, up
from tests.conftest import REPOSITORY

SWEEP = (
    "--sizes laptop-s laptop-m --densities 0.25 1 --unique-tokens 200000 --epochs 2 4 --slots 2 --search --no-training"
)
PICTURES = REPOSITORY / "docs" / "images"
BOARD = 6006
GAUGES = f"http://127.0.0.1:{PORT}{PAGE}"
COOKIE = "ray-authentication-token"
AT_ONCE = 2
CLOSE_SETTINGS = "[...document.querySelectorAll(`button`)].find(b => /Settings/.test(b.innerText)).click()"


def read(host: Host, url: str, token: str = "") -> str:
    """What a server says to somebody on this host, "" where none answers."""
    signed = f"-H 'Authorization: Bearer {token}'" if token else ""
    return host.run(f"curl -s {signed} {url}", check=False).stdout


def seen(net: Lan, folder: Path) -> dict[str, str]:
    """Both pictures, during a sweep; what the laptop was told on the way."""
    laptop, config = net["laptop"], f"{net.work}/shared/cluster.yaml"
    token = laptop.run("RAY_AUTH_MODE=token ray get-auth-token").stdout.strip()
    tunnel = laptop.start(f"ray exec {config} -p 8265 -p {PORT} 'sleep infinity'", net.work / "tunnel.log")
    script = f"cd ~/checkout && .venv/bin/python sweeps/grid.py --address auto --storage {net.work}/shared"
    job = f"RAY_AUTH_MODE=token ray job submit --no-wait --address {JOB} -- bash -c '{script} --name seen {SWEEP}'"
    board = laptop.start(f"tensorboard --logdir {net.work}/shared/seen/curves --port {BOARD}", net.work / "board.log")
    try:
        until(lambda: "version" in read(laptop, f"{JOB}/api/version", token), seconds=60, what="the tunnel")
        laptop.run(job)
        until(lambda: is_drawn(read(laptop, GAUGES)), seconds=300, what="curves of two trials at once")
        health = read(laptop, f"{JOB}/api/grafana_health", token)
        shot(laptop, f"{JOB}/#/metrics", folder / "dashboard.png", f"--cookie {COOKIE}={token}")
        curves = f"http://127.0.0.1:{BOARD}/?tagFilter=loss#timeseries"
        shot(laptop, curves, folder / "tensorboard.png", f"--script '{CLOSE_SETTINGS}'")
        return {"grafana_health": health, "still": read(laptop, GAUGES)}
    finally:
        tunnel.kill()
        board.kill()


def is_drawn(page: str) -> bool:
    """Two trials in the table, and a curve of each."""
    return page.count("<tr><td>") >= AT_ONCE and page.count("<polyline") >= 2 * AT_ONCE


def shot(host: Host, url: str, file: Path, more: str) -> None:
    host.run(f"python {browser.__file__} '{url}' {file} {more}", timeout=180)


def main() -> None:
    absent = "" if shutil.which(browser.NAME) and shutil.which("curl") else f"not installed: {browser.NAME} or curl"
    if reason := missing() or absent:
        raise SystemExit(reason)
    work = Path(tempfile.mkdtemp(dir="/var/tmp", prefix="raysparse-"))
    try:
        with lan(HOSTS, work / "lan") as net:
            up(net)
            found = seen(net, net.work / "shared")
            assert json.loads(found["grafana_health"])["result"], found
            assert is_drawn(found["still"]), "the sweep ended while its pictures were taken"
            for name in ("dashboard.png", "tensorboard.png"):
                shutil.copy(net.work / "shared" / name, PICTURES / name)
                print(f"wrote {PICTURES / name}")
            down(net)
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
