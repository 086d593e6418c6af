"""Types narrower than float32: rows that come in them can be stored in them without loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

BFLOAT16 = "bfloat16"
"""Name of the upper half of a float32."""
STORED: Mapping[str, Any] = {
    "float16": np.float16,
    BFLOAT16: np.uint16,  # NumPy has no bfloat16
    "int8": np.int8,
    "uint8": np.uint8,
}
"""Type of NumPy in which the values of each narrow type are stored, by its name."""


def narrow_name(dtype: np.dtype[Any]) -> str | None:
    """Return the name of a type that is narrower than float32; None for any other type."""
    return dtype.name if dtype.name in STORED else None


def item_bytes(name: str | None) -> int:
    """Return the number of bytes of a value of the type with this name; None: of float32."""
    return 4 if name is None else int(np.dtype(STORED[name]).itemsize)


def narrowed(rows: NDArray[np.float32], name: str) -> NDArray[Any]:
    """Return rows in the narrow type with this name, which must hold their values exactly."""
    if name == BFLOAT16:
        return (rows.view(np.uint32) >> 16).astype(np.uint16)
    return rows.astype(STORED[name])


def widened(stored: NDArray[Any], name: str) -> NDArray[np.float32]:
    """Return rows of the narrow type with this name as float32."""
    if name == BFLOAT16:  # the same bits, and zeros behind them
        return (stored.astype(np.uint32) << 16).view(np.float32)
    return stored.astype(np.float32)
