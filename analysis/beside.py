"""What can be done at once, done on two cores: a second process that this one asks.

A report is many small fits, whose time is Python's and numpy's own, so threads would wait for each
other. The second process is a plain Python that is told through a pipe which functions of this
package to call. Unlike multiprocessing without fork it does not import the caller's script again,
so a report may be written from any script, notebook or pipe; it ends when this process does,
however that ends. What it has not begun when it is wanted is done here, and so is what it failed
at: an error is raised here, whole. Results are those of one process. Limits: two processes, because
what remains then is mostly what must be done in order.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # the products here are small: threads only wait


class Alone:
    """Everything here, when it is wanted."""

    def begin(self, function: Callable[..., T], *arguments: Any) -> Callable[[], T]:
        """What gives the result: called once, when it is wanted."""
        return partial(function, *arguments)

    def begin_each(self, function: Callable[..., T], *columns: Iterable[Any]) -> Callable[[], list[T]]:
        """What gives the results for every row of `columns`, as `map`, in order."""
        begun = [self.begin(function, *row) for row in zip(*columns, strict=True)]
        return lambda: [ask() for ask in reversed(begun)][::-1]  # from the end: the other begins in front

    def each(self, function: Callable[..., T], *columns: Iterable[Any]) -> list[T]:
        return self.begin_each(function, *columns)()


ALONE = Alone()


class Beside(Alone):
    """Shares with a second process. Functions and arguments are pickled."""

    def __init__(self) -> None:
        program = f"import sys; sys.path[:] = {sys.path!r}; from analysis.beside import serve; serve()"
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen([sys.executable, "-c", program], env={**os.environ, **ONE_THREAD}, **pipes)
        self.line = ThreadPoolExecutor(1)  # waits for the answers

    def begin(self, function: Callable[..., T], *arguments: Any) -> Callable[[], T]:
        return partial(self._result, self.line.submit(self._there, function, arguments), function, arguments)

    def _result(self, begun: Future[tuple[T] | None], function: Callable[..., T], arguments: tuple[Any, ...]) -> T:
        found = None if begun.cancel() else begun.result()
        return found[0] if found else function(*arguments)

    def _there(self, function: Callable[..., T], arguments: tuple[Any, ...]) -> tuple[T] | None:
        """The result in a tuple; None where the second process failed at it."""
        assert self.process.stdin
        assert self.process.stdout
        asked = pickle.dumps((function, arguments))
        try:
            self.process.stdin.write(asked)
            self.process.stdin.flush()
            found: tuple[T] | None = pickle.load(self.process.stdout)
        except (OSError, EOFError, pickle.UnpicklingError):  # it has ended
            return None
        return found

    def close(self) -> None:
        self.process.kill()
        self.line.shutdown(cancel_futures=True)
        with contextlib.suppress(BrokenPipeError), self.process:
            pass


@contextlib.contextmanager
def second() -> Iterator[Alone]:
    """Whom to ask while the block runs: a second process where there are two cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if cores < 2 or not sys.executable:
        yield ALONE
        return
    beside = Beside()
    try:
        yield beside
    finally:
        beside.close()


def serve() -> None:
    """The second process: calls what it is told, until there is nobody left to tell it."""
    asked, told = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks, which then ends this one
    while True:
        try:
            function, arguments = pickle.load(asked)
        except EOFError:
            return
        try:
            answer = pickle.dumps((function(*arguments),))
        except Exception:  # is called again where it was wanted, and fails there
            answer = pickle.dumps(None)
        told.write(answer)
        told.flush()
