"""What a stranger on the network can get out of a host: every open TCP port, and what it answers to
somebody without a token.

A port is asked as a web server and as each of Ray's gRPC services, by the methods that only read.
Run on a host as `python stranger.py HOST`; prints one JSON object, port -> what it answered: `ssh`,
`refused` (401 or UNAUTHENTICATED, nothing else), `metrics` (numbers for Prometheus), `silent` (no
service that we know of), or `OPEN` and what was given away.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
import socket
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import ray.core.generated as generated

READS = ("Get", "List", "Check", "Query", "Exists", "Keys", "Pull")
UNNAMED = ("/ray.rpc.ObjectManagerService/Pull",)  # a service without Python stubs
PAGES = ("/", "/metrics", "/api/version", "/api/jobs/", "/api/job_agent/jobs/")
TIMEOUT = 3.0  # seconds
BANNER = 0.5


class Names:
    """A gRPC channel that only notes which methods a stub would call."""

    def __init__(self) -> None:
        self.paths: list[str] = []

    def unary_unary(self, path: str, **_: Any) -> None:
        self.paths.append(path)

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None


def methods() -> list[str]:
    """The reading methods of all gRPC services of the installed Ray."""
    channel = Names()
    for module in pkgutil.iter_modules(generated.__path__):
        if module.name.endswith("_pb2_grpc"):
            stubs = vars(importlib.import_module(f"{generated.__name__}.{module.name}"))
            for name, stub in stubs.items():
                if name.endswith("Stub"):
                    stub(channel)
    return [p for p in channel.paths if any(word in p.rpartition("/")[2] for word in READS)] + list(UNNAMED)


def open_ports(host: str) -> list[int]:
    def is_open(port: int) -> bool:
        with socket.socket() as line:
            line.settimeout(TIMEOUT)
            return line.connect_ex((host, port)) == 0

    with ThreadPoolExecutor(64) as pool:
        return [port for port, found in enumerate(pool.map(is_open, range(1, 65536)), start=1) if found]


def banner(host: str, port: int) -> bytes:
    """What the other side says before it is asked."""
    with socket.create_connection((host, port), timeout=TIMEOUT) as line:
        line.settimeout(BANNER)
        try:
            return line.recv(64)
        except OSError:
            return b""


def web(host: str, port: int) -> dict[str, str]:
    """Page -> status and size, of the pages that a web server on this port gives."""
    found = {}
    for page in PAGES:
        try:
            with urllib.request.urlopen(f"http://{host}:{port}{page}", timeout=TIMEOUT) as answer:
                found[page] = f"{answer.status} {len(answer.read())} bytes"
        except urllib.error.HTTPError as error:
            found[page] = str(error.code)
        except (OSError, ValueError):  # another protocol
            return {}
        except Exception as error:  # http.client's own, which urllib does not wrap
            if type(error).__module__ != "http.client":
                raise
            return {}
    return found


def services(host: str, port: int) -> dict[str, str]:
    """Method -> status, of the gRPC methods that this port knows."""
    found = {}
    with grpc.insecure_channel(f"{host}:{port}") as channel:
        for path in methods():
            ask = channel.unary_unary(path, request_serializer=bytes, response_deserializer=bytes)
            try:
                ask(b"", timeout=TIMEOUT)
                found[path] = "OK"
            except grpc.RpcError as error:
                status = error.code().name  # type: ignore[attr-defined]
                if status == "UNAVAILABLE":  # not gRPC
                    return {}
                if status != "UNIMPLEMENTED":
                    found[path] = status
    return found


def answers(host: str, port: int) -> str:
    """What a port gives to somebody without a token."""
    if banner(host, port).startswith(b"SSH-"):
        return "ssh"
    pages, calls = web(host, port), services(host, port)
    given = {page: said for page, said in pages.items() if said not in ("401", "404", "405")}
    given |= {path: said for path, said in calls.items() if said != "UNAUTHENTICATED"}
    if given and all(said.endswith("bytes") for said in given.values()) and is_metrics(host, port):
        return "metrics"
    if given:
        return f"OPEN {given}"
    return "refused" if pages or calls else "silent"


def is_metrics(host: str, port: int) -> bool:
    """Whether every page of this port is the same list of numbers for Prometheus."""
    with urllib.request.urlopen(f"http://{host}:{port}/", timeout=TIMEOUT) as answer:
        return bool(answer.read(6) == b"# HELP")


if __name__ == "__main__":
    print(json.dumps({port: answers(sys.argv[1], port) for port in open_ports(sys.argv[1])}))
