"""Random faults under load: every fit is compared with the undisturbed one in this process.

    python tests/support/soak.py --minutes 60 --seed 0
    python tests/support/soak.py --minutes 30 --seed 0 --fast-killer

Each of the lanes has a Ray of its own and runs one job after the other (jobs/fit.py, and for some
models jobs/predict.py) on small random problems, while workers, coordinators and drivers are
killed, paused and asked to end. A job that a fault has ended is run again by the same command. The
exit code is 1 where anything differs from the run in peace, or a process of a fit stays.

With --fast-killer one thing alone happens: every 1.5 to 4 seconds a random worker or coordinator of
the job is killed, for as long as it runs. A job that gives up then is a difference, too.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from threading import Lock
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
for name, value in {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # loopback only
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
}.items():
    os.environ.setdefault(name, value)

import numpy as np  # noqa: E402
import pyarrow as pa  # noqa: E402

from ray_kmeans import KMeansClustering, RunConfig, open_source  # noqa: E402
from ray_kmeans.store.model_dir import ModelDir  # noqa: E402
from tests.support.files import put_table  # noqa: E402
from tests.support.ray_runs import bits, comes_true, descendants  # noqa: E402
from tests.support.servers import lasting_ray  # noqa: E402

HERE = RunConfig(num_workers=0, progress=False)
KINDS = {
    "kill worker": 5,
    "kill coordinator": 4,
    "kill driver": 3,
    "pause worker": 4,
    "pause coordinator": 2,
    "pause driver": 1,
    "SIGTERM driver": 2,
}
"""Faults, and how often each is drawn beside the others."""
MOST_RUNS = 12
"""Of one job, until it is given up as never ending."""
TITLES = {"worker": "ray::KMeansWorker", "coordinator": "ray::Coordinator"}
GAVE_UP = "times in a row", "the coordinator died"
"""What a job says that met more losses than it bears."""
BETWEEN_S = 1.5, 4.0
"""From one SIGKILL of the fast killer to the next."""
in_peace = Lock()
"""One at a time computes in this process."""


@dataclass(frozen=True)
class Problem:
    """What to fit, and how."""

    shape: tuple[int, int]
    params: Mapping[str, Any]
    """What decides the result."""
    limits: Mapping[str, Any]
    """What ends it."""
    weighted: bool
    run: Mapping[str, Any]
    """What must not decide it."""

    def __str__(self) -> str:
        about = self.params | self.limits | self.run
        words = [f"{key}={value}" for key, value in about.items() if value not in (True, False)]
        words += [key for key, value in about.items() if value is True]
        return f"{self.shape} {'weighted ' if self.weighted else ''}{' '.join(words)}"


def problem(draw: Random, fast_killer: bool = False) -> Problem:
    """Draw a problem that takes some seconds on Ray."""
    rows, features = draw.choice([500, 2000, 6000, 20000]), draw.randint(2, 24)
    mini_batch = draw.random() < 0.5
    params = {
        "num_clusters": draw.randint(2, 40),
        "random_seed": draw.randint(0, 999),
        "initial_clusters": draw.choice(["random", "kmeans_plus_plus", "kmc2", "kmeans_parallel"]),
        "distance_metric": draw.choice(["squared_euclidean", "cosine"]),
        "use_mini_batch": mini_batch,
    }
    limits = {"max_steps": draw.randint(50, 400)}
    if mini_batch:
        params["mini_batch_steps_per_iteration"] = draw.choice([1, 1, 3, 8])
        limits["batch_size"] = draw.choice([100, rows // 3, rows])
    else:
        params["empty_clusters"] = draw.choice(["keep", "farthest", "split_largest"])
    few = draw.randint(1, 3)
    workers = draw.choice(
        [
            {"num_workers": few},
            {"num_workers": 3, "min_workers": 1},
            {"num_workers": 1, "min_workers": 1, "max_workers": 4},
        ]
    )
    if fast_killer:  # a single worker would be hit before it has read its rows
        workers = {"num_workers": 3, **draw.choice([{}, {"min_workers": 1}])}
    run = {
        **workers,
        "cpus_per_worker": 0.5,
        "cache": draw.choice(["memory", "disk", "source", "source"]),
        "save_checkpoints_steps": draw.choice([1, 3, 10]),
        "keep_checkpoint_max": draw.choice([1, 3]),
        "worker_replace_timeout_s": draw.choice([0.1, 30.0]),
        "detached": draw.random() < 0.3 and not fast_killer,
    }
    return Problem((rows, features), params, limits, draw.random() < 0.4, run)


def write_data(folder: Path, problem: Problem, seed: int) -> None:
    """Write rows without groups, for fits of many steps, and weights of which some are 0."""
    rows, features = problem.shape
    chance = np.random.default_rng(seed)
    vectors = chance.normal(size=(rows, features))
    weights = chance.integers(0, 5, rows) / chance.choice([1, 8])
    for number, part in enumerate(np.array_split(np.arange(rows), 4)):
        flat = pa.array(vectors[part].astype(np.float32).ravel())
        columns = {"v": pa.FixedSizeListArray.from_arrays(flat, features), "w": weights[part]}
        put_table(folder, f"{number}.parquet", pa.table(columns), row_group_size=rows // 12)


@dataclass
class Counts:
    """What happened, over all lanes."""

    faults: Counter[str] = field(default_factory=Counter)
    totals: Counter[str] = field(default_factory=Counter)
    differences: list[str] = field(default_factory=list)
    lock: Lock = field(default_factory=Lock)

    def add(self, line: str, faults: list[str], differs: list[str], **totals: int) -> None:
        """Count what a fit has met, and print its line."""
        with self.lock:
            self.faults.update(faults)
            self.totals.update(totals)
            self.differences += [f"{line}: {each}" for each in differs]
            met = ", ".join(f"{kind} {n}" for kind, n in sorted(Counter(faults).items()))
            print(f"{line} | {met or 'in peace'} | {'; '.join(differs) or 'same'}", flush=True)


# --- one job under fire --------------------------------------------------------------------------


class Lane:
    """A Ray of its own, on which jobs meet faults."""

    def __init__(
        self, head: subprocess.Popen[str], address: str, draw: Random, fast_killer: bool
    ) -> None:
        self.head, self.address, self.draw = head, address, draw
        self.fast_killer = fast_killer
        self.met: list[str] = []
        self.runs = 0

    def job(self, args: list[str], log: Path, faults: int, is_done: Any, follows: bool) -> str:
        """Run a job until it is done, while faults hit it; return what went wrong, or ''."""
        for _ in range(MOST_RUNS):
            self.runs += 1
            met = len(self.met)
            with log.open("w") as out:
                process = subprocess.Popen(
                    [sys.executable, *args],
                    cwd=ROOT,
                    env={**os.environ, "RAY_ADDRESS": self.address, "PYTHONPATH": str(ROOT)},
                    stdout=out,
                    stderr=subprocess.STDOUT,
                )
                faults -= self.disturb(process, log, faults)
                code = process.wait(300)
            if code == 0:
                return ""
            asked = {"kill driver", "SIGTERM driver"} & set(self.met[met:])
            may_give_up = not self.fast_killer
            gave_up = may_give_up and any(words in log.read_text() for words in GAVE_UP)
            if not asked and not gave_up:
                return f"exit code {code} without a cause:\n{log.read_text()}"
            if not follows and not self.is_quiet():
                return "processes of a fit whose driver is dead stay"
            if is_done() and not self.processes():
                return ""
        return f"it was run {MOST_RUNS} times and has not ended:\n{log.read_text()}"

    def is_quiet(self) -> bool:
        """Tell whether no process of a fit is left, or goes soon."""
        return comes_true(lambda: not self.processes(), 60)

    def processes(self, *kinds: str) -> list[int]:
        """Return the pids of all workers and coordinators of this Ray, or of some."""
        titles = tuple(TITLES[kind] for kind in kinds or TITLES)
        below = descendants(self.head.pid)
        return sorted(pid for pid, title in below.items() if title.startswith(titles))

    def disturb(self, driver: subprocess.Popen[Any], log: Path, most: int) -> int:
        """Inject so many faults at most while the driver runs; return how many."""
        if self.fast_killer:
            return self.kill_around(driver)
        done = 0
        while done < most and self.wait_for_moment(driver, log):
            kind = self.draw.choices(list(KINDS), list(KINDS.values()))[0]
            done += self.hit(kind, driver)
        return done

    def kill_around(self, driver: subprocess.Popen[Any]) -> int:
        """Kill a random worker or coordinator every few seconds while the driver runs."""
        done = 0
        while not comes_true(lambda: driver.poll() is not None, self.draw.uniform(*BETWEEN_S)):
            kinds = [kind for kind in TITLES for _ in self.processes(kind)]
            done += bool(kinds) and self.hit(f"kill {self.draw.choice(kinds)}", driver)
        return done

    def wait_for_moment(self, driver: subprocess.Popen[Any], log: Path) -> bool:
        """Wait for the time of the next fault, often during the iterations; False: it ended."""
        if self.draw.random() < 0.6:
            begun = lambda: driver.poll() is not None or "iteration=" in log.read_text()  # noqa: E731
            comes_true(begun, 60)
            wait = self.draw.uniform(0, 0.8)
        else:
            wait = self.draw.uniform(0, 5)
        return not comes_true(lambda: driver.poll() is not None, wait)

    def hit(self, kind: str, driver: subprocess.Popen[Any]) -> bool:
        """Do this to a process of that kind; tell whether there was one."""
        what, whom = kind.split()
        pids = [driver.pid] if whom == "driver" else self.processes(whom)
        if not pids:
            return False
        pid = self.draw.choice(pids)
        with suppress(ProcessLookupError):
            if what == "pause":
                # Beyond the 10 s at which a worker lags, now and then.
                self.pause(pid, 13 if self.draw.random() < 0.1 else self.draw.uniform(0.05, 2))
            else:
                os.kill(pid, signal.SIGKILL if what == "kill" else signal.SIGTERM)
            self.met.append(kind)
            return True
        return False

    def pause(self, pid: int, seconds: float) -> None:
        os.kill(pid, signal.SIGSTOP)
        try:
            time.sleep(seconds)
        finally:
            os.kill(pid, signal.SIGCONT)


@contextmanager
def lane(draw: Random, fast_killer: bool = False):
    """Give a lane with a Ray that outlives drivers."""
    with lasting_ray(8) as (head, address):
        yield Lane(head, address, draw, fast_killer)


# --- one fit -------------------------------------------------------------------------------------


def flags(options: Mapping[str, Any]) -> list[str]:
    """Return options as flags of a job."""
    found = []
    for key, value in options.items():
        name = key.replace("_", "-")
        if isinstance(value, bool):
            found.append(f"--{name}" if value else f"--no-{name}")
        else:
            found.append(f"--{name}={value}")
    return found


def one_fit(number: int, seed: int, lane: Lane, counts: Counts, place: Path) -> None:
    """Fit a problem in peace and under fire, and compare."""
    draw = Random(f"{seed} {number}")
    lane.draw, lane.met, lane.runs = draw, [], 0
    one, begin = problem(draw, lane.fast_killer), time.monotonic()
    data, models, cache = place / "data", [place / "here", place / "there"], place / "cache"
    cache.mkdir(parents=True)
    write_data(data, one, number)
    weight = "w" if one.weighted else None
    with in_peace:
        km = KMeansClustering(model_dir=str(models[0]), config=HERE, **one.params)
        km.fit(open_source(str(data), ["v"], sample_weight=weight), **one.limits)

    def state(model: Path) -> Any:
        return ModelDir.at(str(model), {}, 5).latest()

    def is_done() -> bool:
        found = state(models[1])
        return found is not None and found.stop is not None

    given = {**one.params, **one.limits, **one.run, "cache_dir": cache, "log_step_count_steps": 1}
    if weight:
        given["sample_weight"] = weight
    args = ["jobs/fit.py", str(data), str(models[1]), "--columns", "v", *flags(given)]
    wrong = lane.job(args, place / "log", draw.randint(1, 5), is_done, one.run["detached"])
    differs = [wrong] if wrong else []
    if not differs and bits(state(models[0])) != bits(state(models[1])):
        differs.append("the model differs")
    if not differs and draw.random() < 0.3:
        differs += labels(lane, one, data, models[0], place, weight)
    if not lane.is_quiet():
        differs.append("processes of a fit stay")
    if list(cache.iterdir()):
        differs.append("files of a cache stay")
    iterations = state(models[0]).iteration
    line = f"{number} {one} | {iterations} iterations, {time.monotonic() - begin:.0f} s"
    counts.add(line, lane.met, differs, fits=1, iterations=iterations, jobs=lane.runs)


def labels(
    lane: Lane, one: Problem, data: Path, model: Path, place: Path, weight: str | None
) -> list[str]:
    """Write labels in peace and under fire; return what differs."""
    outputs = [place / "labels-here", place / "labels-there"]
    base = ["jobs/predict.py", str(data), str(model)]
    more = ["--columns", "v", "--keep-columns", "w"]
    with in_peace:
        subprocess.run(
            [sys.executable, *base, str(outputs[0]), *more, "--num-workers=0"],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            check=True,
            capture_output=True,
        )
    args = [*base, str(outputs[1]), *more, "--num-workers=2", "--cpus-per-worker=0.5"]
    done = lambda: (outputs[1] / "_manifest.json").exists()  # noqa: E731
    wrong = lane.job(args, place / "log", 2, done, follows=False)
    contents = [
        {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.glob("[!_]*")}
        | {"_manifest.json": (folder / "_manifest.json").read_bytes()}
        for folder in outputs
    ]
    return [wrong] if wrong else [] if contents[0] == contents[1] else ["the labels differ"]


# --- all of them ---------------------------------------------------------------------------------


def run_lane(which: int, told: argparse.Namespace, counts: Counts, end: float) -> None:
    """Fit one problem after the other until the time is over."""
    with (
        lane(Random(), told.fast_killer) as here,
        tempfile.TemporaryDirectory(prefix="soak") as folder,
    ):
        number = which
        while time.monotonic() < end:
            place = Path(folder) / str(number)
            one_fit(number, told.seed, here, counts, place)
            shutil.rmtree(place)
            number += told.lanes


def main() -> int:
    """Run, print what was counted, and return the exit code."""
    parser = argparse.ArgumentParser(description="Random faults under load.")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lanes", type=int, default=2, help="jobs at once, each on its own Ray")
    parser.add_argument(
        "--fast-killer", action="store_true", help="kill a process every 1.5 to 4 s, and no more"
    )
    parser.add_argument(
        "--races", type=float, default=0.0, help="minutes of labelling runs that race, before"
    )
    told = parser.parse_args()
    if told.races:
        races = [sys.executable, "-m", "tests.support.label_races", f"--minutes={told.races}"]
        if subprocess.run([*races, f"--seed={told.seed}"], cwd=ROOT, check=False).returncode:
            return 1
    counts, end = Counts(), time.monotonic() + 60 * told.minutes
    with ThreadPoolExecutor(told.lanes) as lanes:
        for done in [lanes.submit(run_lane, i, told, counts, end) for i in range(told.lanes)]:
            done.result()
    print(f"\nfaults: {sum(counts.faults.values())}")
    for kind in KINDS:
        print(f"  {kind}: {counts.faults[kind]}")
    print(*(f"{key}: {counts.totals[key]}" for key in ("iterations", "fits", "jobs")), sep="\n")
    print(f"differences: {len(counts.differences)}")
    for difference in counts.differences:
        print(f"  {difference}")
    return 1 if counts.differences else 0


if __name__ == "__main__":
    sys.exit(main())
