"""The spec of labelled output, compared with other specs and found in a manifest.

A spec tells what the rows are made from, as JSON: the digest of the centers, the files of the data,
the rows of each file, the columns. Two runs whose specs agree write the same bytes. A run's marker
is its sealed spec, and the run's stamp is the hash of that.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ray_kmeans.io import publish

OutputSpec = Mapping[str, Any]
"""Spec of an output, as JSON: two runs that agree in it write the same rows."""

NAMES = {
    "model": "the centers of the model",
    "data": "the files of the data",
    "blocks": "the rows of each file",
    "rows": "filters, weights or nonfinite",
    "columns": "keep_columns",
    "features": "the columns of a row",
    "second": "second",
    "nearest": "nearest",
    "by_cluster": "by_cluster",
    "beam": "beam or recall",
}
"""Name of each key of a spec in the sentence that tells where two specs differ."""

ALL_RUNS = -1
"""Number that stands for all runs of an output together."""


def through_json(spec: OutputSpec) -> dict[str, Any]:
    """Return a spec as it is after it was written and read: tuples are lists then."""
    read: dict[str, Any] = json.loads(json.dumps(spec))
    return read


def marker_of(spec: OutputSpec, after: str) -> bytes:
    """Return the marker of the run that writes this spec after the run with the stamp `after`."""
    return publish.seal({"of": spec, "after": after})


def find_in(
    manifest: Mapping[str, Any], spec: OutputSpec, append: bool
) -> tuple[int, slice] | None:
    """Return the number of the run that has written this spec, and the slice of its parts.

    With `append`, all runs together (`ALL_RUNS`) may have written it, by the files of the data.
    None if nothing has.
    """
    if not manifest:
        return None
    after, first = "", 0
    for number, run in enumerate(manifest["runs"]):
        last = first + run["parts"]
        if publish.sha256(marker_of(spec, after)) == run["stamp"]:
            return (number, slice(first, last)) if append or len(manifest["runs"]) == 1 else None
        after, first = run["stamp"], last
    if len(manifest["runs"]) == 1 and spec_in(manifest, spec, data=manifest["data"]) == spec:
        return 0, slice(None)  # format 2 had no stamps
    is_same = not differences_but_data(manifest, spec)
    if append and is_same and spec["data"] and files_in(spec["data"]) <= files_in(manifest["data"]):
        return ALL_RUNS, slice(None)
    return None


def spec_in(manifest: Mapping[str, Any], spec: OutputSpec, **changes: Any) -> OutputSpec:
    """Return the spec of a manifest, with some values changed.

    Manifests of older versions do not tell the columns of a row, so those of `spec` are taken.
    """
    return {"features": spec.get("features"), **manifest["of"], **changes}


def files_in(data: Sequence[Any]) -> set[str]:
    """Return the files of a spec's data, each as a text that can be compared."""
    return {json.dumps(each, sort_keys=True) for each in data}


def differences(one: OutputSpec, other: OutputSpec) -> str:
    """Describe in words how two specs differ; empty if they do not."""
    keys = [key for key in {**one, **other} if one.get(key) != other.get(key)]
    return ", ".join(NAMES.get(key, key) for key in keys)


def differences_but_data(manifest: Mapping[str, Any], spec: OutputSpec) -> str:
    """Describe in words how a spec differs from an output's, the files of the data left aside."""
    return differences(_without_data(spec_in(manifest, spec)), _without_data(spec))


def _without_data(spec: OutputSpec) -> dict[str, Any]:
    """Return a spec without the files of the data and the rows of each."""
    return {**spec, "data": None, "blocks": None}
