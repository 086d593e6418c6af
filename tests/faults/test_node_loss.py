"""A node is lost during a sweep: the others go on with its rows, and the bits are the same."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest

from ray_kmeans.store.model_dir import ModelDir
from tests.support import machines
from tests.support.processes import is_alive
from tests.support.ray_runs import bits, comes_true, fit_processes, write_real_data
from tests.support.servers import BIN, end
from tests.support.traps import Job, Trap

pytestmark = [pytest.mark.ray, pytest.mark.long(kind="lost node")]

ROOT = Path(__file__).parents[2]
SWEEP = "ray_kmeans.engine.worker:ShardWorker.sweep"
FAST = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 1000,
    "health_check_failure_threshold": 3,
}
"""A node that gives no sign is lost after two seconds; by default after a quarter of a minute."""


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    return write_real_data(tmp_path_factory.mktemp("real") / "data")


@pytest.fixture(scope="module")
def peace(uri, tmp_path_factory):
    return Job(uri, str(tmp_path_factory.mktemp("m")), workers=0).run()


def trapped(uri, tmp_path, victim, **how):
    """Return a fit that loses something in the fifth sweep of a worker."""
    place = tmp_path / "trap"
    place.mkdir()
    return Job(uri, str(tmp_path / "model"), trap=Trap(str(place), SWEEP, victim, 5), **how)


def check_same(job, expected):
    assert job.trap.has_sprung
    assert bits(ModelDir.at(job.model_dir, {}, 2).latest()) == bits(expected)


def seconds_lost(job, output):
    """Return the time from the loss to the end of the iteration that met it, the fifth."""
    [end] = re.findall(r"^IterationDone (\S+) .*iteration=5,", output, re.MULTILINE)
    return float(end) - Path(job.trap.place, "sprung").stat().st_mtime


# --- a node dies ---------------------------------------------------------------------------------


@contextmanager
def cluster(nodes):
    """Give a cluster with so many nodes of one CPU: its process, address and raylets' pids."""
    with tempfile.TemporaryDirectory(prefix="rk", dir="/tmp") as place:
        code = (
            "import json, sys\n"
            "from ray.cluster_utils import Cluster\n"
            f"head = dict(num_cpus=0, include_dashboard=False, temp_dir={place!r},\n"
            f"            object_store_memory=100 * 2**20, _system_config={FAST!r})\n"
            "cluster = Cluster(initialize_head=True, head_node_args=head)\n"
            "more = dict(num_cpus=1, object_store_memory=100 * 2**20)\n"
            f"nodes = [cluster.add_node(**more) for _ in range({nodes})]\n"
            "cluster.wait_for_nodes()\n"
            "pids = [node.all_processes['raylet'][0].process.pid for node in nodes]\n"
            "print(json.dumps([cluster.address, pids]), flush=True)\n"
            "sys.stdin.read()\n"
            "cluster.shutdown()\n"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            lines = iter(process.stdout.readline, "")
            yield process, *json.loads(next(line for line in lines if line.startswith("[")))
        finally:
            process.stdin.close()
            process.wait(60)


@pytest.mark.parametrize(("nodes", "patience"), [(3, 30.0), (2, 0.5)], ids=["spare", "survivor"])
def test_a_node_that_dies_in_a_sweep_costs_seconds_and_no_bit(
    uri, peace, tmp_path, nodes, patience
):
    with cluster(nodes) as (process, address, raylets):
        job = trapped(uri, tmp_path, "node", address=address, replace_timeout_s=patience)
        done = job.as_driver(150)
        assert done.returncode == 0, done.stdout
        assert sum(map(is_alive, raylets)) == nodes - 1
        assert comes_true(lambda: not fit_processes(process.pid), 60)

    [loaded] = re.findall(r"^DataLoaded .*workers=(.*)\)$", done.stdout, re.MULTILINE)
    pids = [int(pid) for pid in re.findall(r", (\d+)\)", loaded)]
    assert len(pids) == 2
    assert comes_true(lambda: not any(map(is_alive, pids)), 60)

    check_same(job, peace)
    assert done.stdout.count("WorkerReplaced ") == 1
    lost = seconds_lost(job, done.stdout)
    print(f"\nfrom the loss to the end of its iteration: {lost:.1f} s")
    assert lost < 60


def test_a_node_that_goes_after_a_spot_notice_costs_no_bit(uri, peace, tmp_path):
    with cluster(3) as (_, address, raylets):
        job = trapped(uri, tmp_path, "spot", address=address)
        done = job.as_driver(150)
        assert done.returncode == 0, done.stdout
        assert comes_true(lambda: sum(map(is_alive, raylets)) == 2, 60)

    check_same(job, peace)
    # The node goes when its time is over; a worker that lags for 10 s is not waited for.
    assert "WorkerReplaced " in done.stdout or "WorkersLag " in done.stdout


# --- a link is cut -------------------------------------------------------------------------------


@pytest.fixture
def place():
    missing = machines.why_not()
    if missing:
        pytest.skip(missing)
    with tempfile.TemporaryDirectory(prefix="rk", dir="/tmp") as folder:
        yield Path(folder)


def test_a_machine_that_is_cut_off_in_a_sweep_is_not_waited_for(uri, peace, tmp_path, place):
    said = f"RAY_AUTH_MODE=disabled RAY_USAGE_STATS_ENABLED=0 PYTHONPATH={ROOT} PATH={BIN}:$PATH"
    start = f"cd {ROOT}; export {said}; exec ray start --block --object-store-memory=100000000"
    with machines.machines(place, 3) as addresses:
        head, *others = addresses
        more = f"--head --port=6379 --num-cpus=0 --include-dashboard=false --node-ip-address={head}"
        nodes = [machines.start(place, head, f"{start} {more}")]
        answers = f"until (: < /dev/tcp/{head}/6379) 2>/dev/null; do sleep 0.2; done"
        for address in others:
            more = f"--address={head}:6379 --node-ip-address={address} --num-cpus=1"
            nodes.append(machines.start(place, address, f"{answers}; {start} {more}"))
        job = trapped(uri, tmp_path, "link", address=f"{head}:6379")
        fit = f"cd {ROOT}; export {said}; {shlex.join(job.command())}"
        machines.run(place, head, answers, 60)
        done = machines.run(place, head, fit, 200)
        for node in nodes:
            end(node)

    assert done.returncode == 0, done.stdout
    check_same(job, peace)
    assert "WorkersLag " in done.stdout
    lost = seconds_lost(job, done.stdout)
    print(f"\nfrom the cut to the end of its iteration: {lost:.1f} s")
    assert 9 < lost < 60
