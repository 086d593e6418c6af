"""Import centers from elsewhere: read them from a file or an object, check and store them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, get_args

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ray_kmeans.algorithm.metric import Metric, project
from ray_kmeans.algorithm.row_spec import RowSpec
from ray_kmeans.algorithm.state import (
    GIVEN,
    FitState,
    Origin,
    digest,
)
from ray_kmeans.center_files import arrays, faiss_index, lance_ivf, vectorchord
from ray_kmeans.config import InitialMethod
from ray_kmeans.data.datasets.lance import in_words_of_lance
from ray_kmeans.data.files import File
from ray_kmeans.data.formats.base import OpenFile, open_file
from ray_kmeans.data.formats.registry import FORMATS
from ray_kmeans.data.opening import open_source
from ray_kmeans.data.sharding import Layout
from ray_kmeans.data.source import Source
from ray_kmeans.data.weighted import columns_of_rows
from ray_kmeans.errors import ConfigError, DataError, NoDataError
from ray_kmeans.io.remote import Remote, raise_store_errors
from ray_kmeans.store.model_dir import ModelDir
from ray_kmeans.text.secrets import redacted

PICKLES = (".pkl", ".pickle", ".joblib", ".sav", ".skops")
"""Endings of files that can run code when they are read; they are refused."""
FAISS_ENDINGS = (".faiss", ".index")
"""Endings of files that hold an index of faiss."""
MAGIC = re.compile(rb"I[A-Za-z0-9]{3}")
"""First bytes of the file of an index of faiss, whatever its name is."""
LONGEST_MAGIC = 16
"""Number of first bytes that tell the kind of a file."""
ARCHIVES = (".npz", ".safetensors")
"""Endings of files with several named arrays."""
ATTRIBUTES = ("cluster_centers_", "centroids")
"""Attributes in which models of scikit-learn and its kin, and faiss.Kmeans, have their centers."""
NAMES = "feature_names_in_"
"""Attribute in which models of scikit-learn have the names of their columns."""


@dataclass(frozen=True)
class ForeignCenters:
    """Centers that were made elsewhere, as they were read."""

    centers: NDArray[np.float32]
    """The centers, (k, d)."""
    shown: str
    """Name of their origin for messages."""
    metric: Metric | None = None
    """Metric of their origin; None if it does not say."""
    columns: tuple[str, ...] = ()
    """Names of the d columns, as a frame has them; () if they have none."""

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """Return the centers, (k, d), so that they can be given as `initial_clusters`."""
        return np.array(self.centers, dtype)


def centers_of(
    given: Any,
    columns: Sequence[str] = (),
    storage_options: Mapping[str, Any] | None = None,
    metric: Metric | None = None,
) -> ForeignCenters:
    """Return the centers in a file, an array, a table or a model of another library.

    Raises ConfigError or DataError if there are none, if values are not finite, and if the file
    says that it compares by another metric.
    """
    if isinstance(given, str | os.PathLike):
        found = _in_file(os.fspath(given), columns, storage_options or {})
    else:
        found = _in_object(given, columns)
    centers, shown = found.centers, found.shown
    if found.metric is not None and metric is not None and found.metric != metric:
        measure = "inner product" if found.metric == Metric.COSINE else "L2"
        raise ConfigError(
            f"{shown} compares by {measure}, and "
            f"distance_metric={metric!r}. Give {found.metric!r}, or centers of the other kind."
        )
    wrong = np.flatnonzero(~np.isfinite(centers).all(axis=1))
    if len(wrong):
        raise DataError(
            f"{len(wrong):,} of the {len(centers):,} centers in {shown} hold NaN, null or "
            f"infinity; the first is number {wrong[0]:,}, counted from 0. Give finite centers."
        )
    if metric == Metric.COSINE and not centers.any(axis=1).all():
        raise DataError(f"a center in {shown} is zero: by {Metric.COSINE!r} it has no direction.")
    return replace(found, centers=np.ascontiguousarray(centers))


def initial_clusters_of(given: str, storage_options: Mapping[str, Any]) -> Any:
    """Return the name of a method to choose centers, or the centers in the file of that name.

    Centers keep the names of their columns, by which a fit puts them in the order of its own.
    """
    methods = get_args(InitialMethod)
    if given in methods:
        return given
    try:
        return centers_of(given, (), storage_options)
    except NoDataError as error:
        raise ConfigError(
            f"initial_clusters={redacted(given)!r} is none of {', '.join(map(repr, methods))}, and "
            f"no file of centers either: {error}"
        ) from None


def make_model(given: ForeignCenters, metric: Metric, store: ModelDir) -> FitState:
    """Make centers the model of a directory, and return its state.

    Does nothing where they are its model already; ConfigError if another model is there.
    """
    centers, origin = given.centers, Origin(f"{GIVEN} {digest(given.centers)}")
    state = FitState.initial(project(centers, metric), metric, origin)
    state = replace(state, rows=RowSpec(given.columns))
    with store.take_lease(f"import of {len(centers):,} centers") as held:
        found = held.latest()
        if found is None:
            held.save(state)
        elif (found.origin, found.metric, found.iteration) != (origin, metric, 0):
            k, d = found.centers.shape
            raise ConfigError(
                f"model_dir={store.shown!r} holds a model already: {k:,} clusters of {d:,} "
                f"features after {found.iteration:,} steps. Give another model_dir."
            )
    return state


def _in_file(
    uri: str, columns: Sequence[str], storage_options: Mapping[str, Any]
) -> ForeignCenters:
    """Read centers from a file or URL; pickles are refused."""
    shown = repr(redacted(uri))
    name = uri.lower()
    if name.endswith(PICKLES):
        raise ConfigError(
            f"{shown} is a pickle, which can run code and is not read. In the Python that has the "
            "model: np.save('centers.npy', model.cluster_centers_); then give centers.npy."
        )
    if not name.endswith(tuple(FORMATS)):
        found = _in_index(uri, shown, storage_options)
        if found:
            return found
    source = _open(uri, columns, storage_options)
    return replace(_in_source(source, shown), metric=_metric_in(uri, storage_options))


def _in_index(uri: str, shown: str, storage_options: Mapping[str, Any]) -> ForeignCenters | None:
    """Read centers from a file of an index builder, whose first or last bytes tell which.

    None if it is no file, or another one.
    """
    remote = Remote(uri, storage_options)
    is_faiss = uri.lower().endswith(FAISS_ENDINGS)
    with raise_store_errors(f"{shown} cannot be read", storage_options):
        if not remote.fs.isfile(remote.path):
            if is_faiss:
                raise NoDataError(f"{shown} does not exist.")
            return None
        file = File.of(remote.fs.info(remote.path))
        with open_file(remote, file) as here:
            begin = here.cat(0, LONGEST_MAGIC)
            end = here.cat(max(file.size - len(lance_ivf.MAGIC), 0), file.size)
            found = _in_bytes(here, begin, shown)
    if found:
        return found
    if end == lance_ivf.MAGIC:
        options = in_words_of_lance(storage_options)
        centers, metric = lance_ivf.read_model(uri, options, shown)
        return ForeignCenters(centers, shown, metric)
    if is_faiss:
        raise ConfigError(
            f"{shown} is no index of faiss: it begins with {begin!r}. Give an index that "
            "faiss.write_index wrote, or a file of another format with its own ending."
        )
    return None


def _in_bytes(here: OpenFile, begin: bytes, shown: str) -> ForeignCenters | None:
    """Read centers from an index of faiss or a file of COPY, which `begin` with their own bytes."""
    if MAGIC.match(begin):
        centers, metric = faiss_index.centers_in_file(here.handle, here.size, shown)
        return ForeignCenters(centers, shown, metric)
    if begin.startswith(vectorchord.SIGNATURE):
        table = vectorchord.rows_in_copy(here.cat(0, here.size), shown)
        return replace(_in_source(open_source(table, ["vector"]), shown), columns=())
    return None


def _in_object(given: Any, columns: Sequence[str]) -> ForeignCenters:
    """Read centers from an index of faiss, a fitted model, an array or a table."""
    kind = type(given)
    shown = f"the {kind.__name__}"
    if kind.__module__.partition(".")[0] == "faiss" and hasattr(given, "reconstruct_n"):
        centers, metric = faiss_index.centers_in_index(given, shown)
        return ForeignCenters(centers, shown, metric)
    names = tuple(getattr(given, NAMES, ()))
    for name in ATTRIBUTES:
        given = getattr(given, name, given)
    found = _in_source(open_source(given, columns), shown)
    return replace(found, columns=names) if names else found


def _in_source(source: Source, shown: str) -> ForeignCenters:
    """Read centers from a source; the name of a single column of vectors is not kept."""
    names = columns_of_rows(source)
    return ForeignCenters(_in_order(source, shown), shown, columns=names if len(names) > 1 else ())


def _open(uri: str, columns: Sequence[str], storage_options: Mapping[str, Any]) -> Source:
    """Open a file; of several arrays, that which our own exports call 'centers' is taken."""
    if not columns and uri.lower().endswith(ARCHIVES):
        with suppress(ConfigError):
            return open_source(uri, [arrays.CENTERS], storage_options)
    return open_source(uri, columns, storage_options)


def _metric_in(uri: str, storage_options: Mapping[str, Any]) -> Metric | None:
    """Return the metric that a file of centers tells; None for a folder or a glob."""
    remote = Remote(uri, storage_options)
    with raise_store_errors(f"{redacted(uri)!r} cannot be read", storage_options):
        if not remote.fs.isfile(remote.path):
            return None
        file = File.of(remote.fs.info(remote.path))
        with open_file(remote, file) as here:
            return arrays.metric_in(here.handle, file.size, file.kind)


def _in_order(source: Source, shown: str) -> NDArray[np.float32]:
    """Read centers, in the order of the numbers that their table gives them if it has any.

    Of a tree, the centers without children are read.
    """
    layout = source.describe()
    if not layout.rows:
        raise DataError(f"{shown} holds no center.")
    rows = [rows for _, rows in source.read(layout.blocks)]
    centers: NDArray[np.float32] = np.concatenate(rows)
    for rows_in_order in (_rows_of_our_export, _rows_of_vectorchord):
        order = rows_in_order(source, layout, shown)
        if order is not None:
            return centers[order]
    return centers


def _rows_of_our_export(source: Source, layout: Layout, shown: str) -> NDArray[np.intp] | None:
    """Return the rows (k,) of the clusters in their order; None for a table of another program."""
    table = _columns(source, layout, ["cluster", "center"])
    if table is None:
        return None
    numbers = table["cluster"].to_numpy()
    levels = _columns(source, layout, ["cluster", "level"])
    leaves = np.flatnonzero(levels["level"].to_numpy() == 0) if levels else np.arange(len(numbers))
    order = leaves[np.argsort(numbers[leaves], kind="stable")]
    if not np.array_equal(numbers[order], np.arange(len(order))):
        raise DataError(f"the column 'cluster' of {shown} does not number its centers from 0 on.")
    return order


def _rows_of_vectorchord(source: Source, layout: Layout, shown: str) -> NDArray[np.intp] | None:
    """Return the rows (k,) that are no parent, in the order of their ids; None for other tables."""
    table = _columns(source, layout, ["id", "parent", "vector"])
    if table is None:
        return None
    parents = table["parent"].drop_null()
    whole = all(pa.types.is_integer(table[name].type) for name in ("id", "parent"))
    if not (whole or len(parents) == 0) or table["id"].null_count:
        raise DataError(
            f"the columns 'id' and 'parent' of {shown} must hold whole numbers, and no id may be "
            f"null; they hold {table['id'].type} and {table['parent'].type}."
        )
    ids = table["id"].to_numpy()
    if len(np.unique(ids)) != len(ids):
        raise DataError(f"the column 'id' of {shown} has a number twice.")
    leaves = np.flatnonzero(~np.isin(ids, parents.to_numpy()))
    order: NDArray[np.intp] = leaves[np.argsort(ids[leaves])]
    return order


def _columns(source: Source, layout: Layout, names: Sequence[str]) -> pa.Table | None:
    """Return some columns of all rows; None if the source does not have them."""
    try:
        return pa.concat_tables([source.columns_of(block, names) for block in layout.blocks])
    except (ConfigError, DataError):
        return None
