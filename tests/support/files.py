"""Write small data sets to any store, and read back what the package makes of them."""

from __future__ import annotations

import io
from dataclasses import replace

import fsspec
import numpy as np
import pyarrow.parquet as pq

from ray_kmeans.data.files import list_files
from ray_kmeans.data.formats.base import FileSource
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


def in_blocks(x, block_rows, columns=None, **of_format):
    """Return the source of `x` with blocks of at most this many rows, and fields of its format."""
    source = replace(open_source(x, columns), block_rows=block_rows)
    return replace(source, format=replace(source.format, **of_format)) if of_format else source


def open_files(make, uri, columns=None):
    """Return the source of the files at a URI, whose format is made by a function."""
    return FileSource.of(make, *list_files([uri], {}, ("",)), columns)


def as_npy(rows):
    """Return the bytes of a .npy file."""
    content = io.BytesIO()
    np.save(content, rows)
    return content.getvalue()
