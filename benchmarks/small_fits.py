"""Measure small fits of `ray_kmeans.sklearn.KMeans` beside those of `sklearn.cluster.KMeans`.

    python benchmarks/small_fits.py [--rows 1000 10000 100000] [--repeats 5]

Both run in this process, in one thread, warm, in turns, from the same seed. A line has the least
CPU time of a fit, the iterations, and the ratio: above 1, ours is faster. 'k-means++' is the
default call, in which both draw other first centers; 'given centers' has the same ones for both,
and no tolerance, so that both make the same iterations.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from machine import say_where
from numpy.typing import NDArray
from sklearn.cluster import KMeans as Theirs
from threadpoolctl import threadpool_limits

from ray_kmeans import RunConfig
from ray_kmeans.sklearn import KMeans

CLUSTERS = 8
"""Number of clusters, which is the default of both."""
COLUMNS = {1_000: 8, 10_000: 16, 100_000: 16}
"""Number of columns by the number of rows; others have 16."""
TITLES = ("rows", "first centers", "ours ms", "iterations", "scikit-learn ms", "iterations")
"""Titles of the first columns of the table."""
HERE = RunConfig(num_workers=0, cpus_per_worker=1, progress=False)
"""Configuration of ours: this process, in one thread."""


def rows_of(n: int) -> NDArray[np.float64]:
    """Return rows around some centers, which overlap."""
    rng = np.random.default_rng(0)
    d = COLUMNS.get(n, 16)
    centers = rng.normal(size=(CLUSTERS, d)) * 2
    return np.asarray(centers[rng.integers(0, CLUSTERS, n)] + rng.normal(size=(n, d)))


def seconds_of(fit: Callable[[], Any]) -> tuple[float, Any]:
    """Return the CPU time of a fit in seconds, and the fitted estimator."""
    begin = time.process_time()
    fitted = fit()
    return time.process_time() - begin, fitted


def compare(x: NDArray[np.float64], name: str, arguments: dict[str, Any], repeats: int) -> str:
    """Return the line of a table for one call on some rows."""

    def ours() -> Any:
        return KMeans(CLUSTERS, random_state=0, config=HERE, **arguments).fit(x)

    def theirs() -> Any:
        return Theirs(CLUSTERS, random_state=0, **arguments).fit(x)

    ours(), theirs()  # compile, and load what they load
    times: dict[str, list[float]] = {"ours": [], "theirs": []}
    for _ in range(repeats):
        mine, fitted = seconds_of(ours)
        other, peer = seconds_of(theirs)
        times["ours"].append(mine)
        times["theirs"].append(other)
    best = {who: 1e3 * min(each) for who, each in times.items()}
    shape = f"{len(x):,} x {x.shape[1]}"
    figures = f"{best['ours']:.1f} | {fitted.n_iter_} | {best['theirs']:.1f} | {peer.n_iter_}"
    loss = fitted.inertia_ / peer.inertia_ - 1
    return f"| {shape} | {name} | {figures} | {best['theirs'] / best['ours']:.2f} | {loss:+.1e} |"


def main() -> None:
    """Print a table of all sizes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=list(COLUMNS))
    parser.add_argument("--repeats", type=int, default=5)
    asked = parser.parse_args()
    say_where("scikit-learn")
    print(f"\n| {' | '.join(TITLES)} | ratio | our loss |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    with threadpool_limits(1):
        for n in asked.rows:
            x = rows_of(n)
            given = {"init": x[:CLUSTERS], "n_init": 1, "tol": 0}
            for name, arguments in (("k-means++", {}), ("given centers", given)):
                print(compare(x, name, arguments, asked.repeats), flush=True)


if __name__ == "__main__":
    main()
