"""Clusters of cluster_configs/ really start here, and a fit of the README runs on them."""

from __future__ import annotations

import re
import shlex
import signal
import stat
import sys
import tempfile
import time
from pathlib import Path

import pytest

from ray_kmeans import KMeansClustering, RunConfig
from ray_kmeans.demo import DATA
from ray_kmeans.errors import NotFittedError
from tests.support import machines
from tests.support.servers import BIN

pytestmark = [pytest.mark.ray, pytest.mark.long]

FOLDER = Path(__file__).parents[2] / "cluster_configs"
K = 400
FIT = ["--num-clusters", str(K), "--no-use-mini-batch", "--save-checkpoints-steps", "1"]
TOKEN = "0123456789abcdef" * 4


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The history of a fit in this process; that of every cluster must equal it bit for bit."""
    model = tmp_path_factory.mktemp("undisturbed")
    km = KMeansClustering(K, str(model), use_mini_batch=False, config=RunConfig(num_workers=0))
    return km.fit(str(DATA)).history()


def history(model):
    config = RunConfig(num_workers=0)
    return KMeansClustering(K, str(model), use_mini_batch=False, config=config).history()


def has_checkpoint(model):
    try:
        return bool(history(model))
    except NotFittedError:
        return False


@pytest.fixture
def place():
    """A folder for machines of their own; its name is short, as Ray puts sockets there."""
    missing = machines.why_not()
    if missing:
        pytest.skip(missing)
    with tempfile.TemporaryDirectory(prefix="rk", dir="/tmp") as folder:
        yield Path(folder)


# ---- machines on premise

JOINED = """python -c '
import ray, time
ray.init(log_to_driver=False)
while sum(node["Alive"] for node in ray.nodes()) < 2: time.sleep(0.2)
'"""


def prepare(place, addresses, config):
    """Give every machine this Python, and the first, from which the others are started, a token."""
    for address in addresses:
        (place / address / "venv").symlink_to(sys.prefix)
        (place / address / ".bashrc").write_text(f"export PATH={place}/bin:$PATH\n")
    home = place / addresses[0]
    (home / ".ray").mkdir()
    (home / ".ray" / "auth_token").write_text(TOKEN)
    (home / "key").write_text("what ssh would need")
    (home / "cluster.yaml").write_text(config)


def for_machines(head, worker):
    """Return on-premise.yaml for two machines that have the package and reach no index."""
    text = (FOLDER / "on-premise.yaml").read_text()
    filled = {
        "REPLACE_HEAD": head,
        "[REPLACE_WORKER_1, REPLACE_WORKER_2]": f"[{worker}]",
        "REPLACE_USER": "root",
        "REPLACE_KEY": "~/key",
        "~/ray-kmeans: .": f"~/ray-kmeans: {FOLDER}",
    }
    for old, new in filled.items():
        assert old in text
        text = text.replace(old, new)
    return re.sub(r"\n.*(?:pip install --quiet|bin/ray-kmeans compile).*", "", text)


def test_ray_up_fits_on_machines_on_premise_and_ray_down_ends_them(place, undisturbed, tmp_path):
    with machines.machines(place, 3) as (laptop, head, worker):
        prepare(place, (laptop, head, worker), for_machines(head, worker))

        def on_laptop(command, environment="RAY_AUTH_MODE=token"):
            export = f"cd ~; export PATH={BIN}:$PATH {environment}; "
            return machines.run(place, laptop, export + command, 150)

        def submit(environment):
            fit = shlex.join(["ray-kmeans", "fit", str(DATA), str(tmp_path / "model"), *FIT])
            job = f"{environment} ray job submit --address http://127.0.0.1:8265 -- {fit}"
            return on_laptop(f"ray exec cluster.yaml {shlex.quote(job)}")

        up = on_laptop("ray up --yes cluster.yaml")
        joined = on_laptop(f"ray exec cluster.yaml {shlex.quote(JOINED)}")
        refused = submit(f"RAY_AUTH_TOKEN={TOKEN[::-1]}")
        done = submit("")
        open_ports = [listening(place, machine) for machine in (head, worker)]
        down = on_laptop("ray down --yes cluster.yaml")
        left = machines.run(place, head, "ps -eo comm", 20).stdout

    assert up.returncode == 0, up.stdout
    assert joined.returncode == 0, joined.stdout
    assert refused.returncode != 0, refused.stdout
    assert done.returncode == 0, done.stdout
    assert "workers=2" in done.stdout, done.stdout
    assert history(tmp_path / "model") == undisturbed
    assert ("127.0.0.1", 8265) in open_ports[0]
    assert down.returncode == 0, down.stdout
    assert "raylet" not in left
    for address, port in set().union(*open_ports):
        assert address == "127.0.0.1" or any(port in ports for ports in listed()), port


def listening(place, machine):
    """Return the addresses and ports on which anything listens on a machine."""
    seen = machines.run(place, machine, "ss -ltnH", 20).stdout.split()
    pairs = [word.rpartition(":") for word in seen if re.fullmatch(r".+:\d+", word)]
    return {(address.strip("[]").removeprefix("::ffff:"), int(port)) for address, _, port in pairs}


def listed():
    """Return the ports that the page about clusters lists for launched clusters, as ranges."""
    page = (FOLDER.parent / "docs" / "clusters.md").read_text()
    rows = re.findall(r"^\| (\d[\d, -]*) \|", page, re.MULTILINE)
    ends = [each.split("-") for row in rows for each in row.split(", ")]
    return [range(int(low), int((high or [low])[0]) + 1) for low, *high in ends]


# ---- Slurm: its programs are stood in for by ones that do the same on one machine

SRUN = f"""#!/bin/bash
while [[ $1 == --* ]]; do shift; done
if [[ $1 == ray ]]; then # both nodes are on this machine: each is small, with a port of its own
  set -- "$@" --object-store-memory={100 * 2**20} --dashboard-agent-listen-port="$(({20000} + $$))"
fi
exec "$@"
"""
SCONTROL = '#!/bin/bash\n[[ "$1 $2" == "show hostnames" ]] && tr , "\\n" <<< "$3"\n'
HOSTNAME = '#!/bin/bash\n[[ $1 == --ip-address ]] && echo "{address} 192.0.2.7"\n'


class Slurm:
    """A job on two nodes, as `sbatch cluster_configs/slurm.sh` would start it."""

    def __init__(self, place, address):
        self.place, self.address = place, address
        programs = place / address / "bin"
        programs.mkdir()
        scripts = {"srun": SRUN, "scontrol": SCONTROL, "hostname": HOSTNAME}
        for name, text in scripts.items():
            (programs / name).write_text(text.replace("{address}", address))
            (programs / name).chmod(stat.S_IRWXU)
        job = "SLURM_JOB_ID=7 SLURM_JOB_NODELIST=node1,node2 SLURM_CPUS_ON_NODE=1"
        self.export = f"export PATH={programs}:{BIN}:$PATH {job}; echo $$ > ~/pid; exec bash "

    def start(self, *arguments):
        command = shlex.join([str(FOLDER / "slurm.sh"), *map(str, arguments)])
        return machines.start(self.place, self.address, self.export + command)

    def end(self):
        machines.run(self.place, self.address, "kill -TERM $(cat ~/pid)", 20)

    def left(self):
        """Return what still runs or lies there of Ray."""
        seen = machines.run(self.place, self.address, "ps -eo args; ls -d /tmp/ray-7", 20).stdout
        of_ray = r"^/tmp/ray-7$|gcs_server|raylet|ray::|ray start|site-packages/ray/"
        return [line for line in seen.splitlines() if re.search(of_ray, line)]


def test_the_slurm_script_fits_on_all_nodes_and_leaves_nothing_behind(place, undisturbed, tmp_path):
    with machines.machines(place, 1) as (machine,):
        slurm = Slurm(place, machine)
        job = slurm.start(DATA, tmp_path / "model", *FIT)
        out, _ = job.communicate(timeout=200)
        left = slurm.left()

    assert job.returncode == 0, out
    assert "workers=2" in out, out
    assert history(tmp_path / "model") == undisturbed
    assert left == []


def test_the_slurm_script_ends_on_sigterm_and_its_fit_continues_when_it_is_submitted_again(
    place, undisturbed, tmp_path
):
    model = tmp_path / "model"
    with machines.machines(place, 1) as (machine,):
        slurm = Slurm(place, machine)
        job = slurm.start(DATA, model, *FIT)
        deadline = time.monotonic() + 120
        while not has_checkpoint(model) and time.monotonic() < deadline:
            time.sleep(0.01)
        slurm.end()
        out, _ = job.communicate(timeout=60)
        before, left = history(model), slurm.left()
        again = slurm.start(DATA, model, *FIT)
        out_again, _ = again.communicate(timeout=200)

    assert job.returncode == 128 + signal.SIGTERM, out
    assert left == []
    assert 0 < len(before) < len(undisturbed)
    assert again.returncode == 0, out_again
    assert history(model) == undisturbed
