"""Open what URIs name: files of one format, or a folder that a library wrote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ray_kmeans.data.datasets.registry import open_folder
from ray_kmeans.data.files import list_files
from ray_kmeans.data.formats.base import FileSource
from ray_kmeans.data.formats.registry import FORMATS, ending_of, format_of
from ray_kmeans.data.source import Source
from ray_kmeans.errors import ConfigError


def open_uris(
    uris: Sequence[str],
    columns: Sequence[str] | None,
    storage_options: Mapping[str, Any],
    format: str | None,
    header: bool | None,
) -> Source:
    """Return the source of some URIs, each a file, a directory or a glob.

    One URI that has not the name of a file may be a folder of Delta, Lance or Zarr. That is asked
    first: not all Parquet files in the folder of a Delta table hold rows of its newest version.

    Parameters
    ----------
    uris : sequence of str
        Paths or URLs, all on one store.
    columns, storage_options, format, header
        As in `open_source`.

    Raises
    ------
    ConfigError, DataError
        If they name no files, or files of several formats, or what `format` cannot be.
    """
    ending = ending_of(format)
    if not all(uris):
        raise ConfigError("x holds an empty path. Give a file, a directory or a glob.")
    if len(uris) == 1 and not uris[0].lower().endswith(tuple(FORMATS)):
        table = open_folder(uris[0], columns, storage_options)
        if table and ending:
            raise ConfigError(f"format={format!r}, and {uris[0]!r} is a table of a library.")
        if table:
            return table
    remote, files = list_files(uris, storage_options, tuple(FORMATS), ending)
    return FileSource.of(format_of(files, header, remote.shown), remote, files, columns or None)
