"""Traps: points of the code at which a process or a machine is lost, once, wherever that runs.

A trap travels inside the source and the model_dir of a run and is set in every process that they
reach. The processes note who they are in its folder, so that any of them can kill any other one.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import ray

from ray_kmeans import RunConfig
from ray_kmeans.algorithm.stopping import StopRule
from ray_kmeans.data.opening import open_source
from ray_kmeans.estimator import KMeansClustering
from ray_kmeans.on_ray import pool
from ray_kmeans.store.labelled import LabelledOutput
from ray_kmeans.store.model_dir import ModelDir
from ray_kmeans.workflows import fit, label
from ray_kmeans.workflows.parameters import FitParams

ROOT = Path(__file__).parents[2]

K = 12
STEPS = 12
NOTICE_S = 3
"""From the notice to the end of a spot machine."""
_role = ""
"""What this process is; '' where no trap is set."""


@dataclass(frozen=True)
class Trap:
    """Takes `victim` away when `point` is called in a process for the `call`-th time."""

    place: str
    point: str
    """module:name, or module:class.name"""
    victim: str
    """'worker', 'coordinator' or 'driver': killed, where the process at the point is one, that one.
    'node': and the raylet above it. 'spot': its node, which is told beforehand.
    'link': the network of its machine goes down."""
    call: int = 1
    slices: bool = False
    """Add the sums of all workers up in slices, as with many clusters."""

    def set(self, role: str) -> None:
        """Set the trap in this process."""
        global _role
        if _role:
            return
        _role = role
        Path(self.place, role).write_text(str(os.getpid()))
        if self.slices:
            pool.RayPool.slice_from = 0
        module, _, names = self.point.partition(":")
        *owners, name = names.split(".")
        owner = functools.reduce(getattr, owners, importlib.import_module(module))
        setattr(owner, name, self._before(getattr(owner, name)))

    @property
    def has_sprung(self) -> bool:
        return Path(self.place, "sprung").exists()

    def _before(self, function):
        calls = itertools.count(1)

        @functools.wraps(function)
        def trapped(*args, **kwargs):
            if next(calls) >= self.call:
                self._spring()
            return function(*args, **kwargs)

        return trapped

    def _spring(self) -> None:
        try:
            Path(self.place, "sprung").touch(exist_ok=False)
        except FileExistsError:
            return
        if self.victim == "link":
            subprocess.run(["ip", "link", "set", "eth0", "down"], check=True)
            return
        if self.victim == "spot":
            give_notice()
            time.sleep(60)  # at work when it goes
            return
        if self.victim == "node":
            os.kill(os.getppid(), signal.SIGKILL)
        here = self.victim in (_role, "node")
        pid = os.getpid() if here else int(Path(self.place, self.victim).read_text())
        os.kill(pid, signal.SIGKILL)


def give_notice():
    """Tell Ray, as a cloud's autoscaler does, that this node will be taken away."""
    about = ray.get_runtime_context()
    reason = "--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=spot"
    subprocess.run(
        [
            Path(sys.executable).with_name("ray"),
            "drain-node",
            f"--address={about.gcs_address}",
            f"--node-id={about.get_node_id()}",
            *reason,
            f"--deadline-remaining-seconds={NOTICE_S}",
        ],
        check=True,
    )


class TrappedSource:
    """Rows that set a trap where they arrive."""

    def __init__(self, source, trap):
        self.source, self.trap = source, trap

    def __setstate__(self, state):
        self.__dict__.update(state)
        self.trap.set("worker")

    @property
    def files(self):
        """What the rows are of, so that labelled output of both is of the same."""
        return self.source.files

    @property
    def columns(self):
        """The names of the columns of a row, which labelled output keeps too."""
        return self.source.columns

    def describe(self):
        return self.source.describe()

    def read(self, blocks):
        return self.source.read(blocks)

    def columns_of(self, block, names):
        return self.source.columns_of(block, names)


@dataclass(frozen=True, repr=False)
class TrappedDir(ModelDir):
    """A model_dir that sets a trap where it arrives: in the coordinator."""

    trap: Trap | None = None

    def __setstate__(self, state):
        self.__dict__.update(state)
        self.trap.set("coordinator")


@dataclass(frozen=True)
class Job:
    """A fit, or labelled output of a model, as a process of its own can be told of it."""

    uri: str
    model_dir: str
    output: str = ""
    """Where labels go; '' for a fit."""
    initial: str = "random"
    mini_batch: bool = False
    cache_dir: str | None = None
    """Keep the rows on disk there."""
    workers: int = 2
    replace_timeout_s: float = 30.0
    address: str | None = None
    trap: Trap | None = None

    def run(self, listeners=()):
        """Do it; return the state of the model."""
        source = open_source(self.uri)
        if self.trap:
            source = TrappedSource(source, self.trap)
        cache = {"cache": "disk", "cache_dir": self.cache_dir} if self.cache_dir else {}
        config = RunConfig(
            num_workers=self.workers,
            worker_replace_timeout_s=self.replace_timeout_s,
            ray_address=self.address,
            worker_memory_bytes=2**30,  # so that no node need be there yet
            save_checkpoints_steps=1,
            keep_checkpoint_max=2,
            progress=False,
            **cache,
        )
        store = ModelDir.at(self.model_dir, {}, 2)
        if self.output:
            place = LabelledOutput.at(self.output, {})
            label.write_labels(
                store.fitted(), source, place, config, model_dir="", keep_columns=["v"]
            )
            return store.fitted()
        if self.trap:
            store = TrappedDir(store.url, {}, 2, trap=self.trap)
        km = KMeansClustering(
            K, initial_clusters=self.initial, use_mini_batch=self.mini_batch, random_seed=3
        )
        size = 700 if self.mini_batch else None
        plan = fit.plan_fit(
            FitParams(**km.get_params(deep=False)), config, StopRule(max_steps=STEPS), size
        )
        return fit.fit(plan, source, store, config, listeners=listeners)

    def command(self):
        """Return the command that does it in a process of its own, the driver."""
        return [
            sys.executable,
            "-c",
            "from tests.support.traps import main; main()",
            json.dumps(asdict(self)),
        ]

    def as_driver(self, seconds=120):
        """Do it in a process of its own, and wait for its end."""
        return subprocess.run(
            self.command(),
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds,
            check=False,
        )


def main() -> None:
    """Do the job of the command line, and print when what happens."""
    told = json.loads(sys.argv[1])
    trap = Trap(**told.pop("trap")) if told["trap"] else None
    if trap:
        trap.set("driver")

    def tell(event):
        print(type(event).__name__, time.time(), repr(event), flush=True)

    Job(**told, trap=trap).run([tell])
