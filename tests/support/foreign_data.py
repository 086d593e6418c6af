"""What the tests of data sets of other libraries share."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from ray_kmeans.data import layout as plan
from ray_kmeans.data.datasets import arrow, zarr
from ray_kmeans.data.opening import open_source
from ray_kmeans.errors import DataError
from ray_kmeans.testing import SourceContract

MATRIX = np.random.default_rng(0).normal(size=(241, 3))
ROWS = MATRIX.astype(np.float32)
LAYOUTS = ["FixedSizeList", "List", "many columns"]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(plan, "BLOCK_ROWS", 40)
    monkeypatch.setattr(arrow, "BATCH_ROWS", 16)
    monkeypatch.setattr(zarr, "BLOCK_ROWS", 40)


def as_table(layout, rows=ROWS):
    """Return rows as a table with a column that is no number, in one of three layouts."""
    names = [f"row {n}" for n in range(len(rows))]
    if layout == "many columns":
        return pa.table({"name": names, **dict(zip("abc", rows.T, strict=True))})
    kinds = {"FixedSizeList": pa.list_(pa.float32(), 3), "List": pa.list_(pa.float64())}
    return pa.table(
        {"name": names, "id": range(len(rows)), "v": pa.array(list(rows), kinds[layout])}
    )


def refuse(x, error, *texts, **options):
    with pytest.raises(error) as caught:
        open_source(x, **options).describe()
    for text in texts:
        assert text in str(caught.value)


class WithNames(SourceContract):
    """The contract, and a column `name` beside the rows."""

    def test_other_columns_are_those_of_the_same_rows(self, source_and_rows):
        source, _ = source_and_rows

        for block in reversed(source.describe().blocks):
            names = source.columns_of(block, ["name"]).to_pydict()
            expected = [f"row {n}" for n in range(block.first, block.first + block.rows)]
            assert names == {"name": expected}

    def test_a_column_to_keep_that_is_not_there_is_named(self, source_and_rows):
        source, _ = source_and_rows

        with pytest.raises(DataError, match=r"columns \['nothing'\]"):
            source.columns_of(source.describe().blocks[0], ["nothing"])
