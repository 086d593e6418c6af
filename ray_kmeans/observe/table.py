"""A fit in a few lines of text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from ray_kmeans.algorithm.state import Iteration, Stop

FIRST_LINES = 4
LAST_LINES = 4
SIZES_SHOWN = 12


def fit_table(
    history: Sequence[Iteration],
    stop: Stop | None,
    counts: NDArray[Any] | None = None,
    mini_batch: bool = False,
) -> str:
    """Return the loss of each step, why the fit ended and, if known, the sizes of the clusters.

    With mini-batches it is the loss per row of a batch, and the smoothed one that ends the fit.
    """
    head, line_of = (BATCH_HEAD, _line_of_batch) if mini_batch else (HEAD, _line)
    lines = [head]
    shown = [*history[:FIRST_LINES], None, *history[-LAST_LINES:]]
    for line in shown if len(history) > FIRST_LINES + LAST_LINES + 1 else history:
        lines.append(f"{'...':>9}" if line is None else line_of(line))
    if counts is not None:
        sizes = counts.tolist()
        lines.append(
            f"{len(sizes):,} clusters of {_size(sum(sizes))} rows; sizes: {largest_sizes(counts)}"
        )
    lines.append(f"stopped: {stop.value if stop else 'not yet, the fit was cut off'}")
    return "\n".join(lines)


def largest_sizes(counts: NDArray[Any]) -> str:
    """Return how many rows the largest clusters have, and the smallest one."""
    sizes = sorted(counts.tolist(), reverse=True)
    more = f", ... {_size(sizes[-1])}" if len(sizes) > SIZES_SHOWN else ""
    return f"{', '.join(map(_size, sizes[:SIZES_SHOWN]))}{more}"


HEAD = "iteration        inertia   largest move   empty"
BATCH_HEAD = "iteration   loss per row       smoothed   largest move   empty"


def _line(line: Iteration) -> str:
    return f"{line.iteration:>9}{line.inertia:>15.6g}{line.shift:>15.3g}{line.empty:>8}"


def _line_of_batch(line: Iteration) -> str:
    smoothed = "" if line.smoothed is None else f"{line.smoothed:.6g}"
    return (
        f"{line.iteration:>9}{line.loss_per_row:>15.6g}{smoothed:>15}{line.shift:>15.3g}"
        f"{line.empty:>8}"
    )


def _size(count: float) -> str:
    return f"{count:,}" if isinstance(count, int) else f"{count:,.6g}"
