"""Describe data as JSON, in enough detail to tell later whether they are still the same."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from typing import Any

import numpy as np

from ray_kmeans.data.array import ArraySource
from ray_kmeans.data.files import File
from ray_kmeans.data.sharding import Layout
from ray_kmeans.data.source import Source
from ray_kmeans.data.weighted import as_weighted


def contents_of(source: Source, layout: Layout) -> dict[str, Any]:
    """Return what a source reads, as JSON: its files, its blocks, and what its rows count.

    A file is told by the store's mark of its content (etag or time), an array by the hash of its
    values, and data that a library keeps by their names and numbers of rows alone.
    """
    weighted = as_weighted(source)
    versions = _versions(weighted.source)
    rows: Counter[str] = Counter()
    for block in layout.blocks:
        rows[block.file] += block.rows
    begins = [(block.file, block.start, block.rows) for block in layout.blocks]
    weights = weighted.weights
    return {
        "data": [
            {"file": file, "rows": count, **versions.get(file, {})} for file, count in rows.items()
        ],
        "blocks": hashlib.sha256(json.dumps(begins).encode()).hexdigest(),
        "rows": {
            "filters": repr(weighted.filters or []),
            "nonfinite": "drop" if weighted.drop_nonfinite else "error",
            "weights": _digest(weights) if isinstance(weights, np.ndarray) else weights,
        },
    }


def _versions(source: Any) -> dict[str, dict[str, Any]]:
    """Return size in bytes and version of each file, by the name that its blocks have."""
    if isinstance(source, ArraySource):
        name = next((block.file for block in source.describe().blocks), "")
        return {name: _version_of_array(source)}
    listing = source if hasattr(source, "files") else getattr(source, "tables", None)
    files = getattr(listing, "files", ())
    return {
        file.shown: {"size": file.size, "version": file.version}
        for file in files
        if isinstance(file, File)
    }


def _version_of_array(source: ArraySource) -> dict[str, Any]:
    """Return bytes and hash of an array's values as rows: float32, or narrower if they are."""
    blocks = source.describe().blocks
    parts = source.read(blocks) if source.rounds else source.read_wide(blocks)
    size, digest = 0, hashlib.sha256()
    for _, rows in parts:
        size += rows.nbytes
        digest.update(rows.data.cast("B"))
    return {"size": size, "version": digest.hexdigest()}


def _digest(array: Any) -> str:
    """Return the SHA-256 of the values of an array."""
    return hashlib.sha256(np.ascontiguousarray(array).data.cast("B")).hexdigest()
