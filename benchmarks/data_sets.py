"""What the benchmark of one machine's processor is run on: mixtures, and real data.

A mixture of d columns and k clusters has as many rows as make an iteration of scikit-learn's last
some seconds at most, by `sklearns_seconds`, and no more than a million or 2 GiB.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from lloyd import Matrix, mixture

STORED = Path(__file__).resolve().parents[2] / "shared" / "data"
DIMENSIONS = (2, 16, 32, 128, 384, 768, 1536)
CLUSTERS = (10, 64, 256, 1024, 4096, 16384)
ISSUE = ((500_000, 128, 256), (200_000, 384, 1024), (100_000, 768, 4096), (1_000_000, 16, 64))
FEW = (
    (1_000_000, 2, 10),
    (1_000_000, 16, 10),
    (200_000, 384, 10),
    (1_000_000, 2, 1_024),
    (200_000, 2, 4_096),
    (266_000, 16, 1_024),
    (66_000, 16, 4_096),
)
"""Few clusters, or few columns."""
QUICK = ((4_000, 16, 10), (20_000, 64, 128))
COLUMNS = {"wordnet_minilm": "embedding", "mnist": "pixels", "patches": "patch"}
"""Columns of vectors, by folder."""
MOST_ROWS, MOST_BYTES = 1_000_000, 2 * 2**30


@dataclass(frozen=True)
class DataSet:
    name: str
    make: Callable[[], Matrix]
    k: int
    to_the_end: bool = False
    """Fit until no center moves, instead of a number of iterations."""
    shape: str = ""
    """Rows, columns and clusters of a mixture."""


def chosen(shapes: str, longest: float) -> Iterator[DataSet]:
    """Return the data sets of 'quick', 'issue', 'few' or 'all'; print what is left out."""
    if shapes == "quick":
        yield from (_mixture(*shape) for shape in QUICK)
        yield DataSet("photographs, stride 16, to the end", lambda: photographs(16), 16, True)
        return
    if shapes == "few":
        yield from (_mixture(*shape) for shape in FEW)
        return
    if shapes == "issue":
        yield from (_mixture(*shape) for shape in ISSUE)
    else:
        yield from _every_shape(longest)
    yield DataSet("photographs, stride 2, to the end", lambda: photographs(2), 256, True)
    for folder in COLUMNS:
        if (STORED / folder).is_dir():
            yield DataSet(folder, lambda folder=folder: stored(folder), 256)  # type: ignore[misc]
        else:
            print(f"not run: {folder}, as there is no {STORED / folder}\n")


def initial_centers(rows: Matrix, k: int) -> Matrix:
    """Return k different rows."""
    drawn = rows[np.random.default_rng(0).permutation(len(rows))[: 4 * k]]
    first = np.unique(drawn, axis=0, return_index=True)[1]
    return drawn[np.sort(first)[:k]]


def photographs(stride: int) -> Matrix:
    """Return all patches of 8 x 8 pixels, so far apart, of scikit-learn's two photographs."""
    from sklearn.datasets import load_sample_images  # needs pillow

    parts = []
    for image in load_sample_images().images:
        windows = np.lib.stride_tricks.sliding_window_view(image, (8, 8), axis=(0, 1))
        parts.append(windows[::stride, ::stride].reshape(-1, 192))
    return np.concatenate(parts).astype(np.float32)


def stored(folder: str) -> Matrix:
    """Return the vectors of a folder of Parquet files."""
    parts: list[Any] = []
    for path in sorted((STORED / folder).glob("*.parquet")):
        column = pq.read_table(path, columns=[COLUMNS[folder]]).column(0).combine_chunks()
        parts.append(column.flatten().to_numpy().reshape(len(column), -1))
    return np.concatenate(parts).astype(np.float32)


def _every_shape(longest: float) -> Iterator[DataSet]:
    for d in DIMENSIONS:
        for k in CLUSTERS:
            n = int(min(MOST_ROWS, MOST_BYTES / (4 * d), longest / sklearns_seconds(d, k)))
            if n >= 4 * k:
                yield _mixture(n // 1000 * 1000, d, k)
            else:
                print(f"not run: d={d}, k={k}, as {longest} s are over before {4 * k:,} rows\n")


def sklearns_seconds(d: int, k: int) -> float:
    """Return about how long scikit-learn takes for a row, measured on two cores."""
    return k * (2 * d / 240e9 + 0.6e-9)


def _mixture(n: int, d: int, k: int) -> DataSet:
    shape = f"{n:,} x {d}, k={k:,}"
    return DataSet("mixture", lambda: mixture(n, d, k), k, shape=shape)
