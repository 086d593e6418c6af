"""Write small data sets to any store, and read back what the package makes of them."""

from __future__ import annotations

import io

import fsspec
import numpy as np
import pyarrow.parquet as pq

from ray_kmeans.data.opening import open_source


def put(root, name, write):
    """Write a file on any store; `write` gets the open file."""
    with fsspec.open(f"{root}/{name}", "wb", auto_mkdir=True) as file:
        write(file)


def put_table(root, name, table, **options):
    put(root, name, lambda file: pq.write_table(table, file, **options))


def put_array(root, name, array):
    put(root, name, lambda file: np.save(file, array))


def rows_of(source):
    """Return all rows of what `open_source` takes."""
    source = open_source(source)
    return np.vstack([rows for _, rows in source.read(source.describe().blocks)])


def as_npy(rows):
    """Return the bytes of a .npy file."""
    content = io.BytesIO()
    np.save(content, rows)
    return content.getvalue()
