"""Where the files of a corpus lie: names, files, folders and globs, and what in a folder is none.

A file's name says its form, in any case of letters, with `.gz` or `.zst` behind it or not. A file
that is named by itself must be of a known form; in a folder or glob another one is skipped, counted
and named. Folders follow links, each place once. Three kinds of files would be read by mistake and
are not: what raysparse itself wrote (run folders, token stores), what describes a data set (the
card beside tables, the JSON beside saved shards), and the test and validation parts of a data set
whose training part lies beside them.

Left out: reading (`forms`) and streams from a hub (`stream`).
"""

from __future__ import annotations

import glob
import json
import os
import re
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path

from raysparse.data.tally import Tally
from raysparse.run_folder import JOURNAL, LEDGER, LOCK, PLAN, TRIALS

NAMES = ("python", "python+packages")
PROSE = (".txt", ".text", ".md", ".markdown", ".rst", ".tex")
SOURCES = (
    ".py", ".pyi", ".c", ".h", ".cc", ".cpp", ".hpp", ".cu", ".rs", ".go", ".java", ".kt", ".scala", ".js", ".ts",
    ".jsx", ".tsx", ".rb", ".php", ".cs", ".swift", ".jl", ".r", ".lua", ".pl", ".hs", ".ml", ".sh", ".sql", ".f90",
)  # fmt: skip
TABLES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow")
PACKINGS = (".gz", ".zst")
FORMS = f"{', '.join((*PROSE[:1], *PROSE[2:3], *TABLES))} (each also {' or '.join(PACKINGS)}) or source code"
DESCRIPTIONS = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
OTHER_PARTS = re.compile(r"(test|validation|valid|val|dev)(?![a-z])", re.IGNORECASE)
TRAINING_PART = re.compile(r"train(ing)?(?![a-z])", re.IGNORECASE)


def form_of(path: Path) -> str:
    """The suffix that says how a file is read, in small letters without a packing; "" for none."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in PACKINGS:
        suffixes.pop()
    return suffixes[-1] if suffixes and suffixes[-1] in (*PROSE, *SOURCES, *TABLES) else ""


def files_of(name: str, tally: Tally) -> list[Path]:
    """The files of a finite corpus, sorted; what was skipped goes to `tally`.

    Raises ValueError when there is none, when a single file is of no known form, and when the
    place is a run folder or token store.
    """
    if name in NAMES:
        kinds = ("stdlib",) if name == "python" else ("stdlib", "purelib", "platlib")
        roots = {Path(sysconfig.get_path(kind)).resolve() for kind in kinds}
        return sorted({path for root in roots for path in python_files(root)})
    path = Path(name).expanduser()
    if path.is_file():
        if not form_of(path):
            raise ValueError(f"corpus {name!r} is a file of no form that is read; expected {FORMS}; rename it")
        return [path]
    if path.is_dir():
        if written_by_us(path):
            raise ValueError(f"corpus {name!r} holds what raysparse wrote itself (a run folder or a token store)")
        found = list(_walk(path, tally, set()))
    else:
        matches = sorted(match for match in map(Path, glob.glob(str(path), recursive=True)) if match.is_file())
        found = [match for match in matches if _taken(match, tally) and not written_by_us(match.parent)]
    files = sorted(_without_cards(_once(found), tally))
    if not files:
        raise ValueError(_nothing(name, path, tally))
    return files


def _nothing(name: str, path: Path, tally: Tally) -> str:
    """Why there is no file."""
    if skipped := tally.first.get("files_skipped"):
        return f"corpus {name!r} holds no file of a form that is read, only {', '.join(skipped)}; expected {FORMS}"
    if path.is_dir():
        return f"corpus {name!r} is a folder without files (hidden ones are left out); expected {FORMS} in it"
    return (
        f"corpus {name!r} is not a name we know and no file, folder or glob matches it; expected "
        f"{', '.join(map(repr, NAMES))}, 'hf:NAME[:CONFIG[:SPLIT]]', or a path to files: {FORMS}"
    )


def python_files(root: Path) -> Iterator[Path]:
    """Python sources under `root`, without the packages that are installed inside a standard
    library.
    """
    for path, folders, names in os.walk(root):
        if Path(path) == root:
            folders[:] = [f for f in folders if f not in ("site-packages", "dist-packages")]
        yield from (Path(path, name) for name in names if name.endswith(".py"))


def written_by_us(folder: Path) -> bool:
    """Whether this is a run folder or a token store."""
    if (folder / PLAN).is_file():
        return any((folder / name).exists() for name in (JOURNAL, TRIALS, LOCK, LEDGER))
    manifest = folder / "manifest.json"
    return manifest.is_file() and b'"corpus_fingerprint"' in manifest.read_bytes()


def _walk(folder: Path, tally: Tally, seen: set[str]) -> Iterator[Path]:
    """The files below a folder that are of a known form, every real folder once."""
    real = os.path.realpath(folder)
    if real in seen:
        return
    seen.add(real)
    if written_by_us(folder):
        tally.add("files_skipped", folder, why="written by raysparse itself")
        return
    if (folder / "state.json").is_file() and (saved := _saved(folder)):
        yield from saved
        return
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    for entry in _training_part(folder, entries, tally):
        if entry.is_dir():
            yield from _walk(entry, tally, seen)
        elif entry.is_file() and entry.name not in DESCRIPTIONS and _taken(entry, tally):
            yield entry


def _saved(folder: Path) -> list[Path]:
    """The shards of a data set that `save_to_disk` wrote, in its order."""
    state = json.loads((folder / "state.json").read_bytes())
    names = state.get("_data_files", []) if isinstance(state, dict) else []
    return [folder / shard["filename"] for shard in names]


def _taken(path: Path, tally: Tally) -> bool:
    if form_of(path) and not path.name.startswith("_"):
        return True
    tally.add("files_skipped", path)
    return False


def _training_part(folder: Path, entries: list[Path], tally: Tally) -> Iterator[Path]:
    """Without the test and validation parts of a data set that has a training part here."""
    parts = [entry for entry in entries if entry.is_dir() or form_of(entry) in TABLES]
    whole = not any(TRAINING_PART.match(entry.name) for entry in parts)
    for entry in entries:
        if whole or entry not in parts or not OTHER_PARTS.match(entry.name):
            yield entry
        else:
            tally.add("files_skipped", entry, why="another part of the data set; name it to read it")


def _once(found: Iterable[Path]) -> list[Path]:
    """Each real file once, under the first of its names."""
    return list({os.path.realpath(path): path for path in sorted(found, reverse=True)}.values())


def _without_cards(files: list[Path], tally: Tally) -> Iterator[Path]:
    """Without READMEs where there are tables: they say what the data set is."""
    tables = any(form_of(path) in TABLES for path in files)
    for path in files:
        if tables and path.stem.lower() == "readme" and form_of(path) in PROSE:
            tally.add("files_skipped", path, why="the card of a data set")
        else:
            yield path
