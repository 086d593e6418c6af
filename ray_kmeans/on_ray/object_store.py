"""Ray's object store: put values there, and turn its errors for lack of room into ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import ObjectStoreFullError, OutOfDiskError

from ray_kmeans.errors import NoRoomError

INLINE_BYTES = 64 * 1024
"""Largest number of bytes of an argument that travels with its call."""


def put(value: Any) -> Any:
    """Put a value into the object store; return a reference. It travels to each node once."""
    with room():
        return ray.put(value)


def sent(arg: Any) -> Any:
    """Return a reference to a large argument, put into the object store once; a small one as it
    is."""
    return put(arg) if getattr(arg, "nbytes", 0) > INLINE_BYTES else arg


@contextmanager
def room() -> Iterator[None]:
    """Turn Ray's errors for a full object store and a full disk into NoRoomError."""
    try:
        yield
    except (ObjectStoreFullError, OutOfDiskError) as error:
        raise NoRoomError(
            "Ray's object store is full, and so is the disk where it would put the rest "
            "(/tmp/ray, or what Ray was started with). Make room there, or start Ray with more "
            "object_store_memory, and run the same again. An array or a table travels that way as "
            "a whole: written to files, and given by its URI, it does not."
        ) from error
