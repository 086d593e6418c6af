"""Write matrices by hand, with struct and json, in the formats in which people keep vectors."""

from __future__ import annotations

import io
import json
import struct

import numpy as np

TENSORS = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
}
NAMES = {np.dtype(kind): name for name, kind in TENSORS.items()}


def vecs(matrix):
    """Each row begins with its number of values."""
    return b"".join(struct.pack("<i", len(row)) + row.tobytes() for row in matrix)


def big_ann(matrix):
    return struct.pack("<II", *matrix.shape) + matrix.tobytes()


def tensors(header, values=b""):
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + values


def safetensors(**arrays):
    header, values = {"__metadata__": {"format": "pt"}}, b""
    for name, array in arrays.items():
        offsets = [len(values), len(values) + array.nbytes]
        kind = NAMES[array.dtype]
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": offsets}
        values += array.tobytes()
    return tensors(header, values)


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def npz(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def npz_deflated(**arrays):
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


FORMATS = {
    ".fvecs": (np.float32, vecs),
    ".bvecs": (np.uint8, vecs),
    ".ivecs": (np.int32, vecs),
    ".fbin": (np.float32, big_ann),
    ".u8bin": (np.uint8, big_ann),
    ".i8bin": (np.int8, big_ann),
    ".ibin": (np.int32, big_ann),
    ".npy": (np.float32, npy),
    ".npz": (np.float64, lambda matrix: npz(x=matrix)),
    ".deflated.npz": (np.float32, lambda matrix: npz_deflated(x=matrix)),
    ".safetensors": (np.float16, lambda matrix: safetensors(x=matrix)),
}
"""By the end of the name: the number type, and what makes a file of a matrix of it."""
