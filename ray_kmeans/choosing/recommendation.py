"""Recommend a number of clusters from the figures of several, and say why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ray_kmeans.text.quantities import format_number


@dataclass(frozen=True)
class Candidate:
    """A number of clusters, and the figures of the model that has them."""

    num_clusters: int
    """Number of clusters."""
    inertia: float
    """Sum of the distances of all rows to the nearest center."""
    silhouette: float | None
    """Mean simplified silhouette, from 0 to 1: the higher, the better; None for one cluster."""
    davies_bouldin: float | None
    """Index of Davies and Bouldin: the lower, the better; None if it is not defined."""
    calinski_harabasz: float | None
    """Index of Calinski and Harabasz: the higher, the better; None if it is not defined."""
    empty: int
    """Number of clusters without a row."""
    iterations: int
    """Number of steps of the fit."""
    model_dir: str
    """Path or URL of the model."""

    def as_dict(self) -> dict[str, Any]:
        """Return the figures by name.

        Returns
        -------
        dict
            Values that JSON can hold.
        """
        return asdict(self)


_FIGURES: tuple[tuple[str, Callable[[Candidate], float | None]], ...] = (
    ("highest simplified silhouette", lambda each: each.silhouette),
    (
        "lowest Davies-Bouldin index",
        lambda each: None if each.davies_bouldin is None else -each.davies_bouldin,
    ),
    ("highest Calinski-Harabasz index", lambda each: each.calinski_harabasz),
)
"""What each figure prefers, in words, and a number that is the higher, the better."""


def recommend(candidates: Sequence[Candidate]) -> tuple[int, str]:
    """Return the number of clusters that most figures prefer, and the reason as a sentence.

    Each of the three figures names the candidate that is best by it; of equal ones the one with
    fewer clusters. Where two or three numbers have equally many figures, the smallest is taken.

    >>> few = Candidate(2, 9.0, 0.5, 0.9, 100.0, 0, 3, "a")
    >>> more = Candidate(3, 4.0, 0.7, 0.6, 90.0, 0, 3, "b")
    >>> recommend([few, more])[0]
    3
    """
    ordered = sorted(candidates, key=lambda each: each.num_clusters)
    wins: dict[str, int] = {}
    for name, figure in _FIGURES:
        known = [(figure(each), each.num_clusters) for each in ordered]
        best = max((value for value, _ in known if value is not None), default=None)
        if best is not None:
            wins[name] = next(k for value, k in known if value == best)
    if not wins:
        k = ordered[0].num_clusters
        return k, f"k={k:,}: no figure is defined for any of these, so it is the smallest."
    votes = Counter(wins.values())
    k = min(votes, key=lambda each: (-votes[each], each))
    return k, _reason(k, wins, votes)


def _reason(k: int, wins: dict[str, int], votes: Counter[int]) -> str:
    """Return why k is recommended, and what speaks for others."""
    own = [f"the {name}" for name, winner in wins.items() if winner == k]
    others = [f"the {name} is at k={winner:,}" for name, winner in wins.items() if winner != k]
    reason = f"k={k:,} has {_listed(own)}"
    if not others:
        return f"{reason}: all figures agree."
    if votes[k] > 1:
        return f"{reason}; but {_listed(others)}."
    return (
        f"{reason}; but {_listed(others)}: the figures disagree, and this is the smallest. "
        "Look at the plot, and at the rows."
    )


def _listed(names: Sequence[str]) -> str:
    """Return names as a list in a sentence.

    >>> _listed(["a"]), _listed(["a", "b"]), _listed(["a", "b", "c"])
    ('a', 'a and b', 'a, b and c')
    """
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def table_of(candidates: Sequence[Candidate], best: int) -> str:
    """Return a line for each candidate, the recommended one marked, as text."""
    names = ("k", "inertia", "silhouette", "Davies-B.", "Calinski-H.", "empty")
    lines = ["{:>10}{:>14}{:>12}{:>11}{:>13}{:>7}".format(*names)]
    for each in candidates:
        mark = "  <-" if each.num_clusters == best else ""
        indices = (each.silhouette, each.davies_bouldin, each.calinski_harabasz)
        first, second, third = ("-" if x is None else format_number(x) for x in indices)
        lines.append(
            f"{each.num_clusters:>10,}{format_number(each.inertia):>14}{first:>12}{second:>11}"
            f"{third:>13}{each.empty:>7,}{mark}"
        )
    return "\n".join(lines)
