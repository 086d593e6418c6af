"""The record of how a fit read its rows; a model keeps it to read later rows likewise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class RowSpec:
    """Record of how a fit read its rows, so that later calls read other data in the same way."""

    columns: tuple[str, ...] = ()
    """Names of the columns that make up a row, in this order: one column of vectors, or several
    columns of numbers. Empty where the data have no names, as arrays."""
    filters: str = ""
    """JSON of the filters that the rows passed; empty if there were none."""
    nonfinite: str = "error"
    """Treatment of rows that hold NaN, null or infinity: 'error' or 'drop'."""
    sample_weight: str = ""
    """Name of the column of weights; empty if there was none."""
    shift: tuple[float, ...] = ()
    """(d,) Values that were subtracted from the columns in float64; empty if none were."""

    sample: tuple[int, ...] = ()
    """(2,) Number of rows of the sample that the fit visited, and of all; empty for all rows."""

    def to_json(self) -> dict[str, Any]:
        """Return the fields as they stand in the manifest of a checkpoint."""
        found = {**asdict(self), "columns": list(self.columns), "shift": list(self.shift)}
        sample = found.pop("sample")
        return {**found, "sample": list(sample)} if sample else found

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> RowSpec:
        """Return what `to_json` wrote; raises TypeError or ValueError for anything else."""
        columns, shift, sample = found["columns"], found["shift"], found.get("sample", [])
        if type(columns) is not list or type(shift) is not list:
            raise TypeError(f"columns={columns!r:.80} and shift={shift!r:.80} must be lists")
        if not {int, float} >= set(map(type, shift)):
            raise TypeError(f"shift={shift!r:.80} must hold numbers")
        if type(sample) is not list or not {int} >= set(map(type, sample)):
            raise TypeError(f"sample={sample!r:.80} must be a list of whole numbers")
        lists = {"columns": tuple(columns), "shift": tuple(map(float, shift))}
        return cls(**{**found, **lists, "sample": tuple(sample)})
