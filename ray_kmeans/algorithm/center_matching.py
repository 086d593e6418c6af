"""Matching the centers of two models, and telling from that what became of each cluster.

The kinds of change follow Spiliopoulou, Ntoutsi, Theodoridis, Schult, MONIC: modeling and
monitoring cluster transitions, KDD 2006, with one threshold: more than half of the rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

MOST_ASSIGNED = 4096
"""Largest number of clusters of either model for which the optimal assignment is computed."""
NONE = -1
"""Stands for no cluster among the numbers of clusters."""

Kind: TypeAlias = Literal["kept", "split", "merged", "new", "vanished"]
"""What became of a cluster, or where it came from."""


def best_partners(old: NDArray[Any], new: NDArray[Any]) -> NDArray[np.int64]:
    """Return the old center of each new one, (b,), or NONE: one to one, with the least sum of
    Euclidean distances.

    `old` (a, d) and `new` (b, d) are compared in float64. By the triangle inequality, a center that
    has not moved is matched with itself: the sum of squared distances would rather move two centers
    by half of the way than one by all of it.
    """
    from ray_kmeans.algorithm import assignment  # numba: 0.2 s, and may be missing

    few, many = (old, new) if len(old) <= len(new) else (new, old)
    costs = np.empty((len(few), len(many)))
    columns = np.ascontiguousarray(many.astype(np.float64).T)
    assignment.squared_distances(few.astype(np.float64), columns, costs)
    partners = np.empty(len(few), np.int64)
    assignment.assign(np.sqrt(costs, out=costs), partners)
    return partners if few is new else _inverse(partners, len(new))


def mutual_partners(
    nearest_new: NDArray[np.int64], nearest_old: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the old center of each new one, (b,), or NONE: those that are each other's nearest.

    `nearest_new` (a,) is the nearest new center of each old one, `nearest_old` (b,) the other way.
    """
    numbers = np.arange(len(nearest_old))
    return np.where(nearest_new[nearest_old] == numbers, nearest_old, NONE)


def ids_like(partners: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the number that each new center gets, (k,): its partner's, where there is that number.

    `partners` (k,) are numbers of old centers, or NONE. Those that are left get the numbers that
    are free, both in ascending order.

    >>> ids_like(np.array([2, NONE, 0, 7])).tolist()
    [2, 1, 0, 3]
    """
    ids = np.where(partners < len(partners), partners, NONE)
    left = ids == NONE
    ids[left] = np.setdiff1d(np.arange(len(ids)), ids[~left])
    return ids


def _inverse(partners: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Return whose partner each of `count` numbers is, (count,), or NONE."""
    whose = np.full(count, NONE)
    some = partners != NONE
    whose[partners[some]] = np.flatnonzero(some)
    return whose


# --- what became of each cluster


@dataclass(frozen=True)
class Flows:
    """Weight of the rows by their labels under two models; the flows of all workers add up."""

    pairs: NDArray[np.int64]
    """(p, 2) Pairs of labels (old, new) that occur, in ascending order."""
    weights: NDArray[np.int64]
    """(p,) Weight of the rows of each pair, in units of weight."""
    losses: tuple[int, int]
    """Loss under the old and the new model, in units of `exact_total`."""

    @classmethod
    def of(cls, pairs: NDArray[Any], weights: NDArray[np.int64], losses: tuple[int, int]) -> Flows:
        """Add up the weights of equal pairs of labels, (n, 2) and (n,)."""
        width = int(pairs.max(initial=0)) + 1
        codes = pairs[:, 0].astype(np.int64) * width + pairs[:, 1]
        found, places = np.unique(codes, return_inverse=True)
        # Sums of whole numbers as floats are exact: all weights together are below 2**53.
        sums = np.bincount(places, weights, minlength=len(found)).astype(np.int64)
        kept = sums > 0
        return cls(np.stack(np.divmod(found[kept], width), axis=1), sums[kept], losses)

    def __add__(self, other: Flows) -> Flows:
        """Return the flows of both sets of rows."""
        losses = (self.losses[0] + other.losses[0], self.losses[1] + other.losses[1])
        pairs = np.concatenate([self.pairs, other.pairs])
        return Flows.of(pairs, np.concatenate([self.weights, other.weights]), losses)

    def sizes(self, which: int, count: int) -> NDArray[np.int64]:
        """Return the weight of each of `count` clusters of the old (0) or new (1) model."""
        return np.bincount(self.pairs[:, which], self.weights, minlength=count).astype(np.int64)

    def between(self, old: int, new: int) -> int:
        """Return the weight of the rows of an old cluster that are in a new one."""
        here = (self.pairs[:, 0] == old) & (self.pairs[:, 1] == new)
        return int(self.weights[here].sum())


@dataclass(frozen=True)
class Relations:
    """How the clusters of two models belong together."""

    partners: NDArray[np.int64]
    """(b,) Old center that each new one is matched with, or NONE."""
    targets: NDArray[np.int64]
    """(a,) New cluster that each old one went into for its larger part, or NONE."""
    sources: NDArray[np.int64]
    """(b,) Old cluster that each new one came from for its larger part, or NONE."""


def relations_by_rows(flows: Flows, partners: NDArray[np.int64], num_old: int) -> Relations:
    """Return the relations by which more than half of the rows of a cluster are in another one.

    Two matched clusters without any rows belong together.
    """
    sizes = flows.sizes(0, num_old), flows.sizes(1, len(partners))
    main = [np.full(len(each), NONE) for each in sizes]
    for side in (0, 1):
        mine, others = flows.pairs[:, side], flows.pairs[:, 1 - side]
        most = 2 * flows.weights > sizes[side][mine]
        main[side][mine[most]] = others[most]
    for new, old in enumerate(partners.tolist()):
        if old != NONE and sizes[0][old] == sizes[1][new] == 0:
            main[0][old], main[1][new] = new, old
    return Relations(partners, *main)


def relations_by_distance(
    partners: NDArray[np.int64],
    to_new: tuple[NDArray[np.int64], NDArray[np.float64]],
    to_old: tuple[NDArray[np.int64], NDArray[np.float64]],
    gaps: tuple[NDArray[np.float64], NDArray[np.float64]],
) -> Relations:
    """Return the relations by which a center lies nearer to another one than that one's neighbour.

    `to_new` are the nearest new center of each old one and its distance, (a,) each; `to_old` the
    other way. `gaps` are the distances of the old centers, (a,), and of the new ones, (b,), to
    their nearest neighbours in the same model.
    """
    (targets, how_far), (sources, from_where) = to_new, to_old
    return Relations(
        partners,
        np.where(how_far < gaps[1][targets], targets, NONE),
        np.where(from_where < gaps[0][sources], sources, NONE),
    )


@dataclass(frozen=True)
class Change:
    """What became of a cluster."""

    old: int | None
    """Number of the cluster in the old model; None if it is not there."""
    new: int | None
    """Number of the cluster in the new model; None if it is not there."""
    kind: Kind
    """What became of it."""
    parts: tuple[int, ...]
    """New clusters that the old one went into for their or its larger part."""
    origins: tuple[int, ...]
    """Old clusters that went into the new one for their larger part."""


def changes(relations: Relations) -> list[Change]:
    """Return what became of each cluster: first the new model's in order, then the vanished ones.

    A match of centers counts where more than half of the rows of either went the same way. Else the
    two are taken apart; and clusters that are left over on both sides are put together where each
    is the other's larger part.
    """
    olds = _confirmed(relations)
    news = _inverse(olds, len(relations.targets))
    parts = _gathered(relations.sources, news, len(news))
    origins = _gathered(relations.targets, olds, len(olds))
    found = [_change_of_new(new, olds, relations, parts, origins) for new in range(len(olds))]
    for old in np.flatnonzero(news == NONE).tolist():
        target = int(relations.targets[old])
        kind: Kind = "merged" if target != NONE and len(origins[target]) > 1 else "vanished"
        found.append(Change(old, None, kind, (target,) if target != NONE else (), ()))
    return found


def _change_of_new(
    new: int,
    olds: NDArray[np.int64],
    relations: Relations,
    parts: Sequence[tuple[int, ...]],
    origins: Sequence[tuple[int, ...]],
) -> Change:
    """Return what became of a cluster that is in the new model."""
    old, source = int(olds[new]), int(relations.sources[new])
    if old == NONE:
        kind: Kind = "split" if source != NONE and len(parts[source]) > 1 else "new"
        return Change(None, new, kind, (), (source,) if source != NONE else ())
    kind = "split" if len(parts[old]) > 1 else "merged" if len(origins[new]) > 1 else "kept"
    return Change(old, new, kind, parts[old], origins[new])


def _confirmed(relations: Relations) -> NDArray[np.int64]:
    """Return the old cluster that each new one continues, (b,), or NONE."""
    olds = relations.partners.copy()
    targets, sources = relations.targets, relations.sources
    for new, old in enumerate(olds.tolist()):
        if old != NONE and targets[old] != new and sources[new] != old:
            olds[new] = NONE
    free = set(range(len(targets))) - set(olds.tolist())
    for new in np.flatnonzero(olds == NONE).tolist():
        old = int(sources[new])
        if old in free and targets[old] == new:
            olds[new] = old
    return olds


def _gathered(
    mains: NDArray[np.int64], partners: NDArray[np.int64], count: int
) -> list[tuple[int, ...]]:
    """Return whose main cluster, or partner, each of `count` clusters is, in ascending order.

    `mains` are numbers of clusters of the other model, and `partners` (count,) numbers of those
    that are told here.
    """
    found: list[set[int]] = [{int(each)} - {NONE} for each in partners]
    for here, main in enumerate(mains.tolist()):
        if main != NONE:
            found[main].add(here)
    return [tuple(sorted(each)) for each in found]
