"""Clusters of cluster_configs/ really start here, on loopback, and a fit of the README runs on them."""

from __future__ import annotations

import os
import re
import shlex
import signal
import stat
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import yaml

from ray_kmeans import KMeansClustering, RunConfig
from ray_kmeans.demo import DATA
from tests import machines
from tests.servers import BIN, end, free_port, wait_for

pytestmark = pytest.mark.ray

FOLDER = Path(__file__).parents[1] / "cluster_configs"
STEPS = ["--num-clusters", "12", "--no-use-mini-batch", "--max-steps", "6"]
SMALL = f"--object-store-memory={100 * 2**20}"


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """The centers of a fit in this process; those of every cluster must equal them bit for bit."""
    here = RunConfig(num_workers=0)
    km = KMeansClustering(
        12, str(tmp_path_factory.mktemp("here")), use_mini_batch=False, config=here
    )
    return km.fit(str(DATA), max_steps=6).clusters()


def centers(model):
    here = RunConfig(num_workers=0)
    return KMeansClustering(12, str(model), use_mini_batch=False, config=here).clusters()


@pytest.fixture
def place():
    """A folder with a short name: paths of sockets are short."""
    with tempfile.TemporaryDirectory(prefix="rk", dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture
def environment(place):
    """What processes of a cluster see: this Python first, and a home with a token for Ray."""
    home = place / "home"
    (home / ".ray").mkdir(parents=True)
    (home / ".ray" / "auth_token").write_text("0123456789abcdef" * 4)
    kept = {name: value for name, value in os.environ.items() if name != "RAY_AUTH_MODE"}
    return {**kept, "HOME": str(home), "PATH": f"{BIN}:{os.environ['PATH']}"}


def on_loopback(command, place, ports):
    """Return a command of on-premise.yaml for one of several nodes on this machine.

    Their ports differ, as they share its address; what starts further nodes by SSH is left out.
    """
    command = re.sub(r"port=(\d+)", lambda port: f"port={ports[port[1]]}", command)
    command = command.replace("$RAY_HEAD_IP:6379", f"$RAY_HEAD_IP:{ports['6379']}")
    command = command.replace("--autoscaling-config=~/ray_bootstrap_config.yaml", "")
    return command.replace("RAY_AUTH_MODE=token ray", "RAY_AUTH_MODE=token exec ray") + (
        f" --block --temp-dir={place} --num-cpus=1 {SMALL}"
        f" --dashboard-agent-listen-port={free_port()}"
    )


@contextmanager
def started(command, environment):
    process = subprocess.Popen(
        ["bash", "-c", command],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        end(process)


def test_the_commands_of_the_machines_on_premise_start_a_cluster_for_a_submitted_fit(
    place, environment, expected, tmp_path
):
    config = yaml.safe_load((FOLDER / "on-premise.yaml").read_text())
    [head] = [line for line in config["head_start_ray_commands"] if "--head" in line]
    [worker] = [line for line in config["worker_start_ray_commands"] if "--address" in line]
    directory, dashboard = str(free_port()), free_port()
    node = {**environment, "RAY_HEAD_IP": "127.0.0.1"}

    def ports(first):
        own = {"6379": directory, "6380": free_port(), "6381": free_port()}
        return {**own, "10002": first, "10999": first + 99}

    def submit(environment):
        return subprocess.run(
            ["ray", "job", "submit", "--address", f"http://127.0.0.1:{dashboard}", "--"]
            + ["ray-kmeans", "fit", str(DATA), str(tmp_path / "model"), *STEPS],
            env=environment,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )

    start_head = on_loopback(head, place / "0", ports(31000)) + f" --dashboard-port={dashboard}"
    with started(start_head, node) as process:
        wait_for(f"http://127.0.0.1:{dashboard}/api/version", process, 60)
        with started(on_loopback(worker, place / "1", ports(31200)), node):
            wait_for_nodes(2, f"127.0.0.1:{directory}", node)
            stranger = {**environment, "HOME": str(tmp_path), "RAY_AUTH_MODE": "disabled"}
            refused = submit(stranger)
            done = submit({**environment, "RAY_AUTH_MODE": "token"})

    assert refused.returncode != 0
    assert done.returncode == 0, done.stdout + done.stderr
    assert "12 clusters of 6,000 rows" in done.stdout
    assert "workers=2" in done.stdout, done.stdout
    np.testing.assert_array_equal(centers(tmp_path / "model"), expected)


def wait_for_nodes(wanted, address, environment):
    code = (
        "import ray, sys, time; ray.init(address=sys.argv[1], log_to_driver=False)\n"
        "while sum(node['Alive'] for node in ray.nodes()) < int(sys.argv[2]): time.sleep(0.2)"
    )
    token = {**environment, "RAY_AUTH_MODE": "token"}
    command = ["python", "-c", code, address, str(wanted)]
    subprocess.run(command, env=token, timeout=60, check=True, capture_output=True)


# ---- Slurm: its programs are stood in for by ones that do the same on this machine

SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do shift; done
if [[ $1 == ray ]]; then # small, and its ports are this machine's
  exec "$@" {small} --dashboard-agent-listen-port="$(python -c '
import socket
probe = socket.socket()
probe.bind(("127.0.0.1", 0))
print(probe.getsockname()[1])')"
fi
exec "$@"
"""
SCONTROL = '#!/bin/bash\n[[ "$1 $2" == "show hostnames" ]] && tr , "\\n" <<< "$3"\n'
HOSTNAME = '#!/bin/bash\n[[ $1 == --ip-address ]] && echo "127.0.0.1 192.0.2.7"\n'


@pytest.fixture
def slurm(place, environment):
    """The environment of a job on two nodes."""
    programs = place / "bin"
    programs.mkdir()
    for name, text in {"srun": SRUN, "scontrol": SCONTROL, "hostname": HOSTNAME}.items():
        (programs / name).write_text(text.replace("{small}", SMALL))
        (programs / name).chmod(stat.S_IRWXU)
    job = {
        "SLURM_JOB_ID": str(os.getpid() * 10),  # the port follows from it
        "SLURM_JOB_NODELIST": "node1,node2",
        "SLURM_CPUS_ON_NODE": "1",
    }
    return {**environment, **job, "PATH": f"{programs}:{environment['PATH']}"}


def sbatch(environment, *arguments):
    return subprocess.Popen(
        ["bash", str(FOLDER / "slurm.sh"), *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def alive_in(session):
    """Return the processes of a session that still run, without zombies."""
    table = subprocess.run(
        ["ps", "-s", str(session), "-o", "stat=,args="], capture_output=True, text=True, check=False
    ).stdout
    return [line for line in table.splitlines() if not line.startswith("Z")]


def test_the_slurm_script_fits_on_all_nodes_and_leaves_nothing_behind(slurm, expected, tmp_path):
    job = sbatch(slurm, DATA, tmp_path / "model", *STEPS)
    out, _ = job.communicate(timeout=240)

    assert job.returncode == 0, out
    assert "12 clusters of 6,000 rows" in out
    assert "workers=2" in out, out
    np.testing.assert_array_equal(centers(tmp_path / "model"), expected)
    assert alive_in(job.pid) == []
    assert not Path(f"/tmp/ray-{slurm['SLURM_JOB_ID']}").exists()


def test_the_slurm_script_ends_on_sigterm_and_its_fit_continues_when_it_is_submitted_again(
    slurm, tmp_path
):
    fit = ["--num-clusters", "400", "--no-use-mini-batch", "--save-checkpoints-steps", "1"]
    undisturbed = [str(DATA), str(tmp_path / "undisturbed"), *fit, "--num-workers", "0"]
    subprocess.run(["ray-kmeans", "fit", *undisturbed], env=slurm, check=True, capture_output=True)

    job = sbatch(slurm, DATA, tmp_path / "model", *fit)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "model").glob("*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    job.send_signal(signal.SIGTERM)
    out, _ = job.communicate(timeout=60)

    assert job.returncode == 128 + signal.SIGTERM, out
    assert alive_in(job.pid) == []
    done = history(tmp_path / "model", 400)
    assert 0 < len(done) < len(history(tmp_path / "undisturbed", 400))

    again = sbatch(slurm, DATA, tmp_path / "model", *fit)
    out, _ = again.communicate(timeout=240)

    assert again.returncode == 0, out
    assert history(tmp_path / "model", 400) == history(tmp_path / "undisturbed", 400)


def history(model, k):
    here = RunConfig(num_workers=0)
    return KMeansClustering(k, str(model), use_mini_batch=False, config=here).history()


# ---- the launcher, on machines of their own

JOINED = """python -c '
import ray, time
ray.init(log_to_driver=False)
while sum(node["Alive"] for node in ray.nodes()) < 2: time.sleep(0.2)
'"""


def prepare(place, addresses, config):
    """Give every machine this Python, and the first, from which the others are started, a token."""
    for address in addresses:
        (place / address / "venv").symlink_to(sys.prefix)
    home = place / addresses[0]
    (home / ".ray").mkdir()
    (home / ".ray" / "auth_token").write_text("0123456789abcdef" * 4)
    (home / "key").write_text("what ssh would need")
    (home / "cluster.yaml").write_text(config)


def listening(place, address):
    return machines.run(place, address, "ss -ltnHp", 20).stdout


def test_ray_up_fits_on_machines_on_premise_and_ray_down_ends_them(place, expected, tmp_path):
    missing = machines.why_not()
    if missing:
        pytest.skip(missing)
    with machines.machines(place, 3) as (laptop, head, worker):
        model = tmp_path / "model"
        text = (FOLDER / "on-premise.yaml").read_text()
        filled = {
            "REPLACE_HEAD": head,
            "[REPLACE_WORKER_1, REPLACE_WORKER_2]": f"[{worker}]",
            "REPLACE_USER": "root",
            "REPLACE_KEY": "~/key",
            "~/ray-kmeans: .": f"~/ray-kmeans: {FOLDER}",  # any folder will do: see below
        }
        for old, new in filled.items():
            text = text.replace(old, new)
        lines = [line for line in text.splitlines() if "pip install --quiet" not in line]
        prepare(place, (laptop, head, worker), "\n".join(lines))

        def on_laptop(command, seconds=120):
            export = f"cd ~; export RAY_AUTH_MODE=token PATH={BIN}:$PATH; "
            return machines.run(place, laptop, export + command, seconds)

        up = on_laptop("ray up --yes cluster.yaml")
        assert up.returncode == 0, up.stdout
        joined = on_laptop(f"ray exec cluster.yaml {shlex.quote(JOINED)}")
        assert joined.returncode == 0, joined.stdout
        fit = ["ray-kmeans", "fit", str(DATA), str(model), *STEPS]
        submitted = f"ray job submit --address http://127.0.0.1:8265 -- {shlex.join(fit)}"
        done = on_laptop(f"ray exec cluster.yaml {shlex.quote(submitted)}")
        open_to = listening(place, head)
        down = on_laptop("ray down --yes cluster.yaml")

        assert done.returncode == 0, done.stdout
        assert "12 clusters of 6,000 rows" in done.stdout
        np.testing.assert_array_equal(centers(model), expected)
        print(open_to)
        assert down.returncode == 0, down.stdout
