"""One corpus and one store that the tests of raysparse.data share; nothing comes from a network."""

from __future__ import annotations

import pytest
from corpora import prose, write_jsonl

from raysparse.data.store import TokenStore, prepare
from raysparse.files import Folder


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    """300 documents, about 300,000 bytes."""
    return str(write_jsonl(tmp_path_factory.mktemp("corpus") / "prose.jsonl", prose(300)))


@pytest.fixture(scope="session")
def store(corpus: str, tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    """That corpus as bytes, in shards of 3,000 tokens so that sequences cross them."""
    folder = Folder(tmp_path_factory.mktemp("store"))
    return prepare(folder, corpus, "bytes", train_tokens=40_000, validation_tokens=4_000, shard_tokens=3_000)
