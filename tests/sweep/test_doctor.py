"""Each fault that a node of a cluster can have is found by `raysparse doctor --address`, with a
remedy, and a node without one has none. The facts are those of this machine, one of them changed.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import ray

from raysparse.console import cli
from raysparse.files import Folder
from raysparse.placement import Placement
from raysparse.sweep.ray import check, cluster
from raysparse.sweep.settings import Settings

REACHED = "10.0.0.7"  # an address that no interface here has


class Nodes:
    """Two machines that share a folder, of which one is looked at."""

    def __init__(self, folder: Path):
        self.storage, self.here = Folder(folder), check.versions()
        self.storage.write("mark", b"driver")

    def facts(self, storage: str = "", **changes):
        """What this machine says of itself as a node, but for the changes."""
        address = {"address": REACHED, "interface": "eth0"}
        return check.facts(storage or self.storage.uri, "mark", "node", "127.0.0.1") | address | changes

    def troubles(self, found) -> dict[str, tuple[str, str]]:
        """what -> (found, remedy) where there is one."""
        now = time.time()
        said = check.judged(found, self.storage, "mark-node", here=self.here, between=(now - 2, now), count=2)
        return {what: (text, remedy) for what, text, remedy in said if remedy}


@pytest.fixture
def nodes(tmp_path):
    return Nodes(tmp_path / "storage")


def test_a_node_that_is_as_it_should_be_has_no_remedy(nodes):
    assert nodes.troubles(nodes.facts()) == {}


def fault(nodes, **changes):
    [(what, said)] = nodes.troubles(nodes.facts(**changes)).items()
    return (what, *said)


@pytest.mark.parametrize("name", ["Python", "ray", "torch", "raysparse", "commit"])
def test_other_versions(nodes, name):
    what, found, remedy = fault(nodes, versions=nodes.here | {name: "0.1"})
    assert (what, remedy) == (name, "install the same on all nodes")
    assert found == f"0.1 there, {nodes.here[name]} at the driver"


def test_storage_that_is_each_machines_own(nodes, tmp_path):
    """The node reads nothing of the driver's, and what it wrote is not seen."""
    assert "FileNotFoundError" in fault(nodes, storage=str(tmp_path / "its own"))[1]
    found = nodes.facts()
    nodes.storage.delete("mark-node")
    [(text, remedy)] = nodes.troubles(found).values()
    assert "what it wrote is not seen from here" in text
    assert "give --storage an object store or a shared file system" in remedy


def test_storage_that_cannot_be_written(nodes, tmp_path):
    """A file stands where its folder should be."""
    (tmp_path / "file").write_text("")
    what, found, _ = fault(nodes, storage=str(tmp_path / "file"))
    assert what == "storage"
    assert "NotADirectoryError" in found


def test_credentials_that_are_missing(nodes, tmp_path, monkeypatch):
    """A server refuses whoever has none; here the store's answer is played."""
    nodes.storage = type("Bucket", (Folder,), {"is_local": False})(tmp_path)
    cause = "OSError: When writing key 'x' in bucket 'y': AWS Error ACCESS_DENIED during PutObject operation"
    [(found, remedy)] = nodes.troubles(nodes.facts() | {"storage": cause}).values()
    assert "ACCESS_DENIED" in found
    assert remedy == "give its machine a role that may read and write there, or the driver AWS_* variables"


@pytest.mark.parametrize("ahead", [-60.0, 60.0])
def test_a_skewed_clock(nodes, ahead):
    what, found, remedy = fault(nodes, clock=time.time() + ahead)
    assert (what, remedy) == ("clock", "set it by NTP (chrony)")
    assert abs(float(found.split()[0]) - ahead) < 3, "not the seconds that the answer took"


def test_small_shared_memory(nodes):
    what, found, remedy = fault(nodes, shared_memory=64 << 20)
    assert (what, found) == ("shared memory", "64 MiB of /dev/shm")
    assert "--shm-size" in remedy


def test_a_node_that_ray_knows_by_the_loopback(nodes):
    what, found, remedy = fault(nodes, address="127.0.0.1")
    assert what == "address"
    assert "no other node reaches it" in found
    assert "--node-ip-address" in remedy


def test_a_name_that_means_the_loopback_where_no_interface_is_found(nodes):
    what, found, remedy = fault(nodes, interface="", gloo="", resolved="127.0.1.1")
    assert (what, found) == ("address", f"no interface has {REACHED}, and its name resolves to 127.0.1.1")
    assert "GLOO_SOCKET_IFNAME" in remedy
    assert nodes.troubles(nodes.facts(interface="", gloo="eth1", resolved="127.0.1.1")) == {}, "it was named"
    assert nodes.troubles(nodes.facts(interface="eth0", gloo="", resolved="127.0.1.1")) == {}, "not needed"


def test_a_dead_address_is_a_finding_and_the_exit_status(capsys, tmp_path):
    assert cli.main(["doctor", "--address", "127.0.0.1:1", "--storage", str(tmp_path)]) == 1
    assert "no Ray cluster answers at '127.0.0.1:1'" in " ".join(capsys.readouterr().out.split())


def test_a_driver_of_another_ray_is_told_both_versions(monkeypatch):
    def init(**_):
        ray._private.utils.check_version_info({"ray_version": "2.9.0", "python_version": "3.9.1"}, "the driver")

    monkeypatch.setattr(ray, "init", init)
    with (
        pytest.raises(ValueError, match=r"cannot be joined: Version mismatch: .* Ray: 2\.9\.0 .*; install the same"),
        cluster.joined(Settings(address="auto"), Placement(), "nobody"),
    ):
        pass
