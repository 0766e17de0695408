"""Tokenizers of others: a tokenizer.json, a folder that holds one, or a name on Hugging Face.

A name is looked for in the local copy of the hub first, and the hub is called before anything is
fetched: without a network the answer comes within a second, and says so. Left out: what a tokenizer
does (`tokenizer`).
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import urllib.parse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer as HuggingFaceTokenizer

FILE = "tokenizer.json"
SETTINGS = "tokenizer_config.json"
PATIENCE = 0.8  # seconds to wait for the hub to answer at all


def load(name: str, place: str) -> HuggingFaceTokenizer:
    """The tokenizer at a place; `name` is what the user called it.

    Raises ValueError when there is none, when it cannot be read, and when the hub cannot be
    reached.
    """
    from tokenizers import Tokenizer as HuggingFaceTokenizer

    path = Path(place).expanduser()
    if path.is_dir():
        path /= FILE
    expected = f"expected a {FILE} file, a folder with one, or a name on the Hugging Face hub"
    try:
        if path.is_file():
            return HuggingFaceTokenizer.from_file(str(path))
        if path.suffix == ".json" or place.startswith((".", "/", "~")):
            raise FileNotFoundError(f"there is no file {path}")
        return HuggingFaceTokenizer.from_file(fetched(place))
    except Exception as error:  # `tokenizers` raises bare Exception for a file it cannot read
        raise ValueError(f"tokenizer {name!r} cannot be loaded: {error}; {expected}") from error


def fetched(place: str) -> str:
    """The local copy of a hub's tokenizer, fetched when there is none. Raises OSError."""
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache

    copy = try_to_load_from_cache(place, FILE)
    if isinstance(copy, str):
        return copy
    if constants.HF_HUB_OFFLINE:
        raise ConnectionError("there is no local copy of it, and HF_HUB_OFFLINE forbids to fetch one")
    if not answers(constants.ENDPOINT):
        raise ConnectionError(f"there is no local copy of it, and {constants.ENDPOINT} does not answer; no network?")
    return str(hf_hub_download(place, FILE))


def answers(url: str) -> bool:
    """Whether the host of a URL, or the proxy that stands before it, takes a connection."""
    from urllib.request import getproxies, proxy_bypass  # and 30 modules, that nobody needs to open a store

    asked = urllib.parse.urlsplit(url)
    proxy = getproxies().get(asked.scheme)
    if proxy and not proxy_bypass(asked.hostname or ""):
        asked = urllib.parse.urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    port = asked.port or (443 if asked.scheme == "https" else 80)
    answered = threading.Event()

    def knock() -> None:
        with contextlib.suppress(OSError), socket.create_connection((asked.hostname or "", port), timeout=PATIENCE):
            answered.set()

    # Looking a name up has no timeout of its own, so that nobody waits for the thread that does.
    thread = threading.Thread(target=knock, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    return answered.is_set()


def end_of_text(place: str) -> str:
    """What the tokenizer_config.json of a local folder calls the token that ends a text; "" where
    nothing is said. Raises ValueError for a file that is no JSON object.
    """
    settings = Path(place).expanduser() / SETTINGS
    if not settings.is_file():
        return ""
    try:
        said = json.loads(settings.read_bytes()).get("eos_token")
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{settings} is damaged: {error}; mend or delete it") from error
    return str(said.get("content", "") if isinstance(said, dict) else said or "")
