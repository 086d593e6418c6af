"""Labelled output in folders by cluster, made of its parts in order of the data once all are there.

_by_cluster-<run>/part-<run>-00000012.parquet    some rows of the data, as they were labelled
_by_cluster-<run>/plan.json                      which parts make a bundle, and clusters of a folder
_by_cluster-<run>/00000012.json                  the files of the bundle from part 12 on: it is done
cluster=00007/part-<run>-00000012.parquet        its rows of cluster 7, in order
cluster_range=00000-00024/part-...               its rows of 25 clusters, where there are many

A file for each part and cluster would be a storm of small ones: a bundle has up to a million rows
(or 64 MiB of parts), and a folder so many clusters that there are 4,096 files at most, or one for
every 100,000 rows where that is more; and one for each bundle with rows that are left out. A bundle
that was cut off is written again, under the same names.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ray_kmeans.io import publish
from ray_kmeans.store.labelled_parts import LABEL, Part, Parts

BUNDLE_ROWS, BUNDLE_BYTES = 2**20, 64 * 2**20
MOST_FILES = 4096
ROWS_PER_FILE = 100_000
"""Of labelled output there are so many files at most, or one for so many rows."""
NONE = "__HIVE_DEFAULT_PARTITION__"
"""What Hive puts for the value where there is none: for rows that are left out."""

AT_ONCE = 8
"""Parts that are read, or files that are written, at once."""

Bundle = Sequence[int]
"""Indices of consecutive parts."""


@dataclass(frozen=True, repr=False)
class ByCluster(publish.Place):
    """The root of an output whose rows are put in order of their clusters."""

    parts: Parts = Parts("")  # noqa: RUF009 (frozen)

    def plan(
        self, parts: Sequence[Part], counts: NDArray[np.int64], width: int | None
    ) -> tuple[list[Bundle], int]:
        """Return bundles of these parts, and how many clusters a folder holds.

        They are written down before they are used. `width`: that of an output which is added to.
        """
        path = f"{self.parts.path}/plan.json"
        with self.raise_store_errors(f"{self.shown!r} cannot be written"):
            bundles = list(bundled(parts))
            rows = sum(part.rows for part in parts)
            width = width or width_of(len(counts), len(bundles), rows)
            publish.create(self.fs, path, publish.seal({"bundles": bundles, "width": width}))
            plan = json.loads(self.fs.cat_file(path))
        return plan["bundles"], plan["width"]

    def done(self, bundles: Sequence[Bundle]) -> dict[int, list[Part]]:
        """Return the files of the bundles that are done, by their first part."""
        names = self.parts.names()
        found: dict[int, list[Part]] = {}
        for first in (bundle[0] for bundle in bundles):
            if _marker(first) in names:
                marker = publish.unseal(self.parts.read(_marker(first)))
                if marker is not None:
                    found[first] = [Part(**part) for part in marker["files"]]
        return found

    def gather(self, bundle: Bundle, width: int) -> list[Part]:
        """Write the rows of some parts by cluster, and last that they are written."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            table = pa.concat_tables(pool.map(self.parts.table, bundle))
            labels = table[LABEL].to_numpy()
            order = np.argsort(labels, kind="stable")
            table, folders = table.take(order), labels[order] // width
            begins = np.flatnonzero(np.diff(folders, prepend=-2)).tolist()
            lengths = np.diff([*begins, len(folders)]).tolist()
            names = [self._name(int(folders[begin]), width, bundle[0]) for begin in begins]
            root = replace(self.parts, url=self.url)
            files = list(pool.map(root.publish, names, map(table.slice, begins, lengths)))
        marker = publish.seal({"files": [asdict(file) for file in files]})
        self.parts.put(_marker(bundle[0]), marker)
        return files

    def _name(self, folder: int, width: int, first_part: int) -> str:
        number = self.parts.first_part + first_part
        return f"{folder_of(folder, width)}/{self.parts.prefix}{number:08d}.parquet"


def bundles_of(numbers: Sequence[int], parts: int) -> list[Bundle]:
    """Return the bundles of which files were made, by the number of the first part of each.

    `numbers`: of all the files of a run. `parts`: how many the run had in order of the data.

    >>> bundles_of([0, 0, 2, 0, 2], 5)
    [[0, 1], [2, 3, 4]]
    """
    firsts = sorted(set(numbers))
    return [list(range(*ends)) for ends in zip(firsts, [*firsts[1:], parts], strict=True)]


def bundled(parts: Sequence[Part]) -> Iterator[Bundle]:
    """Yield runs of parts that are small enough for a worker.

    >>> list(bundled([Part("", 2**19, 100, "")] * 3 + [Part("", 100, 2**26, "")]))
    [[0, 1], [2], [3]]
    """
    bundle: list[int] = []
    rows = size = 0
    for index, part in enumerate(parts):
        rows, size = rows + part.rows, size + part.size
        if bundle and (rows > BUNDLE_ROWS or size > BUNDLE_BYTES):
            yield bundle
            bundle, rows, size = [], part.rows, part.size
        bundle.append(index)
    if bundle:
        yield bundle


def width_of(clusters: int, bundles: int, rows: int) -> int:
    """Return how many clusters share a folder, so that there are not too many files.

    >>> width_of(1000, 1, 10**6), width_of(1000, 1000, 10**9), width_of(100_000, 1, 10**6)
    (1, 100, 25)
    """
    files = max(MOST_FILES, rows // ROWS_PER_FILE)
    folders = max(files // bundles, 1)
    return -(-clusters // folders)


def folder_of(number: int, width: int) -> str:
    """Return the name of a folder; -1 is that of rows without a cluster.

    >>> folder_of(7, 1), folder_of(0, 25)
    ('cluster=00007', 'cluster_range=00000-00024')
    """
    key = "cluster" if width == 1 else "cluster_range"
    if number < 0:
        return f"{key}={NONE}"
    first = number * width
    last = f"-{first + width - 1:05d}" if width > 1 else ""
    return f"{key}={first:05d}{last}"


def _marker(first: int) -> str:
    return f"{first:08d}.json"
