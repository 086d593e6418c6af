"""Choose the array that holds the rows, in a file of several named arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ray_kmeans.errors import ConfigError, DataError

SHOWN = 10
"""Largest number of names in a message."""


def choose_matrix(
    names: Sequence[str],
    shape_of: Callable[[str], Sequence[int]],
    wanted: Sequence[str] | None,
    path: str,
) -> str:
    """Return the name of the array of rows: the wanted one, or the only two-dimensional one.

    Parameters
    ----------
    names : sequence of str
        Names of all arrays.
    shape_of : function str -> shape
        Returns the shape of an array.
    wanted : sequence of str or None
        The name that the user gives.
    path : str
        Name of the file, for messages.

    Raises
    ------
    ConfigError, DataError
        If the wanted array is not there; if none is wanted and there are none or several.
    """
    if wanted:
        return check_there(names, wanted, path)
    shapes = {name: tuple(shape_of(name)) for name in names}
    tables = [name for name, shape in shapes.items() if len(shape) == 2]
    if not tables:
        found = ", ".join(f"{name}: {shape}" for name, shape in list(shapes.items())[:SHOWN])
        raise DataError(f"{path} holds no two-dimensional array ({found or 'nothing'}).")
    if len(tables) > 1:
        raise ConfigError(
            f"{path} holds {len(tables)} two-dimensional arrays: {tables[:SHOWN]}. "
            f"Choose one with columns, as in columns={tables[:1]}."
        )
    return tables[0]


def check_there(names: Sequence[str], wanted: Sequence[str], path: str) -> str:
    """Return the one name that is wanted; ConfigError if it is not one of `names`."""
    if len(wanted) > 1:
        raise ConfigError(f"columns={list(wanted)}: give the name of one array of {path}.")
    if wanted[0] not in names:
        raise ConfigError(
            f"columns={list(wanted)} are not in {path}, which has {list(names)[:SHOWN]}."
        )
    return wanted[0]
