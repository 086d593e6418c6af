"""Labelling runs that race into one output, sleep and are killed at random; nothing may be wrong.

python -m tests.support.label_races --minutes 30 --seed 0
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from random import Random

import numpy as np

from ray_kmeans.errors import StoreError
from ray_kmeans.io import publish
from ray_kmeans.store.labelled_names import MANIFEST
from tests.support.races import CENTERS, MORE, OTHER, OTHER_ROWS, ROWS, check, files_of
from tests.support.sleepers import NEVER, Sleeper, write

DATA = {len(rows): rows for rows in (ROWS, OTHER_ROWS, MORE)}
"""All of different lengths, by which the manifest tells them apart."""
MODELS = {len(centers): centers for centers in (CENTERS, OTHER)}
CALLS = 70
"""About so many calls to the store a run makes."""


class Race:
    """Two processes that write into one place after the other, as a seed draws it."""

    def __init__(self, draw: Random, url: str) -> None:
        self.draw, self.url = draw, url
        self.by_cluster = draw.random() < 0.3
        self.runs = [Sleeper(), Sleeper()]
        self.told: list[dict | None] = [None, None]
        self.done: list[dict] = []
        self.met: Counter[str] = Counter()

    def job(self) -> dict:
        """Draw what to write: the first is never an addition, the others mostly are."""
        rows, centers = self.draw.choice(list(DATA)), self.draw.choice([4, 4, 4, 5])
        has_one = Path(self.url, MANIFEST).exists()
        append = has_one and self.draw.random() < 0.8
        return {"rows": rows, "centers": centers, "append": append, "by_cluster": self.by_cluster}

    def step(self, which: int) -> None:
        """Begin a run, wake one that sleeps, kill it, or wait for it."""
        run, told = self.runs[which], self.told[which]
        if told is None:
            self.told[which] = told = self.job()
            at = self.draw.choice([NEVER, self.draw.randint(1, CALLS)])
            arrays = {"rows": DATA[told["rows"]], "centers": MODELS[told["centers"]]}
            run.tell(self.url, at=at, **{**told, **arrays})
        elif self.draw.random() < 0.2:
            self.runs[which].__exit__()
            self.runs[which], self.told[which] = Sleeper(), None
            self.met["killed"] += 1
        elif self.draw.random() < 0.5:
            self.hear(which)

    def hear(self, which: int) -> None:
        """Wake a run and wait for its end."""
        run, told = self.runs[which], self.told[which]
        if told is None:
            return
        self.met["woken"] += run.falls_asleep()
        run.wake()
        answer = run.hear()
        self.met[answer.get("error", "done")] += 1
        if "rows" in answer:
            self.done.append(told)
        self.told[which] = None

    def run(self) -> list[str]:
        """Race, let somebody finish, and return what is wrong."""
        try:
            for _ in range(self.draw.randint(4, 14)):
                self.step(self.draw.randrange(2))
                time.sleep(self.draw.choice([0, 0.05, 0.5]))
            for which in range(2):
                self.hear(which)
        finally:
            for each in self.runs:
                each.__exit__()
        return self.wrong()

    def wrong(self) -> list[str]:
        """Finish what was cut off, and hold what is there against the data."""
        if MANIFEST not in files_of(self.url) and not any(self.finish(n) for n in DATA):
            return ["nobody can finish it"]
        for name, data in files_of(self.url).items():
            if name.startswith("_unfinished"):  # a killed run that was to add rows
                of = publish.unseal(data)["of"]
                self.finish(of["data"][0]["rows"], append=True)
        manifest = publish.unseal(files_of(self.url)[MANIFEST])
        found = [run["rows"] for run in manifest["runs"]]
        lost = [job for job in self.done if job["rows"] not in found]
        rows, centers = np.vstack([DATA[n] for n in found]), len(manifest["clusters"])
        try:
            check(self.url, rows, MODELS[centers])
            self.finish(found[-1], centers, append=True)
            left = check(self.url, rows, MODELS[centers])
        except AssertionError as error:
            return [f"the output is wrong: {traceback.format_exc(limit=-1)} {error}"]
        more = [f"these stay: {left}"] if left else []
        return more + [f"told as done and not there: {job}" for job in lost]

    def finish(self, rows: int, centers: int = 0, append: bool = False) -> bool:
        """Write this once more in this process; tell whether it is there then."""
        for k in [centers] if centers else MODELS:
            flags = {"append": append, "by_cluster": self.by_cluster}
            try:
                return write(self.url, DATA[rows], MODELS[k], **flags) > 0
            except StoreError:
                pass
        return False


def race(minutes: float, seed: int) -> list[str]:
    """Race until the time is over, at least once; return what was wrong."""
    end, number, wrong = time.monotonic() + 60 * minutes, 0, []
    met: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="races") as folder:
        while number == 0 or time.monotonic() < end:
            url = f"{folder}/{number}"
            one = Race(Random(f"{seed} {number}"), url)
            wrong += [f"race {number} of seed {seed}: {each}" for each in one.run()]
            met += one.met
            shutil.rmtree(url, ignore_errors=True)
            number += 1
    told = ", ".join(f"{what} {count}" for what, count in sorted(met.items()))
    print(f"races: {number} ({told}); differences: {len(wrong)}", *wrong, sep="\n  ", flush=True)
    return wrong


def main() -> int:
    """Race, and return the exit code."""
    parser = argparse.ArgumentParser(description="Labelling runs that race into one output.")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=0)
    told = parser.parse_args()

    return 1 if race(told.minutes, told.seed) else 0


if __name__ == "__main__":
    sys.exit(main())
