#!/bin/bash
# When:   your machines are a Slurm cluster whose nodes share a file system or reach a store.
# What:   Ray on all nodes of the job (4 here), one fit, and the end of both; with --gpus-per-node
#         it has GPUs too. What comes after the script's name are the arguments of `ray-kmeans fit`.
# Cost:   what your site counts for whole nodes (--exclusive) during the time of the job.
# Before: pip install '.[s3,jobs]' in an environment that all nodes see, and activate it; then, so
#         that no fit has to compile, srun --nodes=1 ray-kmeans compile on a node of each type.
# Start:  the line below does both: Slurm starts a cluster for each fit.
# Fit:    sbatch cluster_configs/slurm.sh /data/vectors /data/model --num-clusters 1000 \
#           --save-checkpoints-secs 60
# End:    it ends by itself; before that, scancel --signal=TERM --batch JOB_ID. At the time limit,
#         or when it was preempted, submit it again: the fit continues from its last checkpoint.
#SBATCH --job-name=ray-kmeans
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --time=04:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue

set -euo pipefail

# Others may be on these machines: this token, of this job alone, keeps them out.
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head_ip=$(srun --nodes=1 --ntasks=1 --nodelist="${nodes[0]}" hostname --ip-address | cut -d' ' -f1)
export RAY_ADDRESS="$head_ip:$((20000 + SLURM_JOB_ID % 20000))"
place=/tmp/ray-$SLURM_JOB_ID
steps=()

# Start Ray in a step of its own, and stay: the step is Ray.
start_ray() { # options of srun -- options of ray start
  local options=()
  while [[ $1 != -- ]]; do
    options+=("$1")
    shift
  done
  shift
  srun "${options[@]}" --cpus-per-task="$SLURM_CPUS_ON_NODE" --cpu-bind=none \
    ray start --block --num-cpus="$SLURM_CPUS_ON_NODE" "$@" &
  steps+=($!)
}

# Run a command that a signal to this script ends too: bash waits for others before it listens.
run() {
  "$@" &
  running=$!
  wait "$running"
}

end() {
  trap - TERM
  kill -TERM "${steps[@]}" || true
  wait "${steps[@]}" || true
  srun --nodes="${#nodes[@]}" --ntasks-per-node=1 rm -rf "$place" || true
}
trap end EXIT
trap 'kill -TERM "$running"; wait "$running" || true; exit 143' TERM

wait_for_nodes() { # by exec, so that a signal reaches it
  exec python - "${#nodes[@]}" <<'PYTHON'
import sys, time, ray

wanted, end = int(sys.argv[1]), time.monotonic() + 300
while True:
    try:
        ray.init(log_to_driver=False, ignore_reinit_error=True)
        alive = sum(node["Alive"] for node in ray.nodes())
    except ConnectionError:
        alive = 0
    if alive >= wanted:
        break
    if time.monotonic() > end:
        sys.exit(f"{alive} of {wanted} nodes have joined after 300 s; see what ray start printed.")
    time.sleep(1)
PYTHON
}

start_ray --nodes=1 --ntasks=1 --nodelist="${nodes[0]}" -- --head --include-dashboard=false \
  --node-ip-address="$head_ip" --port="${RAY_ADDRESS##*:}" --temp-dir="$place"
if ((${#nodes[@]} > 1)); then
  start_ray --nodes=$((${#nodes[@]} - 1)) --ntasks-per-node=1 --exclude="${nodes[0]}" -- \
    --address="$RAY_ADDRESS" --temp-dir="$place"
fi
run wait_for_nodes
run ray-kmeans fit "$@"
