"""A file that is damaged, cut off or of another shape is named, and no row of it is believed."""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
import pytest

from ray_kmeans.data.opening import open_source
from ray_kmeans.errors import DataError
from tests.support.files import put, put_array, put_table


@pytest.fixture
def root(tmp_path):
    return str(tmp_path)


def damage(root, name, change):
    """Replace the bytes of a file by what `change` makes of them."""
    with open(f"{root}/{name}", "rb") as file:
        data = bytearray(file.read())
    with open(f"{root}/{name}", "wb") as file:
        file.write(change(data))


def test_a_parquet_file_whose_footer_is_gone(root):
    put_table(root, "x.parquet", pa.table({"a": [1.0]}))
    damage(root, "x.parquet", lambda data: data[:-4] + b"....")

    with pytest.raises(DataError, match=r"cannot read .*x\.parquet"):
        open_source(root).describe()


def test_a_parquet_file_whose_pages_are_damaged(root):
    put_table(root, "x.parquet", pa.table({"a": np.random.default_rng(0).normal(size=500)}))
    layout = open_source(root).describe()
    damage(root, "x.parquet", lambda data: data[:4] + bytes([0xFF] * 400) + data[404:])

    with pytest.raises(DataError, match=r"cannot read .*x\.parquet"):
        list(open_source(root).read(layout.blocks))


@pytest.mark.parametrize("name", ["x.parquet", "x.npy"])
def test_a_file_without_a_byte(root, name):
    put(root, name, lambda file: file.write(b""))

    with pytest.raises(DataError, match=re.escape(name)):
        open_source(root).describe()


def test_an_npy_file_that_is_cut_off(root):
    put_array(root, "x.npy", np.ones((30, 4)))
    damage(root, "x.npy", lambda data: data[:-1])

    with pytest.raises(
        DataError, match=r"x\.npy has 959 bytes for 30 rows of 4 float64, which take"
    ):
        open_source(root).describe()


HEADERS = ((0, b"\x94"), (20, b"\xff"), (10, b" "), (30, b"(((("), (127, b"("))


@pytest.mark.parametrize(("where", "what"), HEADERS)
def test_an_npy_file_whose_header_is_damaged(root, where, what):
    put_array(root, "x.npy", np.ones((30, 4)))
    damage(root, "x.npy", lambda data: data[:where] + what + data[where + len(what) :])

    with pytest.raises(DataError, match=r"x\.npy is not a \.npy file"):
        open_source(root).describe()


@pytest.mark.parametrize("array", [np.ones(3), np.ones((2, 3, 4)), [["a"]]])
def test_an_npy_file_that_is_not_a_table_of_numbers(root, array):
    put_array(root, "x.npy", np.asanyarray(array))

    with pytest.raises(DataError, match=r"x\.npy holds .*must be a table of numbers"):
        open_source(root).describe()


def test_npy_files_of_different_widths(root):
    put_array(root, "1.npy", np.ones((2, 3)))
    put_array(root, "2.npy", np.ones((2, 4)))

    with pytest.raises(DataError, match=r"2\.npy has 4 features and .*1\.npy has 3"):
        open_source(root).describe()
