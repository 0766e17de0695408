"""An S3 server on 127.0.0.1 for tests and benchmarks: moto's, with every request noted and, when
asked, made to wait.

S3 promises that a conditional write is atomic; moto looks and then writes, in threads, so requests
that change something are let in one at a time. Requests with `/_control/` are ours: `POST
/_control/wait?0.04` makes every later request wait so many seconds, `GET /_control/log` gives the
requests so far as JSON and forgets them.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CONTROL = "/_control/"
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_EC2_METADATA_DISABLED": "true",
}


class Watched:
    """A WSGI application in front of moto's."""

    def __init__(self) -> None:
        from moto.server import DomainDispatcherApplication, create_backend_app

        self._inner = DomainDispatcherApplication(create_backend_app)
        self._changing = threading.Lock()
        self._wait = 0.0
        self._log: list[tuple[str, str]] = []

    def __call__(self, environ, start_response):
        method, path, query = environ["REQUEST_METHOD"], environ["PATH_INFO"], environ["QUERY_STRING"]
        if path.startswith(CONTROL):
            return self._control(path.removeprefix(CONTROL), query, start_response)
        self._log.append((method, path + (f"?{query}" if query else "")))
        time.sleep(self._wait)
        with self._changing if method not in ("GET", "HEAD") else contextlib.nullcontext():
            return self._inner(environ, start_response)

    def _control(self, what, query, start_response):
        found = b""
        if what == "wait":
            self._wait = float(query)
        else:
            log, self._log = self._log, []
            found = json.dumps(log).encode()
        start_response("200 OK", [("Content-Type", "application/json")])
        return [found]


@dataclass(frozen=True)
class Server:
    """A running server."""

    port: int

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.port}"

    def uri(self, path: str = "") -> str:
        """The URI of a path in the bucket `bucket`, with all that a client must know."""
        return f"s3://bucket{'/' * bool(path)}{path}?region=us-east-1&scheme=http&endpoint_override={self.endpoint}"

    def _ask(self, path: str, method: str) -> bytes:
        with urllib.request.urlopen(urllib.request.Request(f"http://{self.endpoint}{path}", method=method)) as answer:
            return answer.read()

    def wait(self, seconds: float) -> None:
        """Let every later request wait so long."""
        self._ask(f"{CONTROL}wait?{seconds}", "POST")

    def requests(self) -> list[tuple[str, str]]:
        """(method, path and query) of the requests since the last call."""
        return [tuple(request) for request in json.loads(self._ask(f"{CONTROL}log", "GET"))]


@contextlib.contextmanager
def running() -> Iterator[Server]:
    """A server in a process of its own, with an empty bucket named `bucket`."""
    command = [sys.executable, str(Path(__file__).resolve())]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | CREDENTIALS)
    try:
        server = Server(int(process.stdout.readline()))
        server._ask("/bucket", "PUT")
        server.requests()
        yield server
    finally:
        process.terminate()
        process.wait()


def main() -> None:
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"  # connections stay open, as S3's do

        def log_request(self, *_: object) -> None: ...

    server = make_server("127.0.0.1", 0, Watched(), threaded=True, request_handler=Quiet)
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
