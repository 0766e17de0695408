"""The cluster files are ones that `ray up` accepts, install what pyproject names, run the Ray that
they say, and let nobody in without a token.
"""

import copy
import re
import subprocess
import tomllib

import pytest
import ray
import yaml
from ray.autoscaler._private.util import fillout_defaults, validate_config

from raysparse.placement import Placement
from raysparse.sweep.ray import cluster, group, panels
from raysparse.sweep.settings import RayLostError, Settings
from tests.conftest import REPOSITORY

RAY_UP = ["cluster.yaml", "clusters/gcp.yaml", "clusters/on_premises.yaml"]


def read(name):
    return yaml.safe_load((REPOSITORY / name).read_text())


@pytest.mark.parametrize("name", RAY_UP)
def test_it_meets_rays_own_schema(name):
    validate_config(fillout_defaults(copy.deepcopy(read(name))))


def test_a_wrong_key_would_have_been_noticed():
    with pytest.raises(Exception, match="head_nodes_type"):
        validate_config(fillout_defaults({**read("cluster.yaml"), "head_nodes_type": "head"}))


@pytest.mark.parametrize("name", RAY_UP)
def test_torch_is_installed_first_and_the_extras_exist(name):
    config = read(name)
    first, second = (line for line in config["setup_commands"] if "pip install" in line)
    makefile = (REPOSITORY / "Makefile").read_text()
    pinned = next(line for line in makefile.splitlines() if line.startswith("TORCH")).split("= ", 1)[1]
    assert pinned in first
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert set(second.split("[")[1].split("]")[0].split(",")) <= set(project["optional-dependencies"])
    # Ray refuses a cluster whose nodes differ from the driver in either
    assert "docker" not in config or f":{ray.__version__}-py3" in config["docker"]["image"]


@pytest.mark.parametrize("name", RAY_UP)
def test_nobody_gets_in_without_a_token(name):
    config = read(name)
    assert any(target.endswith("/.ray/auth_token") for target in config["file_mounts"])
    starts = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
    started = [line for line in starts if "ray start" in line]
    assert len(started) == 2
    assert all("RAY_AUTH_MODE=token" in line for line in started)
    assert "--dashboard-host=127.0.0.1" in started[0]
    assert all("RAY_enable_metrics_collection=0" in line for line in started), "Ray's metrics ask nobody for a token"
    assert all(f"{name}_METRIC_PORT=-1" in started[0] for name in ("AUTOSCALER", "DASHBOARD"))


@pytest.mark.parametrize("name", [*RAY_UP, "clusters/slurm.sh", "clusters/kuberay.yaml"])
def test_the_head_is_told_where_a_sweep_serves_its_gauges(name):
    named = re.findall(
        r"(RAY_(?:GRAFANA|PROMETHEUS)_HOST)\W+(?:value: \")?(http://[\w.:]+)", (REPOSITORY / name).read_text()
    )
    assert {key for key, _ in named} == {panels.GRAFANA, panels.PROMETHEUS}
    assert {value for _, value in named} == {f"http://127.0.0.1:{panels.PORT}"}


def test_every_node_on_aws_names_its_network_its_role_and_its_image():
    for kind in read("cluster.yaml")["available_node_types"].values():
        assert {"SecurityGroupIds", "IamInstanceProfile", "ImageId"} <= set(kind["node_config"])


def test_kubernetes_runs_the_same_ray_behind_a_token_for_a_cluster_and_for_a_job():
    cluster_, job = read("clusters/kuberay.yaml"), read("clusters/kuberay_job.yaml")
    assert (cluster_["kind"], job["kind"]) == ("RayCluster", "RayJob")
    assert job["spec"]["rayClusterSpec"] == cluster_["spec"]
    assert cluster_["spec"]["rayVersion"] == ray.__version__
    assert cluster_["spec"]["authOptions"] == {"mode": "token"}
    groups = [cluster_["spec"]["headGroupSpec"], *cluster_["spec"]["workerGroupSpecs"]]
    assert all(group["template"]["spec"]["containers"][0]["image"] for group in groups)


def test_the_slurm_script_is_one_that_bash_reads():
    script = REPOSITORY / "clusters" / "slurm.sh"
    subprocess.run(["bash", "-n", script], check=True)
    assert "RAY_AUTH_MODE=token" in script.read_text()


def test_the_memory_of_the_head_bounds_the_slots_and_says_so():
    free = 3.5 * cluster.SLOT_BYTES
    assert cluster.bounded(3, 0, free) == (3, ())
    most, [line] = cluster.bounded(8, 0, free)
    assert most == 3
    assert line.startswith("3 slots, not 8: Ray takes 629MB of this machine's memory for each slot and 2.2GB are")
    with pytest.raises(ValueError, match=r"--slots is 8, but .*: at most 3; lower --slots"):
        cluster.bounded(8, 8, free)
    assert cluster.bounded(1, 1, 0.0) == (1, ()), "one is always tried"


def test_the_interface_of_an_address_is_found():
    """By it gloo and NCCL are told which network is Ray's."""
    assert group.interface_of("127.0.0.1") == "lo"
    assert group.interface_of("203.0.113.7") == ""


def test_a_ray_that_was_not_up_in_time_is_one_that_was_lost(monkeypatch):
    """So that another one is started: the machine may have been busy for a moment."""

    def late(**_):
        raise Exception("The current node timed out during startup. This could happen because ...")  # Ray's own type

    monkeypatch.setattr(cluster.ray, "init", late)
    with (
        pytest.raises(RayLostError, match=r"Ray on this machine was lost \(it was not up within half a minute\)"),
        cluster.joined(Settings(), Placement(), "nobody"),
    ):
        pass


def test_no_cluster_at_an_address_is_one_clear_line():
    with (
        pytest.raises(ValueError, match=r"no Ray cluster answers at '127\.0\.0\.1:1'.*or leave both out"),
        cluster.joined(Settings(address="127.0.0.1:1"), Placement(), "nobody"),
    ):
        pass
