"""A fit as a table in a few lines of text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from ray_kmeans.algorithm.state import Iteration, Stop
from ray_kmeans.text.quantities import format_number

FIRST_LINES = 4
"""First steps that have a line."""
LAST_LINES = 4
"""Last steps that have a line."""
SIZES_SHOWN = 12
"""Largest clusters whose sizes are named."""
HEAD = "iteration        inertia   largest move   empty"
"""Header of the table of a full-batch fit."""
BATCH_HEAD = "iteration   loss per row       smoothed   largest move   empty"
"""Header of the table of a mini-batch fit."""
RELOCATED_HEAD = "   relocated"
"""Header of one more column, where centers of empty or starved clusters were moved to rows."""


def fit_table(
    history: Sequence[Iteration],
    stop: Stop | None,
    counts: NDArray[Any] | None = None,
    mini_batch: bool = False,
) -> str:
    """Return the loss of each step, why the fit ended and, if known, the sizes of the clusters.

    Parameters
    ----------
    history : sequence of Iteration
        The steps of the model; the middle ones of many are left out.
    stop : Stop or None
        Why the fit ended; None for one that was cut off.
    counts : (k,) numbers, optional
        Rows or weight of each cluster.
    mini_batch : bool, default False
        Show the loss per row and the smoothed one, since mini-batches differ in size.
    """
    head, line_of = (BATCH_HEAD, _line_of_batch) if mini_batch else (HEAD, _line)
    relocated = any(line.relocated for line in history)
    lines = [head + RELOCATED_HEAD * relocated]
    shown = [*history[:FIRST_LINES], None, *history[-LAST_LINES:]]
    for line in shown if len(history) > FIRST_LINES + LAST_LINES + 1 else history:
        if line is None:
            lines.append(f"{'...':>9}")
        else:
            lines.append(line_of(line) + f"{line.relocated:>12}" * relocated)
    if counts is not None:
        sizes = counts.tolist()
        rows = format_number(sum(sizes))
        lines.append(f"{len(sizes):,} clusters of {rows} rows; sizes: {largest_sizes(counts)}")
    lines.append(f"stopped: {stop.value if stop else 'not yet, the fit was cut off'}")
    return "\n".join(lines)


def largest_sizes(counts: NDArray[Any]) -> str:
    """Return the sizes of the largest clusters and of the smallest one, from `counts` (k,)."""
    sizes = sorted(counts.tolist(), reverse=True)
    more = f", ... {format_number(sizes[-1])}" if len(sizes) > SIZES_SHOWN else ""
    return f"{', '.join(map(format_number, sizes[:SIZES_SHOWN]))}{more}"


def _line(line: Iteration) -> str:
    """Return the line of a step under `HEAD`."""
    return f"{line.iteration:>9}{line.inertia:>15.6g}{line.shift:>15.3g}{line.empty:>8}"


def _line_of_batch(line: Iteration) -> str:
    """Return the line of a step under `BATCH_HEAD`."""
    smoothed = "" if line.smoothed is None else f"{line.smoothed:.6g}"
    return (
        f"{line.iteration:>9}{line.loss_per_row:>15.6g}{smoothed:>15}{line.shift:>15.3g}"
        f"{line.empty:>8}"
    )
