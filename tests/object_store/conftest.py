import os

import pytest

from tests.object_store.server import CREDENTIALS, running


@pytest.fixture(scope="session")
def _server():
    pytest.importorskip("moto", reason="an S3 server on this machine: pip install '.[s3,dev]'")
    with running() as server:
        yield server


@pytest.fixture
def s3(_server, monkeypatch):
    """A server whose requests begin to count now."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    assert os.environ["AWS_EC2_METADATA_DISABLED"] == "true"
    _server.requests()
    yield _server
    _server.wait(0)
