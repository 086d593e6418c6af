"""Labelled output in folders by cluster, made from parts that are in the order of the data.

_by_cluster-<run>/part-<run>-00000012.parquet    a part in order of the data, as it was labelled
_by_cluster-<run>/plan.json                      the parts of each bundle; clusters of a folder
_by_cluster-<run>/00000012.json                  the files of the bundle from part 12 on: it is done
cluster=00007/part-<run>-00000012.parquet        the bundle's rows of cluster 7, in order
cluster_range=00000-00024/part-...               the bundle's rows of 25 clusters, if there are many

A file for each part and cluster would be far too many. So some parts make a bundle, up to a million
rows or 64 MiB; and some clusters share a folder, as many as it takes to have at most 4,096 files,
or one for every 100,000 rows where that is more. Rows that are left out have a file in each bundle.

A run that was cut off goes on where it was: the plan was created before any bundle, so a second
attempt has the same one; a bundle is done when its note is there, which is written last; and a
bundle that was cut off is written again, under the same names.
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

NONE = "__HIVE_DEFAULT_PARTITION__"
"""Value of a folder for rows without a cluster, as Hive names it."""
AT_ONCE = 8
"""Number of threads that read parts or write files."""

Bundle = Sequence[int]
"""Indices of consecutive parts whose rows are put in order together."""


@dataclass(frozen=True)
class FileSizes:
    """The sizes that decide how many files an output has."""

    few_files: int = 256
    """Number of parts; below twice this number of blocks, each block is a part of its own."""
    most_blocks: int = 16
    """Largest number of blocks in one part."""
    bundle_rows: int = 2**20
    """Largest number of rows of a bundle of several parts."""
    bundle_bytes: int = 64 * 2**20
    """Largest size of the parts of a bundle of several parts, in bytes."""
    most_files: int = 4096
    """Largest number of files in folders, where `rows_per_file` does not allow more."""
    rows_per_file: int = 100_000
    """Rows for which there may be one file in a folder, however many files that gives."""


USUAL_SIZES = FileSizes()
"""The sizes that every output has whose writer asks for no others."""


@dataclass(frozen=True, repr=False)
class ByCluster(publish.Place):
    """Puts the rows of a run in order of their clusters, in folders of an output."""

    parts: Parts = Parts("")  # noqa: RUF009 (frozen)
    """The run's parts in order of the data."""

    def plan(
        self,
        parts: Sequence[Part],
        counts: NDArray[np.int64],
        width: int | None,
        sizes: FileSizes = USUAL_SIZES,
    ) -> tuple[list[Bundle], int]:
        """Return the bundles of these parts, and the number of clusters that share a folder.

        Both are written before they are used, so that every attempt of a run has the same. `counts`
        (k,): rows of each label. `width`: clusters that share a folder in the output that is added
        to; None if there is none.
        """
        path = f"{self.parts.path}/plan.json"
        with self.raise_store_errors(f"{self.shown!r} cannot be written"):
            bundles = list(cut_bundles(parts, sizes))
            rows = sum(part.rows for part in parts)
            width = width or width_of(len(counts), len(bundles), rows, sizes)
            publish.create(self.fs, path, publish.seal({"bundles": bundles, "width": width}))
            plan = json.loads(self.fs.cat_file(path))
        return plan["bundles"], plan["width"]

    def find_done(self, bundles: Sequence[Bundle]) -> dict[int, list[Part]]:
        """Return the files of each bundle that is done, by the index of its first part."""
        names = self.parts.list_names()
        found: dict[int, list[Part]] = {}
        for first in (bundle[0] for bundle in bundles):
            if _note(first) in names:
                note = publish.unseal(self.parts.read(_note(first)))
                if note is not None:
                    found[first] = [Part(**part) for part in note["files"]]
        return found

    def gather(self, bundle: Bundle, width: int) -> list[Part]:
        """Write the rows of a bundle in folders of `width` clusters; return the files.

        The note that the bundle is done goes last.
        """
        with ThreadPoolExecutor(AT_ONCE) as pool:
            table = pa.concat_tables(pool.map(self.parts.read_table, bundle))
            labels = table[LABEL].to_numpy()
            order = np.argsort(labels, kind="stable")
            table, folders = table.take(order), labels[order] // width
            begins = np.flatnonzero(np.diff(folders, prepend=-2)).tolist()
            lengths = np.diff([*begins, len(folders)]).tolist()
            names = [self._name(int(folders[begin]), width, bundle[0]) for begin in begins]
            root = replace(self.parts, url=self.url)
            files = list(pool.map(root.publish, names, map(table.slice, begins, lengths)))
        note = publish.seal({"files": [asdict(file) for file in files]})
        self.parts.put(_note(bundle[0]), note)
        return files

    def _name(self, folder: int, width: int, first_part: int) -> str:
        """Return the name of a bundle's file in a folder, from the root of the output on."""
        number = self.parts.first_part + first_part
        return f"{folder_of(folder, width)}/{self.parts.prefix}{number:08d}.parquet"


def bundles_of(numbers: Sequence[int], parts: int) -> list[Bundle]:
    """Return the bundles of a run from the numbers in the names of its files.

    `numbers`: the index of the first part of each file's bundle, in any order. `parts`: number of
    the run's parts in order of the data.

    >>> bundles_of([0, 0, 2, 0, 2], 5)
    [[0, 1], [2, 3, 4]]
    """
    firsts = sorted(set(numbers))
    return [list(range(*ends)) for ends in zip(firsts, [*firsts[1:], parts], strict=True)]


def cut_bundles(parts: Sequence[Part], sizes: FileSizes = USUAL_SIZES) -> Iterator[Bundle]:
    """Yield bundles of consecutive parts that are small enough for a worker.

    >>> list(cut_bundles([Part("", 2**19, 100, "")] * 3 + [Part("", 100, 2**26, "")]))
    [[0, 1], [2], [3]]
    """
    bundle: list[int] = []
    rows = size = 0
    for index, part in enumerate(parts):
        rows, size = rows + part.rows, size + part.size
        if bundle and (rows > sizes.bundle_rows or size > sizes.bundle_bytes):
            yield bundle
            bundle, rows, size = [], part.rows, part.size
        bundle.append(index)
    if bundle:
        yield bundle


def width_of(clusters: int, bundles: int, rows: int, sizes: FileSizes = USUAL_SIZES) -> int:
    """Return the number of clusters that share a folder, so that there are not too many files.

    >>> width_of(1000, 1, 10**6), width_of(1000, 1000, 10**9), width_of(100_000, 1, 10**6)
    (1, 100, 25)
    """
    files = max(sizes.most_files, rows // sizes.rows_per_file)
    folders = max(files // bundles, 1)
    return -(-clusters // folders)


def folder_of(number: int, width: int) -> str:
    """Return the name of a folder by its number; -1 is the folder of rows without a cluster.

    >>> folder_of(7, 1), folder_of(0, 25)
    ('cluster=00007', 'cluster_range=00000-00024')
    """
    key = "cluster" if width == 1 else "cluster_range"
    if number < 0:
        return f"{key}={NONE}"
    first = number * width
    last = f"-{first + width - 1:05d}" if width > 1 else ""
    return f"{key}={first:05d}{last}"


def _note(first: int) -> str:
    """Return the name of the note that the bundle from this part on is done."""
    return f"{first:08d}.json"
