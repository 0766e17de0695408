"""Ray's settings that are environment variables. A file of its own because Ray reads some of them
when it is imported: no ray here.

A value that the user has set wins, so everything can be turned back on from outside.
"""

from __future__ import annotations

import os

EVERYWHERE = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_AUTO_CONNECT": "0",  # or a thread that outlives its cluster for a moment starts another one
    # How soon a dead worker is noticed; the default of 2 s delays the end of a sweep.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # a process for each slot; the broker looks for all of them
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # the newer output of Tune prints a table at any verbosity
    # Tune asks the GCS every ten seconds for resources that nobody reads; asking one that has died
    # waits for a minute, and then Ray ends the driver.
    "TUNE_STATE_REFRESH_PERIOD": "1e9",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a report between evaluations has no validation loss
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # trials write their own curves, into their own folders
}
# Only for a cluster that is started on this machine.
ON_THIS_MACHINE = {
    # A dozen small processes on two cores are meant, not a mistake to warn about.
    "RAY_worker_maximum_startup_concurrency": "16",
    # A machine that is busy with something else takes longer to start Ray's processes than the
    # raylet waits for its agents, or the driver for the raylet: 30 s, and then they end.
    "RAY_agent_register_timeout_ms": "120000",
    "RAY_raylet_start_wait_time_s": "120",
}
# The dashboard's Train tab, for the price of an actor.
ON_A_CLUSTER = {"RAY_TRAIN_ENABLE_STATE_TRACKING": "1"}


# What the driver's machine may know and others need for an object store: sent to every worker.
CREDENTIALS = (
    "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_DEFAULT_REGION",
    "AWS_ENDPOINT_URL", "AWS_EC2_METADATA_DISABLED",
)  # fmt: skip


def for_workers() -> dict[str, str]:
    """The variables of this process by which workers of a cluster reach the storage. Empty where
    the machines have a role, which is better: Ray keeps these with the job.
    """
    return {name: os.environ[name] for name in CREDENTIALS if os.environ.get(name)}


def apply(*, joins_a_cluster: bool) -> None:
    """Set what is not set yet. Call it before Ray is imported."""
    for key, value in (EVERYWHERE | (ON_A_CLUSTER if joins_a_cluster else ON_THIS_MACHINE)).items():
        os.environ.setdefault(key, value)
