"""How many labels of a sample of rows are right, and what the wrong ones cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

NORMAL_95 = 1.959963984540054
"""Quantile of the normal distribution for an interval of 95 %."""


@dataclass(frozen=True)
class RecallSums:
    """Labels of some rows by beams of several widths, beside exact ones; two of them add up."""

    rows: int
    """Number of rows."""
    exact: int
    """Sum of the distances to the nearest centers, in units of `exact_total`."""
    right: tuple[int, ...]
    """Number of rows whose label is that of the nearest center, by width."""
    losses: tuple[int, ...]
    """Sum of the distances to the centers of the labels, by width, in the same units."""

    def __add__(self, other: RecallSums) -> RecallSums:
        """Return the sums of both sets of rows."""
        return RecallSums(
            self.rows + other.rows,
            self.exact + other.exact,
            tuple(a + b for a, b in zip(self.right, other.right, strict=True)),
            tuple(a + b for a, b in zip(self.losses, other.losses, strict=True)),
        )

    def recalls(self, beams: Sequence[int]) -> list[Recall]:
        """Return what the sums say of each width."""
        return [
            Recall(
                beam=beam,
                sample_rows=self.rows,
                share=right / self.rows if self.rows else 1.0,
                interval=wilson(right, self.rows),
                loss_gap=_gap(loss, self.exact),
            )
            for beam, right, loss in zip(beams, self.right, self.losses, strict=True)
        ]


@dataclass(frozen=True)
class Recall:
    """Measured accuracy of labels by a beam."""

    beam: int
    """Number of nodes of each level whose children a row is compared with."""
    sample_rows: int
    """Number of rows that were labelled exactly as well."""
    share: float
    """Share of them whose label is that of the nearest center."""
    interval: tuple[float, float]
    """Interval of 95 % for that share of all rows (Wilson, 1927)."""
    loss_gap: float | None
    """Loss of the sample by these labels over its exact loss, minus 1; None where only the exact
    loss is 0."""

    def __str__(self) -> str:
        """Return a sentence."""
        low, high = self.interval
        gap = "not 0 as" if self.loss_gap is None else f"{self.loss_gap:.2%} higher than"
        return (
            f"labels by a beam of {self.beam:,}: {self.share:.2%} are of the nearest center "
            f"(95 % interval {low:.2%} to {high:.2%}, {self.sample_rows:,} rows labelled exactly), "
            f"and the loss is {gap} the exact one"
        )


def _gap(loss: int, exact: int) -> float | None:
    """Return by which share a loss is above the exact one; None where only that one is 0."""
    if loss == exact:
        return 0.0
    return (loss - exact) / exact if exact else None


def wilson(right: int, rows: int) -> tuple[float, float]:
    """Return an interval of 95 % for a share of which `right` of some `rows` were seen.

    Wilson, Probable inference, the law of succession, and statistical inference, Journal of the
    American Statistical Association 22 (1927).

    >>> [round(end, 4) for end in wilson(95, 100)]
    [0.8882, 0.9785]
    """
    if rows == 0:
        return 0.0, 1.0
    share, z = right / rows, NORMAL_95**2 / rows
    middle = share + z / 2
    half = NORMAL_95 * math.sqrt(share * (1 - share) / rows + z / (4 * rows))
    return max((middle - half) / (1 + z), 0.0), min((middle + half) / (1 + z), 1.0)
