"""Read columns of a labelled output, part by part."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ray_kmeans.errors import ConfigError, StoreError
from ray_kmeans.io import publish
from ray_kmeans.store.labelled_manifests import Manifests


@dataclass(frozen=True, repr=False)
class LabelledTables(publish.Place):
    """The parts of a complete labelled output, in any order of its rows."""

    manifest: Mapping[str, Any] = field(default_factory=dict)
    """Manifest of the output."""

    @classmethod
    def at(cls, url: str, storage_options: Mapping[str, Any]) -> LabelledTables:
        """Return the parts of an output; ConfigError if none is there, or it is not complete."""
        place = Manifests(publish.absolute(url), storage_options)
        with place.raise_store_errors(f"{place.shown!r} cannot be read"):
            found = place.newest()
        if not found:
            raise ConfigError(
                f"labels={place.shown!r} holds no complete labelled output. Give one of `predict`."
            )
        return cls(place.url, storage_options, found)

    def check_model(self, model: Sequence[Any]) -> None:
        """Raise ConfigError unless the rows were labelled by this model (`OutputSpec['model']`)."""
        if list(self.manifest["of"].get("model", ())) != list(model):
            raise ConfigError(
                f"labels={self.shown!r} was labelled by a model with other centers than this one. "
                "Label the data by this model, or export the model of the labels."
            )

    def check_integers(self, name: str) -> None:
        """Raise ConfigError unless a column of the output is there and holds whole numbers."""
        for part in self.manifest["parts"][:1]:
            kind = self._table(part["name"], part["rows"], [name]).schema.field(name).type
            if not pa.types.is_integer(kind):
                raise ConfigError(
                    f"the column {name!r} of labels={self.shown!r} holds {kind}, and ids of rows "
                    "are whole numbers. Name another column."
                )

    def read(self, names: Sequence[str]) -> Iterator[pa.Table]:
        """Yield some columns of each part; ConfigError if a column is missing."""
        for part in self.manifest["parts"]:
            yield self._table(part["name"], part["rows"], names)

    def _table(self, name: str, rows: int, names: Sequence[str]) -> pa.Table:
        """Return some columns of one part."""
        with self.raise_store_errors(f"{self.shown!r} cannot be read"):
            data = self.fs.cat_file(f"{self.path}/{name}")
        try:
            file = pq.ParquetFile(pa.BufferReader(data))
            found = file.schema_arrow.names
            missing = [each for each in names if each not in found]
            table = None if missing else file.read(list(names))
        except pa.ArrowException as error:
            raise StoreError(f"{self.shown}/{name} is no part of an output: {error}") from None
        if table is None:
            raise ConfigError(
                f"labels={self.shown!r} has no column {missing[0]!r}; it has {', '.join(found)}. "
                "Label the data again and keep that column, or name one of these."
            )
        if table.num_rows != rows or any(column.null_count for column in table.columns):
            raise StoreError(
                f"{self.shown}/{name} has {table.num_rows:,} rows where its manifest has {rows:,}, "
                f"or nulls in {', '.join(names)}. Run the same `predict` again: it writes damaged "
                "parts anew."
            )
        return table
