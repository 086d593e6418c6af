"""The history of a model as an Arrow table, for notebooks and Parquet."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from ray_kmeans.algorithm.metric import Metric
from ray_kmeans.algorithm.state import Iteration


def history_table(lines: Sequence[Iteration], metric: str) -> pa.Table:
    """Return the history as a table of one row per step.

    The metadata of each column has its unit and its description, and a Parquet file keeps both:
    ``pyarrow.parquet.write_table(table, path)``. The unit '1' stands for a number without a unit,
    as cosine distances are.

    Parameters
    ----------
    lines : sequence of Iteration
        The steps, the oldest first.
    metric : str
        Metric of the model, which decides the units.

    Returns
    -------
    pyarrow.Table

    Examples
    --------
    >>> table = history_table([Iteration(1, 6000, 8606.1, 0.159, 0, "d")], "squared_euclidean")
    >>> table.schema.field("inertia").metadata[b"unit"]
    b'(unit of the data)^2'
    """
    schema = _schema(metric)
    columns = {name: [getattr(line, name) for line in lines] for name in schema.names}
    return pa.table(columns, schema=schema)


def _schema(metric: str) -> pa.Schema:
    """Return the columns of the table, with units and descriptions."""
    cosine = metric == Metric.COSINE
    distance = "1" if cosine else "(unit of the data)^2"
    length = "1" if cosine else "unit of the data"
    columns = [
        ("iteration", pa.int64(), "1", "Number of the step, over all fits of the model."),
        ("rows", pa.int64(), "rows", "Rows of the step: all, or those of a mini-batch."),
        ("inertia", pa.float64(), distance, "Sum of their distances before the update."),
        ("shift", pa.float64(), length, "Largest move of any coordinate of any center."),
        ("empty", pa.int64(), "clusters", "Clusters without a row."),
        ("digest", pa.string(), "1", "Names the centers after the update."),
        ("smoothed", pa.float64(), distance, "Mean loss of a row, smoothed, of mini-batch."),
        (
            "relocated",
            pa.int64(),
            "clusters",
            "Centers moved to rows: of empty or starved clusters.",
        ),
        ("loss_per_row", pa.float64(), distance, "Mean of the distances before the update."),
    ]
    return pa.schema(
        pa.field(
            name, kind, nullable=name == "smoothed", metadata={"unit": unit, "description": meaning}
        )
        for name, kind, unit, meaning in columns
    )
