"""Find what opens a data set of another library: an object of it, or a folder that it wrote."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from ray_kmeans.data.datasets.arrow import open_dataset
from ray_kmeans.data.datasets.delta import LOG, open_delta
from ray_kmeans.data.datasets.hugging_face import open_hugging_face, refuse_splits, refuse_stream
from ray_kmeans.data.datasets.lance import open_lance, open_lance_folder
from ray_kmeans.data.datasets.ray import open_ray_dataset
from ray_kmeans.data.datasets.zarr import open_zarr, open_zarr_folder
from ray_kmeans.data.source import Source
from ray_kmeans.io.remote import Remote, raise_store_errors

ObjectOpener: TypeAlias = "Callable[[Any, Sequence[str] | None], Source]"
"""Function (object, columns) -> source."""
FolderOpener: TypeAlias = "Callable[[str, Sequence[str] | None, Mapping[str, Any]], Source]"
"""Function (URI of a folder, columns, storage options) -> source."""

OBJECTS: Mapping[tuple[str, str], ObjectOpener] = {
    ("pyarrow", "Dataset"): open_dataset,
    ("lance", "LanceDataset"): open_lance,
    ("ray", "Dataset"): open_ray_dataset,
    ("zarr", "Array"): open_zarr,
    ("datasets", "Dataset"): open_hugging_face,
    ("datasets", "DatasetDict"): refuse_splits,
    ("datasets", "IterableDataset"): refuse_stream,
    ("datasets", "IterableDatasetDict"): refuse_splits,
}
"""Openers by package and name of a class: no library is imported to recognize its objects."""

FOLDERS: Mapping[str, FolderOpener] = {
    LOG: open_delta,
    "zarr.json": open_zarr_folder,
    ".zarray": open_zarr_folder,
    ".zgroup": open_zarr_folder,
}
"""Openers by the name of something in the folder."""

ENDS: Mapping[str, FolderOpener] = {".lance": open_lance_folder, ".zarr": open_zarr_folder}
"""Openers by the ending of the folder's name."""


def opener_of(x: Any) -> ObjectOpener | None:
    """Return the opener for an object of a known library or of a derived class; None for others."""
    kinds = ((base.__module__.partition(".")[0], base.__name__) for base in type(x).__mro__)
    return next((OBJECTS[kind] for kind in kinds if kind in OBJECTS), None)


def open_folder(
    uri: str, columns: Sequence[str] | None, storage_options: Mapping[str, Any]
) -> Source | None:
    """Return the source of a folder that a library wrote; None for any other place."""
    for end, open_it in ENDS.items():
        if uri.lower().rstrip("/").endswith(end):
            return open_it(uri, columns, storage_options)
    remote = Remote(uri, storage_options)
    with raise_store_errors(f"{remote.shown!r} cannot be listed", storage_options):
        names = _names_in(remote)
    opener = next((FOLDERS[name] for name in FOLDERS if name in names), None)
    return opener(uri, columns, storage_options) if opener else None


def _names_in(remote: Remote) -> set[str]:
    """Return the names in a folder; none if it is not there, or a file."""
    try:
        info = remote.fs.info(remote.path)
    except (FileNotFoundError, NotADirectoryError):
        return set()
    if info["type"] != "directory":
        return set()
    listed = remote.fs.ls(remote.path, detail=False)
    return {str(path).rstrip("/").rsplit("/", 1)[-1] for path in listed}
