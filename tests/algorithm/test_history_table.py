"""The history of a model as an Arrow table."""

from __future__ import annotations

import math
from dataclasses import asdict, fields

import pyarrow.parquet as pq
import pytest

from ray_kmeans.algorithm.metric import Metric
from ray_kmeans.algorithm.state import Iteration
from ray_kmeans.store.history import history_table

SQUARED_EUCLIDEAN, COSINE = Metric

LINES = [
    Iteration(1, 2**40, 1 / 3, 0.1 + 0.2, 2, "0123456789abcdef"),
    Iteration(2, 1, math.inf, 0.0, 0, "fedcba9876543210"),
    Iteration(3, 1, 5e-324, 1e300, 0, ""),
    Iteration(4, 8, 3.0, 1e300, 0, "", smoothed=0.1 + 0.2),
]


@pytest.mark.parametrize("lines", [LINES, LINES[:1], []], ids=len)
def test_a_row_is_a_line_of_the_history(lines):
    table = history_table(lines, SQUARED_EUCLIDEAN)

    assert table.to_pylist() == [
        {**asdict(line), "loss_per_row": line.inertia / line.rows} for line in lines
    ]
    assert table.column_names == [*(field.name for field in fields(Iteration)), "loss_per_row"]


@pytest.mark.parametrize("metric", [SQUARED_EUCLIDEAN, COSINE])
def test_a_parquet_file_keeps_values_units_and_meanings(tmp_path, metric):
    table = history_table(LINES, metric)
    pq.write_table(table, tmp_path / "history.parquet")

    read = pq.read_table(tmp_path / "history.parquet")

    assert read.equals(table, check_metadata=True)
    for field in read.schema:
        assert field.metadata[b"unit"]
        assert field.metadata[b"description"].endswith(b".")


@pytest.mark.parametrize(
    ("metric", "units"),
    [(SQUARED_EUCLIDEAN, [b"(unit of the data)^2", b"unit of the data"]), (COSINE, [b"1", b"1"])],
)
def test_inertia_and_shift_have_the_unit_that_the_metric_gives_them(metric, units):
    schema = history_table(LINES, metric).schema

    assert [schema.field(name).metadata[b"unit"] for name in ("inertia", "shift")] == units
