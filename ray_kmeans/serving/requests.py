"""What a request holds, and what is wrong with it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterable, Mapping, Sequence
from math import isfinite
from reprlib import repr as shortly
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.algorithm.precision import less
from ray_kmeans.data.columns import to_float32
from ray_kmeans.errors import DataError

FORM = 'Send {"rows": [[...], ...]}.'
WHOLE = range(-(2**63), 2**63)
"""Whole numbers that NumPy holds as such."""
MOST_DIGITS = 20
"""Of a whole number, with its sign, that may be one of these."""
LONGEST = 500
"""Characters of an answer that says what is wrong: what was sent is not sent back whole."""


class Refusal(Exception):
    """A request that is not read to its end, and the HTTP status that says why."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(status, why)
        self.status = status
        self.why = why


async def body_of(stream: AsyncIterable[bytes], headers: Mapping[str, str], most: int) -> bytes:
    """Return a body of so many bytes at most; a longer one is not read further than that."""
    encoding = headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        raise Refusal(415, f"the body has the content-encoding {encoding!r:.40}. Send it as it is.")
    declared = headers.get("content-length", "").lstrip("0")
    if declared.isdecimal() and (len(declared) > MOST_DIGITS or int(declared) > most):
        size = f"{int(declared):,}" if len(declared) <= MOST_DIGITS else "too many"
        raise Refusal(413, f"the request has {size} bytes")
    parts, size_so_far = [], 0
    async for part in stream:
        size_so_far += len(part)
        if size_so_far > most:
            raise Refusal(413, f"the request has more than {most:,} bytes")
        parts.append(part)
    return b"".join(parts)


def listed(body: bytes) -> list[Any]:
    """Return the rows of a body as they stand there; DataError for one without any."""
    try:
        text = body.decode(json.detect_encoding(body), "surrogatepass")
        content = json.loads(text, parse_int=_whole, parse_float=_real)
    except RecursionError:
        raise DataError(f"the body is nested too deeply. {FORM}") from None
    except DataError:
        raise
    except ValueError as error:  # also for bytes that are no text
        raise DataError(f"the body is not JSON: {error}. {FORM}") from None
    if not isinstance(content, dict) or set(content) != {"rows"}:
        found = shortly(sorted(content)) if isinstance(content, dict) else type(content).__name__
        raise DataError(f"the body holds {found}, not 'rows' alone. {FORM}")
    rows: Any = content["rows"]
    if not isinstance(rows, list) or not rows:
        raise DataError(f"'rows' is {shortly(rows):.40}, not a list of rows. {FORM}")
    if "true" in text or "false" in text:  # NumPy takes them for numbers where others are
        _check_switches(rows)
    return rows


def _check_switches(rows: list[Any]) -> None:
    for number, row in enumerate(rows):
        if isinstance(row, list) and any(isinstance(value, bool) for value in row):
            raise DataError(f"row {number} holds what is not a number. {FORM}")


def as_rows(given: list[Any], features: int, shift: Sequence[float] = ()) -> NDArray[np.float32]:
    """Return the rows as an array (n, features), less a shift.

    DataError that names the first that is none.
    """
    for number, row in enumerate(given):
        if not isinstance(row, list):
            raise DataError(f"row {number} is {shortly(row):.40}, not a list of numbers. {FORM}")
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


def _whole(text: str) -> int | float:
    if len(text) <= MOST_DIGITS and int(text) in WHOLE:
        return int(text)
    return _real(text)


def _real(text: str) -> float:
    number = float(text)
    if not isfinite(number):
        shown = text if len(text) <= MOST_DIGITS else f"{text[:MOST_DIGITS]}..."
        raise DataError(f"the request holds {shown}, which is beyond float32.")
    return number


def _are_numbers(values: list[Any]) -> bool:
    try:
        return np.asarray(values).dtype.kind in "iuf"
    except ValueError:  # lists among numbers
        return False
