"""Centers as an index file of faiss: written, and read from files and objects.

A file begins with four letters for the kind of index; then come the fields that all kinds have
(`HEADER`) and those of the kind, in which other indexes are nested. So the centers in a file of
any size are found by reading its first fields, without faiss and without its inverted lists.
Layout: faiss/impl/index_write.cpp of faiss 1.15.
"""

from __future__ import annotations

import struct
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.algorithm.metric import Metric
from ray_kmeans.center_files.exported import ExportedCenters
from ray_kmeans.errors import ConfigError

HEADER = struct.Struct("<iqqqBi")
"""Fields after the kind: dimensions, vectors, two unused numbers, is trained, metric."""
UNUSED = 2**20
"""Value of the two unused numbers, as faiss writes it."""
SIZE = struct.Struct("<Q")
"""A number of values, before these."""
INNER_PRODUCT = 0
"""Number in `HEADER` of the inner product."""
L2 = 1
"""Number in `HEADER` of the Euclidean distance; metrics of a larger number have an argument."""
FLAT = {Metric.SQUARED_EUCLIDEAN: b"IxF2", Metric.COSINE: b"IxFI"}
"""Kind of a flat index by its metric."""
OTHER_FLAT = b"IxFl"
"""Kind of a flat index of another metric."""
WRAPPERS = (b"IxMp", b"IxM2", b"IxRF")
"""Kinds that begin with a nested index: with ids of its own, or with vectors to refine by."""
INVERTED = (b"Iw", b"Iv", b"IV")
"""First letters of the kinds that have inverted lists."""
HNSW = b"IHNf"
"""Kind of a flat index under a graph of neighbours."""
HNSW_ARRAYS = (8, 4, 4, 8, 4)
"""Bytes of a value of each array of the graph."""
HNSW_NUMBERS = 20
"""Bytes of the numbers after these arrays."""
TRANSFORMED = b"IxPT"
"""Kind of an index that transforms vectors."""
DEEPEST = 8
"""Largest number of indexes nested in one another; faiss itself makes four."""


def flat_index_of(given: ExportedCenters) -> bytes:
    """Return a flat index of the centers: by inner product for cosine, else by L2."""
    k, d = given.centers.shape
    values = np.ascontiguousarray(given.centers, "<f4").tobytes()
    return FLAT[given.metric] + _header(given, k) + SIZE.pack(k * d) + values


def inverted_index_of(given: ExportedCenters) -> bytes:
    """Return an IndexIVFFlat that is trained and empty: its quantizer holds the centers."""
    k, d = given.centers.shape
    nprobe, code_bytes = 1, 4 * d
    return b"".join(
        [
            b"IwFl" + _header(given, 0) + SIZE.pack(k) + SIZE.pack(nprobe),
            flat_index_of(given),
            b"\0" + SIZE.pack(0),  # no map from ids to places
            b"ilar" + SIZE.pack(k) + SIZE.pack(code_bytes),
            b"sprs" + SIZE.pack(0),  # no list that is not empty
        ]
    )


def _header(given: ExportedCenters, vectors: int) -> bytes:
    """Return the fields that all kinds have, of a trained index with this number of vectors."""
    metric = INNER_PRODUCT if given.metric == Metric.COSINE else L2
    return HEADER.pack(given.centers.shape[1], vectors, UNUSED, UNUSED, True, metric)


def centers_in_file(handle: IO[bytes], size: int, shown: str) -> tuple[NDArray[np.float32], Metric]:
    """Return the centers (k, d) in an index file, and its metric; `shown` is its name.

    Reads no more than the fields before the centers and these. ConfigError if it keeps none, or if
    it is damaged.
    """
    fields = _Fields(handle, size, shown)
    for _ in range(DEEPEST):
        kind = fields.take(4)
        if kind == TRANSFORMED:
            raise _transforms(shown)
        d, vectors, *_, metric = HEADER.unpack(fields.take(HEADER.size))
        if metric not in (INNER_PRODUCT, L2):
            raise _compares_otherwise(shown)
        if kind in FLAT.values():
            centers = fields.take_matrix(vectors, d)
            if not vectors:
                raise _keeps_none(shown, f"a flat index ({kind.decode()})", 0)
            return centers, Metric.COSINE if metric == INNER_PRODUCT else Metric.SQUARED_EUCLIDEAN
        if kind.startswith(INVERTED):
            fields.take(2 * SIZE.size)  # lists, and how many of them a search looks at
        elif kind == HNSW:
            for value_bytes in HNSW_ARRAYS:
                fields.skip(SIZE.unpack(fields.take(SIZE.size))[0] * value_bytes)
            fields.skip(HNSW_NUMBERS)
        elif kind not in WRAPPERS:
            raise _keeps_none(shown, f"an index of the kind {kind!r}", vectors)
    raise ConfigError(f"{shown} cannot be read as an index of faiss: indexes nest too deep in it.")


class _Fields:
    """The fields of an index file, read in order and never beyond its end."""

    def __init__(self, handle: IO[bytes], size: int, shown: str) -> None:
        """Begin with the first byte of a file of this size."""
        self._handle = handle
        self._left = size
        self._shown = shown
        handle.seek(0)

    def take(self, length: int) -> bytes:
        """Return the next bytes."""
        self._spend(length)
        data = self._handle.read(length)
        if len(data) != length:
            raise self._cut_off()
        return data

    def skip(self, length: int) -> None:
        """Pass over the next bytes."""
        self._spend(length)
        self._handle.seek(length, 1)

    def take_matrix(self, rows: int, columns: int) -> NDArray[np.float32]:
        """Return the next numbers as a matrix (rows, columns) of float32."""
        (values,) = SIZE.unpack(self.take(SIZE.size))
        if rows < 0 or columns <= 0 or values != rows * columns:
            raise ConfigError(
                f"{self._shown} cannot be read as an index of faiss: it has {values:,} numbers "
                f"for {rows:,} vectors of {columns:,}."
            )
        return np.frombuffer(self.take(4 * values), "<f4").reshape(rows, columns)

    def _spend(self, length: int) -> None:
        """Take note that bytes are used up; ConfigError if the file has not that many."""
        if length > self._left:
            raise self._cut_off()
        self._left -= length

    def _cut_off(self) -> ConfigError:
        """Return the error for a file that ends too early."""
        return ConfigError(
            f"{self._shown} cannot be read as an index of faiss: it ends before its vectors do. "
            "It is cut off or damaged."
        )


def centers_in_index(index: Any, shown: str) -> tuple[NDArray[np.float32], Metric]:
    """Return the centers (k, d) of an index object, and its metric; ConfigError if it has none."""
    import faiss  # it is there: the index is an object of it

    if isinstance(index, faiss.IndexPreTransform):
        raise _transforms(shown)
    lists = faiss.try_extract_index_ivf(index)
    flat = faiss.downcast_index(lists.quantizer) if lists else index
    if not isinstance(flat, faiss.IndexFlat | faiss.IndexHNSWFlat) or not flat.ntotal:
        raise _keeps_none(shown, f"an {type(flat).__name__}", flat.ntotal)
    metrics = {faiss.METRIC_L2: Metric.SQUARED_EUCLIDEAN, faiss.METRIC_INNER_PRODUCT: Metric.COSINE}
    if flat.metric_type not in metrics:
        raise _compares_otherwise(shown)
    return np.asarray(flat.reconstruct_n(0, flat.ntotal), np.float32), metrics[flat.metric_type]


def _keeps_none(shown: str, kind: str, vectors: int) -> ConfigError:
    """Return the error for an index without centers."""
    return ConfigError(
        f"{shown} is {kind} with {vectors:,} vectors, which keeps no centers as they are. Give a "
        "trained IVF index, or a flat one that holds the centers."
    )


def _transforms(shown: str) -> ConfigError:
    """Return the error for an index whose centers are in another space than the rows."""
    return ConfigError(
        f"{shown} transforms vectors before it compares them, so its centers are not in the space "
        "of the rows. Give the index inside, and label rows that are transformed alike."
    )


def _compares_otherwise(shown: str) -> ConfigError:
    """Return the error for an index of a metric that no model has."""
    return ConfigError(f"{shown} compares neither by L2 nor by inner product.")
