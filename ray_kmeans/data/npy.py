"""Rows from .npy files, read by byte range, so that a remote file is never fetched whole."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ray_kmeans.data.columns import to_float32
from ray_kmeans.data.files import FileSystem, is_in_memory
from ray_kmeans.data.plan import BLOCK_ROWS, Block, Layout, cut
from ray_kmeans.errors import ConfigError, DataError

HEADER_BYTES = 4096


@dataclass(frozen=True)
class _Header:
    rows: int
    features: int
    dtype: np.dtype
    offset: int


@dataclass(frozen=True)
class NpySource:
    """Two-dimensional .npy files of any number type, one after the other."""

    fs: FileSystem
    files: tuple[str, ...]

    @property
    def only_here(self) -> bool:
        return is_in_memory(self.fs)

    def describe(self) -> Layout:
        blocks: list[Block] = []
        first = 0
        headers = [self._header(file) for file in self.files]
        features = headers[0].features
        for file, header in zip(self.files, headers, strict=True):
            if header.features != features:
                raise DataError(
                    f"{file} has {header.features} features and {self.files[0]} has {features}; "
                    "all files of a data set must have the same."
                )
            sizes = [min(BLOCK_ROWS, header.rows - s) for s in range(0, header.rows, BLOCK_ROWS)]
            blocks += cut(file, sizes, features, first, len(blocks))
            first += header.rows
        return Layout(tuple(blocks), features)

    def read(self, blocks: Sequence[Block]) -> Iterator[tuple[Block, NDArray[np.float32]]]:
        headers: dict[str, _Header] = {}
        for block in blocks:
            header = headers.get(block.file) or self._header(block.file)
            headers[block.file] = header
            row_bytes = header.features * header.dtype.itemsize
            begin = header.offset + block.start * row_bytes
            data = self.fs.cat_file(block.file, begin, begin + block.rows * row_bytes)
            if len(data) != block.rows * row_bytes:
                raise DataError(
                    f"{block.file} ends before row {block.start + block.rows}; it is cut off."
                )
            rows = np.frombuffer(data, header.dtype).reshape(block.rows, header.features)
            yield block, np.ascontiguousarray(to_float32(rows, block.place))

    def columns_of(self, block: Block, names: Sequence[str]) -> pa.Table:
        raise ConfigError(
            f"keep_columns={list(names)}: {block.file} has no columns to pass through."
        )

    def _header(self, file: str) -> _Header:
        start = io.BytesIO(self.fs.cat_file(file, 0, HEADER_BYTES))
        try:
            version = np.lib.format.read_magic(start)
            read = {(1, 0): np.lib.format.read_array_header_1_0}.get(
                version, np.lib.format.read_array_header_2_0
            )
            shape, column_major, dtype = read(start)
        except Exception as error:  # a damaged header can fail in many ways
            raise DataError(f"{file} is not a .npy file: {error}.") from None
        if len(shape) != 2 or shape[1] == 0 or dtype.kind not in "biuf" or column_major:
            order = "column" if column_major else "row"
            raise DataError(
                f"{file} holds {dtype} of shape {shape} in {order}-major order; "
                "it must be a row-major table of numbers (rows, features)."
            )
        return _Header(shape[0], shape[1], dtype, start.tell())
