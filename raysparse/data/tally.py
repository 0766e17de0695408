"""What was met on the way and not trained on: counted by kind, and the first few named.

One treatment for every form: a null or missing text, a blank one, one that is not of its encoding,
and a file that is no corpus are left out, counted here, and told on the console, in the manifest
and with the report. What contradicts the question (a field that no row has, a line that is not
JSON) is an error instead, raised where it is found.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

NAMED = 5  # of each kind
KINDS = {
    "blank": "blank documents",
    "null": "documents without text (null, or no such field)",
    "undecodable": "documents not of their encoding (name it with --encoding, or --replace-bad-bytes)",
    "replaced": "documents with bytes replaced by U+FFFD",
    "files_skipped": "files that are no corpus",
}


class Tally:
    """Counts by kind (`KINDS`) and the first NAMED places of each."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.first: dict[str, list[str]] = {}

    def add(self, kind: str, path: Path | str, number: int = 0, why: str = "", unit: str = "row") -> None:
        """One more of `kind`, at row (or `unit`) `number` of `path` when that is not 0."""
        self.counts[kind] += 1
        named = self.first.setdefault(kind, [])
        if len(named) < NAMED:
            place = f"{path} {unit} {number}" if number else f"{path}"
            named.append(f"{place}: {why}" if why else place)

    def copy(self) -> Tally:
        """One that goes on counting from here."""
        other = Tally()
        other.counts.update(self.counts)
        other.first.update({kind: list(named) for kind, named in self.first.items()})
        return other

    def lines(self) -> list[str]:
        """One line a kind, for people."""
        return lines_of(self.counts, self.first)


def lines_of(counts: dict[str, int] | Counter[str], first: dict[str, list[str]]) -> list[str]:
    """`3 blank documents: a.txt, b.txt, c.txt` of every kind that was met."""
    found = []
    for kind, what in KINDS.items():
        if counts.get(kind):
            named = first.get(kind, [])
            more = "" if counts[kind] <= len(named) else ", ..."
            found.append(f"{counts[kind]} {what}" + (f": {', '.join(named)}{more}" if named else ""))
    return found
