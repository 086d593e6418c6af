"""What a thread does with the prefixes of a held shard: it makes or moves them, and sweeps by them.

Each piece of work is a run of parts, and gets scratch memory of its own as the last argument. The
records are those of `prefix` and `types`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.kernels import F32, I32
from ray_kmeans.kernels.int8.prefix import (
    Axes,
    PrefixCenters,
    Prefixes,
    PrefixRows,
    find_places,
    measure_radii,
    move_prefixes,
    put_rows,
)
from ray_kmeans.kernels.int8.sweep_by_prefix import (
    PrefixBlock,
    guess_labels,
    sweep_parts_by_prefix,
)
from ray_kmeans.kernels.int8.types import Parts, Rows, Scratch, Sweep, quads_for
from ray_kmeans.kernels.llvm.int8_products import BLOCK_ROWS, Unit


def empty_prefixes(
    axes: Axes, unit_of: Callable[[int], Unit], k: int, order: I32, references: F32
) -> Prefixes:
    """Return memory for the prefixes of rows in this order, and of k centers.

    order: (slots,)  IN; references: (groups, columns)  IN, of the parts
    """
    p = axes.axes.shape[1]
    return Prefixes(
        axes=axes,
        order=order,
        unit=unit_of(quads_for(p)),
        rows=PrefixRows.empty(len(order) // BLOCK_ROWS, p),
        references=references,
        scratch=Scratch.of(k, p, quads_for(p), 1),
    )


def places_in(before: Prefixes | None, n: int) -> NDArray[np.int32]:
    """Return the slot of each row in `before`, (n,); anything where there is none."""
    places = np.empty(n, np.int32)
    if before is not None:
        find_places(before.order, places)
    return places


def fill(
    prefixes: Prefixes,
    before: Prefixes | None,
    places: NDArray[np.int32],
    rows: Rows,
    scale: np.float32,
    parts: Parts,
    first_part: int,
    last_part: int,
    scratch: Scratch,
) -> None:
    """Make the prefixes of some parts, or move those of `before`, which are along the same axes.

    places: (n,)  IN, as `places_in` returns them
    """
    order, d = prefixes.order, prefixes.axes.axes.shape[0]
    first, last = parts.spans[[first_part, last_part - 1], [1, 2]] * BLOCK_ROWS
    if before is None:
        put_rows(prefixes.axes, rows, order[first:last], first, scale, prefixes.rows)
    else:
        move_prefixes(before.rows, places, order, first, last, prefixes.rows)
    measure_radii(first_part, last_part, parts, rows, order, scale, prefixes.references, d, scratch)


def guess(
    prefixes: Prefixes,
    centers: PrefixCenters,
    parts: Parts,
    labels: NDArray[np.int32],
    first_part: int,
    last_part: int,
    scratch: Scratch,
) -> None:
    """Label the rows of some parts by their prefixes alone, for a first sweep to begin from."""
    guess_labels(
        prefixes.unit,
        first_part,
        last_part,
        parts,
        prefixes.rows,
        centers.padded,
        labels,
        scratch._replace(centers=centers.panel),
    )


def sweep(
    prefixes: Prefixes,
    centers: PrefixCenters,
    parts: Parts,
    first_part: int,
    last_part: int,
    piece: Sweep,
    scratch: Scratch,
) -> None:
    """Sweep some parts by the prefixes of their rows."""
    sweep_parts_by_prefix(
        prefixes.unit,
        first_part,
        last_part,
        parts,
        prefixes.references,
        prefixes.rows,
        centers,
        piece,
        PrefixBlock.of(centers.residuals.shape[1]),
        scratch,
    )
