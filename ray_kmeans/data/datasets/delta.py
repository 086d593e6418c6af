"""Read Delta tables: the Parquet files that belong to the newest version of a table.

The table's log names them. The library deltalake reads a copy of the log, since it knows fewer
stores than fsspec; the files themselves are read as any Parquet files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import unquote

import pyarrow as pa

from ray_kmeans.data.column_choice import choose_columns
from ray_kmeans.data.datasets.base import raise_data_errors
from ray_kmeans.data.files import File
from ray_kmeans.data.formats.base import HEADS_AT_ONCE, FileSource
from ray_kmeans.data.formats.parquet import Parquet
from ray_kmeans.errors import ConfigError, NoDataError, install_hint
from ray_kmeans.io.remote import Remote, raise_store_errors

LOG = "_delta_log"
"""Folder of the log, which every Delta table has."""
HARMLESS = {"timestampNtz", "v2Checkpoint", "vacuumProtocolCheck", "typeWidening"}
"""Table features under which the rows of the files are still those of the table."""
ADVICE = {
    "deletionVectors": " Run REORG TABLE ... APPLY (PURGE), then ALTER TABLE ... DROP FEATURE "
    "deletionVectors.",
    "columnMapping": " Write the table anew without column mapping.",
}
"""Advice by the table feature that is not served."""


@dataclass(frozen=True)
class LiveFile(File):
    """A file of the newest version of a table."""

    keys: tuple[tuple[str, Any], ...] = ()
    """Keys of its partition and their values, typed as in the log."""

    @property
    def partitions(self) -> Mapping[str, Sequence[Any]]:
        """Values of each key, from the log and not from the names of folders."""
        return {key: [value] for key, value in self.keys}


def open_delta(
    uri: str, columns: Sequence[str] | None, storage_options: Mapping[str, Any]
) -> FileSource:
    """Open a Delta table at its newest version; `storage_options` are those of fsspec."""
    remote = Remote(uri, storage_options)
    files, schema = _newest(remote)
    if not files:
        raise NoDataError(f"{remote.shown!r} is a Delta table without a row.")
    chosen = choose_columns(schema, columns or None, remote.shown)
    return FileSource(remote, files, Parquet(chosen), by_name=bool(columns))


def _open_table(deltalake: Any, folder: str) -> Any:
    """Return the table; ConfigError in a forked process, where deltalake's threads are missing.

    deltalake reports that by a panic of Rust, which is no Exception.
    """
    try:
        return deltalake.DeltaTable(folder)
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise ConfigError(
            f"deltalake cannot read a table in this process ({str(error).partition(' - ')[0]}). "
            "Start it by multiprocessing.get_context('spawn') or 'forkserver'."
        ) from None


def _newest(remote: Remote) -> tuple[tuple[LiveFile, ...], pa.Schema]:
    """Return the files of the newest version, sorted by path, and the columns that they hold."""
    try:
        import deltalake
        from deltalake.exceptions import DeltaError
    except ImportError:
        raise ConfigError(
            f"{remote.shown!r} is a Delta table, and deltalake is not installed. "
            f"{install_hint('delta')}"
        ) from None
    with TemporaryDirectory(prefix="ray-kmeans-delta") as folder:
        with raise_store_errors(
            f"the log of {remote.shown!r} cannot be read", remote.storage_options
        ):
            _copy_log(remote, Path(folder) / LOG)
        with raise_data_errors(f"the log of {remote.shown}", DeltaError):
            table = _open_table(deltalake, folder)
            actions = pa.table(table.get_add_actions(flatten=False)).to_pylist()
            schema = pa.schema(table.schema().to_arrow())
            metadata = table.metadata()
            features = set(table.protocol().reader_features or ())
            if metadata.configuration.get("delta.columnMapping.mode", "none") != "none":
                features.add("columnMapping")
    _check(remote, features - HARMLESS)
    files = [
        LiveFile(
            _path(remote, action["path"]),
            action["size_bytes"],
            "",  # files of a table are never written again
            keys=tuple((action.get("partition") or {}).items()),
        )
        for action in actions
    ]
    stored = [field for field in schema if field.name not in metadata.partition_columns]
    return tuple(sorted(files, key=lambda file: file.path)), pa.schema(stored)


def _copy_log(remote: Remote, folder: Path) -> None:
    """Copy the part of the log that tells the newest version: its last checkpoint and all later."""
    fs, log = remote.fs, f"{remote.path}/{LOG}"
    fs.invalidate_cache()
    paths = fs.find(log)
    newest = 0
    if f"{log}/_last_checkpoint" in paths:
        newest = json.loads(fs.cat_file(f"{log}/_last_checkpoint"))["version"]
    needed = [path for path in paths if _version(path, newest) >= newest]

    def copy(path: str) -> None:
        target = folder / path[len(log) + 1 :]
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(fs.cat_file(path))

    with ThreadPoolExecutor(HEADS_AT_ONCE) as pool:
        list(pool.map(copy, needed))


def _version(path: str, unknown: int) -> int:
    """Return the version in the name of a file of the log, or `unknown` if there is none."""
    number = path.rsplit("/", 1)[-1][:20]
    return int(number) if number.isdigit() else unknown


def _path(remote: Remote, path: str) -> str:
    """Return the path of a file on the store; the log names most relative to the table."""
    if "://" in path:
        return Remote(unquote(path), remote.storage_options).path
    return unquote(path) if path.startswith("/") else f"{remote.path}/{unquote(path)}"


def _check(remote: Remote, features: set[str]) -> None:
    """Raise ConfigError if there are table features that are not served."""
    if features:
        advice = "".join(ADVICE.get(feature, "") for feature in sorted(features))
        raise ConfigError(
            f"{remote.shown!r} is a Delta table with {', '.join(sorted(features))}, under which "
            f"the rows of its files are not those of the table; this is not served.{advice}"
        )
