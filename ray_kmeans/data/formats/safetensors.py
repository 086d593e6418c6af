"""Read tensors of Hugging Face (.safetensors): a header in JSON, then their values."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ray_kmeans.algorithm.dtypes import BFLOAT16, widened
from ray_kmeans.data.columns import no_columns
from ray_kmeans.data.formats.base import Head, OpenFile
from ray_kmeans.data.formats.dense import Dense, read_dense
from ray_kmeans.data.formats.named_arrays import check_there, choose_matrix
from ray_kmeans.data.sharding import Block
from ray_kmeans.errors import DataError

DTYPES: Mapping[str, str] = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",  # NumPy has no such type: the upper half of a float32
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "u1",
}
"""NumPy type of the values by the format's name for it."""
LENGTH_BYTES = 8
"""Bytes at the start of a file that tell the length of its header."""
LONGEST_HEADER = 100_000_000
"""Largest bytes of a header, as the library of the format allows."""


@dataclass(frozen=True)
class Tensor:
    """A tensor as the header describes it."""

    dtype: str
    """The format's name of the number type, as 'BF16'."""
    shape: tuple[int, ...]
    """Shape of the tensor; (rows, features) for a matrix."""
    begin: int
    """Offset of its first byte in the file."""
    end: int
    """Offset behind its last byte."""


@dataclass(frozen=True)
class Safetensors:
    """Rows of one tensor of each file."""

    name: str
    """Name of the tensor."""

    @classmethod
    def of(cls, first: OpenFile, columns: Sequence[str] | None) -> Safetensors:
        """Return the format with the tensor that the user names, or the first file's one matrix."""
        tensors = tensors_of(first)
        return cls(
            choose_matrix(list(tensors), lambda name: tensors[name].shape, columns, first.path)
        )

    def head(self, file: OpenFile) -> Head:
        """Return shape and type of the tensor; bfloat16, which NumPy lacks, is named as the narrow
        type."""
        tensor = self._tensor(file)
        head = self._dense(file, tensor).head
        return replace(head, narrow=BFLOAT16) if tensor.dtype == "BF16" else head

    def read(self, file: OpenFile, blocks: Sequence[Block]) -> Iterator[tuple[Block, NDArray[Any]]]:
        """Yield blocks and their rows; bfloat16 is widened to float32."""
        tensor = self._tensor(file)
        for block, rows in read_dense(file, self._dense(file, tensor), blocks):
            yield block, widened(rows, BFLOAT16) if tensor.dtype == "BF16" else rows

    def columns_of(self, file: OpenFile, block: Block, names: Sequence[str]) -> pa.Table:
        raise no_columns(names, file.path)

    def _tensor(self, file: OpenFile) -> Tensor:
        """Return the tensor of rows; ConfigError if the file lacks it."""
        tensors = tensors_of(file)
        return tensors[check_there(list(tensors), [self.name], file.path)]

    def _dense(self, file: OpenFile, tensor: Tensor) -> Dense:
        """Return the place of the matrix; DataError if the tensor is none."""
        what = f"tensor {self.name!r} of {file.path}"
        if len(tensor.shape) != 2 or tensor.shape[1] == 0 or tensor.dtype not in DTYPES:
            raise DataError(
                f"{what} holds {tensor.dtype} of shape {tensor.shape}; it must be a table "
                f"(rows, features) of {', '.join(DTYPES)}."
            )
        dense = Dense(*tensor.shape, np.dtype(DTYPES[tensor.dtype]), tensor.begin)
        dense.check_size(what, tensor.end - tensor.begin)
        return dense


def tensors_of(file: OpenFile) -> dict[str, Tensor]:
    """Return all tensors of a file by name; DataError unless they fill it without gaps."""
    file.handle.seek(0)
    length = int.from_bytes(file.handle.read(LENGTH_BYTES), "little")
    start = LENGTH_BYTES + length
    if length > LONGEST_HEADER or start > file.size:
        raise DataError(
            f"{file.path} has {file.size:,} bytes and a header of {length:,}: it is cut off, or "
            "not a .safetensors file."
        )
    try:
        header = json.loads(str(file.handle.read(length), "utf-8"))
        header.pop("__metadata__", None)
        tensors = {name: _parse_tensor(entry, start) for name, entry in header.items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DataError(f"{file.path} is not a .safetensors file: {error!r}.") from None
    end = start
    for tensor in sorted(tensors.values(), key=lambda tensor: (tensor.begin, tensor.end)):
        if tensor.begin != end:
            raise DataError(f"{file.path} has a gap between its tensors; it is damaged.")
        end = tensor.end
    if end != file.size:
        raise DataError(
            f"{file.path} has {file.size:,} bytes where its tensors end at {end:,}; "
            "it is damaged or cut off."
        )
    return tensors


def _parse_tensor(entry: Any, start: int) -> Tensor:
    """Return the tensor of an entry of the header; `start` is where the values begin."""
    shape, (begin, end) = entry["shape"], entry["data_offsets"]
    if not all(type(number) is int and number >= 0 for number in (*shape, begin, end - begin)):
        raise ValueError(f"a tensor has the shape {shape} and the bytes from {begin} to {end}")
    return Tensor(str(entry["dtype"]), tuple(shape), start + begin, start + end)
