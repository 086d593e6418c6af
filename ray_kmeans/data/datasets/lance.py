"""Read Lance: a folder NAME.lance, or a lance.LanceDataset, at one version."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa

from ray_kmeans.data.datasets.base import TableSource, raise_data_errors
from ray_kmeans.data.sharding import Block
from ray_kmeans.errors import ConfigError, install_hint
from ray_kmeans.io.remote import Remote

ROW_ID = "_rowid"
"""Column of the ids that Lance has for its rows. It is not stored, and no row is made of it; but
labelled output can keep it, for the builder of an index."""
WORDS = {
    "key": "aws_access_key_id",
    "secret": "aws_secret_access_key",
    "token": "aws_session_token",
    "anon": "aws_skip_signature",
    "endpoint_url": "aws_endpoint",
    "region_name": "aws_region",
}
"""Lance's name of an option by the name that s3fs has for it."""


@dataclass(frozen=True)
class Lance:
    """A Lance data set, whose fragments are its row groups; deleted rows are left out."""

    dataset: Any
    """lance.LanceDataset of one version, whatever is written meanwhile."""
    name: str
    """URI as people may see it, for messages."""

    @property
    def schema(self) -> pa.Schema:
        """All columns, the ids of the rows included."""
        return self.dataset.schema.append(pa.field(ROW_ID, pa.uint64()))

    def parts(self) -> list[tuple[str, tuple[int, ...]]]:
        return [(self.name, tuple(fragment.count_rows() for fragment in self._fragments))]

    def read(self, blocks: Sequence[Block], names: Sequence[str]) -> Iterator[tuple[Block, Any]]:
        """Yield blocks with their tables; a block lies in one fragment, which Lance slices."""
        for block in blocks:
            fragment = self._fragments[block.group]
            yield block, fragment.to_table(list(names), limit=block.rows, offset=block.skip)

    @cached_property
    def _fragments(self) -> list[Any]:
        """Fragments of the version, in order."""
        fragments: list[Any] = self.dataset.get_fragments()
        return fragments

    def __getstate__(self) -> dict[str, Any]:
        """Leave the fragments behind; the other process gets them anew."""
        return {"dataset": self.dataset, "name": self.name}


def open_lance(x: Any, columns: Sequence[str] | None) -> TableSource:
    """Return the source of a lance.LanceDataset."""
    return TableSource.of(Lance(x, Remote(x.uri).shown), columns, x.schema)


def open_lance_folder(
    uri: str, columns: Sequence[str] | None, storage_options: Mapping[str, Any]
) -> TableSource:
    """Open a folder at its newest version. Lance reads it itself, without fsspec.

    Options of s3fs are translated (`in_words_of_lance`). Where that is not enough, users can give
    `lance.dataset(uri, storage_options=...)` as x.
    """
    try:
        import lance
    except ImportError:
        raise ConfigError(
            f"{Remote(uri).shown!r} needs Lance, which is not installed. {install_hint('lance')}"
        ) from None
    with raise_data_errors(Remote(uri).shown):
        return open_lance(
            lance.dataset(uri, storage_options=in_words_of_lance(storage_options)), columns
        )


def in_words_of_lance(storage_options: Mapping[str, Any]) -> dict[str, str]:
    """Translate options of s3fs into those of Lance; other texts and switches are passed on.

    >>> in_words_of_lance({"key": "me", "client_kwargs": {"region_name": "eu-north-1"}})
    {'aws_access_key_id': 'me', 'aws_region': 'eu-north-1'}
    """
    given = {**storage_options, **storage_options.get("client_kwargs", {})}
    given.pop("client_kwargs", None)
    words = {WORDS.get(name, name): value for name, value in given.items()}
    if str(words.get("aws_endpoint", "")).startswith("http:"):
        words["allow_http"] = True
    return {name: str(value) for name, value in words.items() if isinstance(value, str | bool)}
