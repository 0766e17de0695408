"""Printing as it is: names of people's files and trials may hold [brackets], :colons: and letters
that a terminal does not know, and none of them may be eaten or end a command.
"""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def console(*, soft_wrap: bool = True) -> Console:
    """A console without markup: what is printed through it is text. soft_wrap: lines as long as
    they are.
    """
    from rich.console import Console

    return Console(highlight=False, soft_wrap=soft_wrap, markup=False, emoji=False)


def replace_what_cannot_be_printed() -> None:
    """Let a terminal of few letters (PYTHONIOENCODING=ascii) show ? for the others."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
