"""Hosts on one machine: namespaces with a network, a process tree, a name, /tmp, /dev/shm and a
home of their own, a bridge between them, and sshd in each, so that `ray up` meets what it would
meet on machines.

They share the file system outside of those, as the machines of a laboratory share a mounted folder,
and the processors. Nothing of them reaches a real network: the bridge stands in a namespace too.
Needs root and a few tools; `missing` says what is not there. The hosts end with the process that
made them, killed or not.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import REPOSITORY

NETWORK = "10.77.0"  # of the bridge, which stands in a namespace
TOOLS = ("ip", "nsenter", "unshare", "sshd", "ssh", "ssh-keygen", "rsync", "setpriv")
PATIENCE = 120.0  # seconds for a host to come up
# On every host: this checkout, whichever is installed, and time for Ray on a busy machine.
ENVIRONMENT = {
    "PYTHONPATH": str(REPOSITORY), "RAY_raylet_start_wait_time_s": "300", "RAY_agent_register_timeout_ms": "300000",
}  # fmt: skip
ISOLATE = (
    "setpriv",
    "--pdeathsig",
    "KILL",
    "unshare",
    "--net",
    "--mount",
    "--pid",
    "--uts",
    "--ipc",
    "--fork",
    "--mount-proc",
    "--kill-child",
)
# What a host's first process does. The Python that runs us, and the checkout, may live in what it
# covers.
BOOT = """
set -e
hostname {name}
mkdir -p {work}/python && mount --bind {python} {work}/python
mkdir -p {work}/checkout && mount --bind {checkout} {work}/checkout
mount --bind {work}/hosts /etc/hosts
mount -t tmpfs -o size=4g tmpfs /tmp
mount -t tmpfs -o size=2g tmpfs /dev/shm
mount -t tmpfs -o size=4g tmpfs /root
mkdir -p {python} {checkout} /root/.ssh /run/sshd
mount --bind {work}/python {python}
mount --bind {work}/checkout {checkout}
cp {work}/key /root/.ssh/id_ed25519; cp {work}/key.pub /root/.ssh/authorized_keys
chmod 700 /root /root/.ssh; chmod 600 /root/.ssh/*
ip link set lo up
touch {work}/{name}.up
while true; do sleep 3600 & wait; done  # as the first process of a machine it buries the dead
"""
SSHD = "ListenAddress 0.0.0.0\nUsePAM no\nPermitRootLogin prohibit-password\nPasswordAuthentication no\n"


def missing() -> str:
    """Why no hosts can be made here, or "" when they can."""
    if os.geteuid():
        return "network namespaces need root"
    absent = [tool for tool in TOOLS if shutil.which(tool) is None]
    return f"not installed: {', '.join(absent)}" if absent else ""


@dataclass
class Host:
    """One host. `pid` is of its first process; all of it ends with that."""

    name: str
    address: str
    pid: int
    process: subprocess.Popen[bytes]

    def run(self, command: str, *, timeout: float = 120.0, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a shell command on the host, in root's home folder, as a person at its terminal
        would.
        """
        words = [*self._enter(), "bash", "-c", f"cd /root; {command}"]
        done = subprocess.run(words, capture_output=True, text=True, timeout=timeout, env=self._environment())
        if check and done.returncode:
            raise AssertionError(
                f"{self.name}: {command} ended with {done.returncode}:\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
            )
        return done

    def start(self, command: str, output: Path) -> subprocess.Popen[bytes]:
        """Start a shell command on the host, with its output in a file."""
        with output.open("wb") as file:
            words = [*self._enter(), "bash", "-c", f"cd /root; exec {command}"]
            return subprocess.Popen(words, stdout=file, stderr=subprocess.STDOUT, env=self._environment())

    def _enter(self) -> list[str]:
        return ["nsenter", "--target", str(self.pid), "--net", "--mount", "--pid", "--uts", "--ipc"]

    def _environment(self) -> dict[str, str]:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        found = {"PATH": path, "HOME": "/root", "USER": "root", "LANG": "C.UTF-8", "TERM": "dumb"}
        return found | ENVIRONMENT

    def unplug(self) -> None:
        """Cut the host off from the others; it runs on."""
        self.run("ip link set eth0 down")

    def plug(self) -> None:
        self.run(f"ip link set eth0 up && ip address replace {self.address}/24 dev eth0")

    def switch_off(self) -> None:
        """Take the host away with all that runs on it."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self.process.wait()


@dataclass
class Lan:
    """The hosts, by name, and the folder that all of them see."""

    hosts: dict[str, Host]
    work: Path
    bridge: int  # a process in the namespace of the bridge

    def __getitem__(self, name: str) -> Host:
        return self.hosts[name]

    def again(self, name: str) -> None:
        """A fresh host under the name and address of one that was switched off."""
        (self.work / f"{name}.up").unlink()
        self.hosts[name] = _host(name, self.hosts[name].address, self.bridge, self.work)


@contextlib.contextmanager
def lan(names: Sequence[str], work: Path) -> Iterator[Lan]:
    """Hosts of these names on one bridge. `work` is an empty folder outside /tmp, /root and
    /dev/shm, which the hosts cover; `work/shared` is for all of them.
    """
    (work / "shared").mkdir(parents=True)
    addresses = {name: f"{NETWORK}.{number}" for number, name in enumerate(names, start=11)}
    known = "".join(f"{address} {name}\n" for name, address in addresses.items())
    (work / "hosts").write_text(f"127.0.0.1 localhost\n{known}")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(work / "key")], check=True)
    switch = subprocess.Popen([*ISOLATE, "sleep", "infinity"], stderr=subprocess.DEVNULL)
    found: dict[str, Host] = {}
    try:
        bridge = _first_process(switch)
        _ip(bridge, "link add lan type bridge", "link set lan up")
        for name, address in addresses.items():
            found[name] = _host(name, address, bridge, work)
        yield Lan(found, work, bridge)
    finally:
        for host in found.values():
            host.switch_off()
        switch.kill()
        switch.wait()


def _host(name: str, address: str, bridge: int, work: Path) -> Host:
    boot = BOOT.format(name=name, work=work, python=sys.base_prefix, checkout=REPOSITORY)
    with (work / f"{name}.log").open("wb") as log:
        process = subprocess.Popen([*ISOLATE, "bash", "-c", boot], stdout=log, stderr=log)
    _wait(lambda: (work / f"{name}.up").exists(), f"host {name} to come up")
    pid = _first_process(process)
    _ip(bridge, f"link add {name} type veth peer name eth0 netns {pid}", f"link set {name} master lan up")
    host = Host(name, address, pid, process)
    host.plug()
    key = work / f"{name}.key"
    (work / f"{name}.sshd").write_text(SSHD + f"HostKey {key}\nPidFile /tmp/sshd.pid\n")
    if not key.exists():
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    host.run(f"{shutil.which('sshd')} -f {work}/{name}.sshd -E /tmp/sshd.log")
    return host


def _ip(pid: int, *commands: str) -> None:
    for command in commands:
        subprocess.run(["nsenter", "--target", str(pid), "--net", "ip", *shlex.split(command)], check=True)


def _first_process(process: subprocess.Popen[bytes]) -> int:
    """The child of `unshare --fork`, which is process 1 of its namespace."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    _wait(lambda: children.read_text().split(), "a namespace")
    return int(children.read_text().split()[0])


def _wait(condition: object, what: str) -> None:
    assert callable(condition)
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until, f"waited {PATIENCE:g} s for {what}"
        time.sleep(0.05)
