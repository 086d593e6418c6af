"""A fit in a few lines of text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from ray_kmeans.clustering.state import Iteration, Stop

FIRST_LINES = 4
LAST_LINES = 4
SIZES_SHOWN = 12


def fit_table(
    history: Sequence[Iteration], stop: Stop | None, counts: NDArray[Any] | None = None
) -> str:
    """Return the loss of each step, why the fit ended and, if known, the sizes of the clusters."""
    lines = ["iteration        inertia   largest move   empty"]
    shown = [*history[:FIRST_LINES], None, *history[-LAST_LINES:]]
    for line in shown if len(history) > FIRST_LINES + LAST_LINES + 1 else history:
        if line is None:
            lines.append(f"{'...':>9}")
        else:
            lines.append(
                f"{line.iteration:>9}{line.inertia:>15.6g}{line.shift:>15.3g}{line.empty:>8}"
            )
    if counts is not None:
        sizes = sorted(counts.tolist(), reverse=True)
        more = f", ... {_size(sizes[-1])}" if len(sizes) > SIZES_SHOWN else ""
        largest = ", ".join(map(_size, sizes[:SIZES_SHOWN]))
        lines.append(f"{len(sizes):,} clusters of {_size(sum(sizes))} rows; sizes: {largest}{more}")
    lines.append(f"stopped: {stop.value if stop else 'not yet, the fit was cut off'}")
    return "\n".join(lines)


def _size(count: float) -> str:
    return f"{count:,}" if isinstance(count, int) else f"{count:,.6g}"
