#!/bin/bash
# A sweep on Slurm: `sbatch clusters/slurm.sh`, from the root of a checkout that all nodes see, with
# its environment in .venv (`make plan` makes it). Ray starts on every node of the job, the sweep runs on
# the first, and all of it ends with the sweep. Submit it again and it continues. CHANGE marks what is
# yours. Not run on a real Slurm.
#SBATCH --job-name=raysparse
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-node=1
#SBATCH --time=08:00:00
#SBATCH --signal=TERM@60

set -euo pipefail
export PATH="$PWD/.venv/bin:$PATH"
export RAY_AUTH_MODE=token # the token lies in the home folder, which the nodes share
# Metrics are off, as in cluster.yaml, which says why.
export RAY_enable_metrics_collection=0 AUTOSCALER_METRIC_PORT=-1 DASHBOARD_METRIC_PORT=-1
export RAY_GRAFANA_HOST=http://127.0.0.1:8266 RAY_PROMETHEUS_HOST=http://127.0.0.1:8266 # the sweep's gauges
test -s ~/.ray/auth_token || ray get-auth-token --generate > /dev/null
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

# CHANGE: --storage is a folder that all nodes see.
srun ray symmetric-run \
  --address "$head:6379" --min-nodes "$SLURM_JOB_NUM_NODES" \
  --num-cpus "$SLURM_CPUS_PER_TASK" --num-gpus "$SLURM_GPUS_ON_NODE" \
  -- python sweeps/grid.py --address auto --storage "$PWD/runs" --gpus 1
