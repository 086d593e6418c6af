"""Errors of Ray: which mean that an actor is lost, whose doing that was, and their sentences."""

from __future__ import annotations

from ray.exceptions import OutOfMemoryError, RayActorError

LOST = RayActorError, OutOfMemoryError
"""Errors that Ray raises for an actor that is gone; the second one where Ray itself killed it."""


def dies_by_itself(error: Exception) -> bool:
    """Tell whether an actor's death is surely its own doing, and nothing from outside killed it.

    Either its constructor raised; or Ray ended it, because its node ran out of memory.
    """
    is_made = not getattr(error, "actor_init_failed", False)
    return isinstance(error, OutOfMemoryError) or not is_made or "low on memory" in str(error)


def first_line(error: Exception) -> str:
    """Return the first line of a Ray error: what happened, without the advice below it."""
    return str(error).strip().split("\n")[0]


def last_line(error: Exception) -> str:
    """Return the last line of a Ray error: what a worker raised, below Ray's words and its
    traceback."""
    return str(error).strip().split("\n")[-1]
