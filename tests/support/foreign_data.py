"""What the tests of data sets of other libraries share."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from ray_kmeans.data.datasets.arrow import ArrowDataset
from ray_kmeans.data.opening import open_source
from ray_kmeans.errors import DataError
from ray_kmeans.testing import SourceContract
from tests.support.files import in_blocks

MATRIX = np.random.default_rng(0).normal(size=(241, 3))
ROWS = MATRIX.astype(np.float32)
LAYOUTS = ["FixedSizeList", "List", "many columns"]


def in_small_blocks(x):
    """Return the source of `x`, read in small blocks and batches."""
    source = in_blocks(x, 40)
    tables = getattr(source, "tables", None)
    if not isinstance(tables, ArrowDataset):
        return source
    return replace(source, tables=replace(tables, batch_rows=16))


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
