"""Read the rows of a request from its body, and check them."""

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
"""The form of a body, as advice."""
WHOLE = range(-(2**63), 2**63)
"""Whole numbers that NumPy holds as int64."""
MOST_DIGITS = 20
"""Largest number of digits, with the sign, of a whole number that may be an int64."""
LONGEST = 500
"""Largest number of characters of an answer to a wrong request: a client's text may be long."""


class Refusal(Exception):
    """A request is refused before it is read to its end.

    Parameters
    ----------
    status : int
        HTTP status of the answer.
    why : str
        The reason, as a sentence.
    """

    def __init__(self, status: int, why: str) -> None:
        super().__init__(status, why)
        self.status = status
        self.why = why


async def read_body(stream: AsyncIterable[bytes], headers: Mapping[str, str], most: int) -> bytes:
    """Return the body of a request; raise Refusal after `most` bytes, and read no further."""
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


def rows_in(body: bytes) -> list[Any]:
    """Return the list of rows in a body, unchecked; raise DataError for a body without one."""
    try:
        text = body.decode(json.detect_encoding(body), "surrogatepass")
        content = json.loads(text, parse_int=_whole, parse_float=_real)
    except RecursionError:
        raise DataError(f"the body is nested too deeply. {FORM}") from None
    except DataError:
        raise
    except ValueError as error:  # UnicodeDecodeError too, for bytes that are no text
        raise DataError(f"the body is not JSON: {error}. {FORM}") from None
    if not isinstance(content, dict) or set(content) != {"rows"}:
        found = shortly(sorted(content)) if isinstance(content, dict) else type(content).__name__
        raise DataError(f"the body holds {found}, not 'rows' alone. {FORM}")
    rows: Any = content["rows"]
    if not isinstance(rows, list) or not rows:
        raise DataError(f"'rows' is {shortly(rows):.40}, not a list of rows. {FORM}")
    if "true" in text or "false" in text:  # NumPy takes these for numbers among numbers
        _check_booleans(rows)
    return rows


def _check_booleans(rows: list[Any]) -> None:
    """Raise DataError for a row that holds true or false."""
    for number, row in enumerate(rows):
        if isinstance(row, list) and any(isinstance(value, bool) for value in row):
            raise DataError(f"row {number} holds what is not a number. {FORM}")


def as_rows(given: list[Any], features: int, shift: Sequence[float] = ()) -> NDArray[np.float32]:
    """Return the rows of a list as an array (n, features), less `shift` (features,).

    Raises DataError that names the first row that has another length or is not of numbers.
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
    return check_rows(to_float32(less(np.asarray(given), shift), "the request"), features)


def check_rows(rows: NDArray[np.float32], features: int) -> NDArray[np.float32]:
    """Return rows (n, features) as they are; raise DataError for rows that cannot be labelled."""
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
    """Return a whole number of JSON, as a float where NumPy has no integer for it."""
    if len(text) <= MOST_DIGITS and int(text) in WHOLE:
        return int(text)
    return _real(text)


def _real(text: str) -> float:
    """Return a number of JSON; raise DataError for one beyond float64."""
    number = float(text)
    if not isfinite(number):
        shown = text if len(text) <= MOST_DIGITS else f"{text[:MOST_DIGITS]}..."
        raise DataError(f"the request holds {shown}, which is beyond float32.")
    return number


def _are_numbers(values: list[Any]) -> bool:
    """Return whether a list, or a list of lists, holds numbers alone."""
    try:
        return np.asarray(values).dtype.kind in "iuf"
    except ValueError:  # lists among numbers
        return False
