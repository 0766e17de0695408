"""What the analysis writes: bytes and strict JSON, each file whole or absent.

A report is read by people and programs while sweeps run and machines die.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from raysparse.files import write_file_atomically


def write_bytes(path: Path, content: bytes) -> Path:
    """Put `content` at `path` whole or not at all; its folder is created."""
    write_file_atomically(path, content)
    return path


def write_json(path: Path, value: Mapping[str, Any]) -> Path:
    return write_bytes(path, (dumps(value) + "\n").encode())


def dumps(value: Any) -> str:
    """Strict JSON: numpy numbers and arrays become plain ones, numbers that are not finite become
    null.
    """
    return json.dumps(_plain(value), indent=2, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
