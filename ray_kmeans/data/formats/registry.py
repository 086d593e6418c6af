"""List the file formats by the endings of file names, and find the one format of some files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from ray_kmeans.data.files import File
from ray_kmeans.data.formats import bigann, vecs
from ray_kmeans.data.formats.base import Make
from ray_kmeans.data.formats.bigann import BigAnn
from ray_kmeans.data.formats.csv import Csv
from ray_kmeans.data.formats.ipc import Ipc
from ray_kmeans.data.formats.json_lines import JsonLines
from ray_kmeans.data.formats.npy import Npy
from ray_kmeans.data.formats.npz import Npz
from ray_kmeans.data.formats.parquet import Parquet
from ray_kmeans.data.formats.safetensors import Safetensors
from ray_kmeans.data.formats.vecs import Vecs
from ray_kmeans.errors import ConfigError

FORMATS: Mapping[str, Make] = {
    **dict.fromkeys((".parquet", ".pq", ".parq"), Parquet.of),
    ".npy": Npy.of,
    ".npz": Npz.of,
    ".safetensors": Safetensors.of,
    **{suffix: partial(Vecs.of, dtype) for suffix, dtype in vecs.DTYPES.items()},
    **{suffix: partial(BigAnn.of, dtype) for suffix, dtype in bigann.DTYPES.items()},
    **dict.fromkeys((".arrow", ".feather", ".ipc"), Ipc.of),
    **dict.fromkeys((".csv", ".csv.gz", ".tsv", ".tsv.gz"), Csv.of),
    **dict.fromkeys((".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz"), JsonLines.of),
}
"""Format factory for each ending of a file name: (first file, columns) -> format."""


def ending_of(format: str | None) -> str:
    """Return the ending of a format's file names, as '.csv.gz'; '' for None.

    Raises ConfigError for a format that is not in `FORMATS`.
    """
    if format is None:
        return ""
    ending = f".{str(format).lower().removeprefix('.')}"
    if ending not in FORMATS:
        known = ", ".join(suffix[1:] for suffix in FORMATS)
        raise ConfigError(f"format={format!r} is unknown. Give one of {known}.")
    return ending


def format_of(files: Sequence[File], header: bool | None, place: str) -> Make:
    """Return the factory of the one format that all files have.

    Parameters
    ----------
    files : sequence of File
        At least one; each has an ending of `FORMATS`.
    header : bool or None
        Whether the first line of a CSV file has names; None: as it looks.
    place : str
        Where the files are, for messages.

    Raises
    ------
    ConfigError
        If the files have several formats, or `header` is given for another format than CSV.
    """
    kinds = {_suffix_of(file.kind) for file in files}
    if len({FORMATS[kind] for kind in kinds}) > 1:
        raise ConfigError(
            f"{place!r} holds files of several formats: {', '.join(sorted(kinds))}. "
            f"Give a glob, as in {place.rstrip('/')}/*{sorted(kinds)[-1]}."
        )
    kind = kinds.pop()
    if header is None:
        return FORMATS[kind]
    if FORMATS[kind] != Csv.of:
        raise ConfigError(f"header={header!r} has no meaning for {kind} files: CSV alone.")
    return partial(Csv.of, header=header)


def _suffix_of(path: str) -> str:
    """Return the ending of a file name that tells its format."""
    return next(suffix for suffix in FORMATS if path.lower().endswith(suffix))
