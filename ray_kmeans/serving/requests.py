"""What a request holds, and what is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.clustering.precision import less
from ray_kmeans.data.columns import to_float32
from ray_kmeans.errors import DataError

FORM = 'Send {"rows": [[...], ...]}.'


def listed(body: bytes) -> list[Any]:
    """Return the rows of a body as they stand there; DataError for one without any."""
    try:
        content = json.loads(body)
    except ValueError as error:  # also for bytes that are no text
        raise DataError(f"the body is not JSON: {error}. {FORM}") from None
    if not isinstance(content, dict) or set(content) != {"rows"}:
        found = sorted(content) if isinstance(content, dict) else type(content).__name__
        raise DataError(f"the body holds {found}, not 'rows' alone. {FORM}")
    rows: Any = content["rows"]
    if not isinstance(rows, list) or not rows:
        raise DataError(f"'rows' is {rows!r:.40}, not a list of rows. {FORM}")
    return rows


def as_rows(given: list[Any], features: int, shift: Sequence[float] = ()) -> NDArray[np.float32]:
    """Return the rows as an array (n, features), less a shift.

    DataError that names the first that is none.
    """
    for number, row in enumerate(given):
        if not isinstance(row, list):
            raise DataError(f"row {number} is {row!r:.40}, not a list of numbers. {FORM}")
        if len(row) != features:
            raise DataError(
                f"row {number} has {len(row)} numbers and the model has {features} features. Send "
                "rows like those it was fitted on."
            )
    if not _are_numbers(given):
        number = next(n for n, row in enumerate(given) if not _are_numbers(row))
        raise DataError(f"row {number} holds what is not a number. {FORM}")
    return checked(to_float32(less(np.asarray(given), shift), "the request"), features)


def checked(rows: NDArray[np.float32], features: int) -> NDArray[np.float32]:
    """Return rows (n, features) that a model can label; DataError for others."""
    if rows.ndim != 2 or rows.shape[1] != features:
        raise DataError(f"the rows have shape {rows.shape}; it must be (rows, {features}).")
    finite = np.isfinite(rows).all(axis=1)
    if not finite.all():
        raise DataError(
            f"row {int(np.argmin(finite))} holds NaN or infinity, and {np.sum(~finite)} rows do. "
            "Distances to them mean nothing; leave them out."
        )
    return rows


def _are_numbers(values: list[Any]) -> bool:
    try:
        return np.asarray(values).dtype.kind in "iuf"
    except ValueError:  # lists among numbers
        return False
