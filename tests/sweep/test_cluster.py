"""cluster.yaml is one that `ray up` accepts, installs what pyproject names, and runs the Ray that
it says.
"""

import copy
import tomllib

import pytest
import ray
import yaml
from ray.autoscaler._private.util import fillout_defaults, validate_config

from raysparse.spec import Placement
from raysparse.sweep.ray import cluster
from raysparse.sweep.settings import Settings
from tests.conftest import REPOSITORY


@pytest.fixture(scope="module")
def config():
    return yaml.safe_load((REPOSITORY / "cluster.yaml").read_text())


def test_it_meets_rays_own_schema(config):
    validate_config(fillout_defaults(copy.deepcopy(config)))


def test_a_wrong_key_would_have_been_noticed(config):
    with pytest.raises(Exception, match="head_nodes_type"):
        validate_config(fillout_defaults({**config, "head_nodes_type": "head"}))


def test_torch_is_installed_first_and_the_extras_exist(config):
    first, second = config["setup_commands"]
    assert "torch==" in first
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = second.split("[")[1].split("]")[0].split(",")
    assert set(extras) <= set(project["optional-dependencies"])
    # Ray refuses a cluster whose nodes differ from the driver in either
    assert f":{ray.__version__}-py3" in config["docker"]["image"]


def test_the_makefile_installs_the_same_torch():
    pinned = next(line for line in (REPOSITORY / "Makefile").read_text().splitlines() if line.startswith("TORCH"))
    assert pinned.split("= ", 1)[1] in (REPOSITORY / "cluster.yaml").read_text()


def test_no_cluster_at_an_address_is_one_clear_line():
    with (
        pytest.raises(ValueError, match=r"no Ray cluster answers at '127\.0\.0\.1:1'.*or leave both out"),
        cluster.joined(Settings(address="127.0.0.1:1"), Placement()),
    ):
        pass
