"""What is put into Ray's object store, to reach other processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import ObjectStoreFullError, OutOfDiskError

from ray_kmeans.errors import NoRoomError

INLINE_BYTES = 64 * 1024


def put(value: Any) -> Any:
    """Return a reference to a value, which travels once for each node."""
    with room():
        return ray.put(value)


def sent(arg: Any) -> Any:
    """Put what is large into the object store once; what is small travels faster with the call."""
    return put(arg) if getattr(arg, "nbytes", 0) > INLINE_BYTES else arg


@contextmanager
def room() -> Iterator[None]:
    """Raise NoRoomError where something finds no room in an object store, nor on the disk."""
    try:
        yield
    except (ObjectStoreFullError, OutOfDiskError) as error:
        raise NoRoomError(
            "Ray's object store is full, and so is the disk where it would put the rest "
            "(/tmp/ray, or what Ray was started with). Make room there, or start Ray with more "
            "object_store_memory, and run the same again. An array or a table travels that way as "
            "a whole: written to files, and given by its URI, it does not."
        ) from error
