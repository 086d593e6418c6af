"""Fit a tree: a fit of the top level, then each of its nodes is split on its own rows, and so on.

Hierarchical k-means, as in Nister, Stewenius, Scalable recognition with a vocabulary tree, CVPR
2006, with as many children for each node as its share of the loss asks for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from time import monotonic

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.algorithm import draws
from ray_kmeans.algorithm.grid import Squares, Summary
from ray_kmeans.algorithm.lloyd import update
from ray_kmeans.algorithm.partial_sums import PartialsOfEach
from ray_kmeans.algorithm.state import FitState, Iteration, digest
from ray_kmeans.algorithm.stopping import why_stop
from ray_kmeans.algorithm.tree import Tree, groups_of, most_children, quotas
from ray_kmeans.engine.checkpoint_saver import Saver
from ray_kmeans.engine.fit_loop import run_fit
from ray_kmeans.engine.fit_plan import FitPlan, LeasedStore
from ray_kmeans.engine.fit_start import read_rows
from ray_kmeans.engine.newest_state import NewestState
from ray_kmeans.engine.pool import Pool
from ray_kmeans.engine.restarts import folder_of, once_read, run_restarts
from ray_kmeans.engine.seeding import weighted_sampling
from ray_kmeans.engine.shared_pool import SharedPool
from ray_kmeans.engine.subtrees import NodeSums
from ray_kmeans.engine.worker import ShardWorker
from ray_kmeans.observe import events as ev
from ray_kmeans.observe.monitors import Monitors
from ray_kmeans.process import interrupt

WORTH_SAVING_S = 0.5
"""Seconds of splitting a group of nodes from which on it is saved: there are GROUPS of them at
most, or as many as there are large nodes, so those that are not saved cost a kill little."""


def run_plan(
    plan: FitPlan,
    shared: SharedPool,
    store: LeasedStore,
    emit: ev.Emit,
    monitors: Monitors | None = None,
    newest: NewestState | None = None,
) -> FitState:
    """Fit as the plan says: a tree if it has levels, else one level with restarts.

    What holds when the fit of a tree is killed: the top level, and each group of nodes that were
    split together, is saved to a place of its own below the model, so the next run splits only the
    groups that were under way. The name of the place tells plan and data. The tree is saved to the
    model when all of it is there; after that come the steps over all clusters, as in any fit.
    """
    if not plan.levels:
        return run_restarts(plan, shared, store, emit, monitors, newest)
    if store.latest() is None:
        _grow(plan, shared, store, emit, newest)
        emit = once_read(emit)
    store.delete_restarts()
    return run_fit(plan.refining, shared.lend(), store, emit, monitors, newest)


def _grow(
    plan: FitPlan,
    shared: SharedPool,
    store: LeasedStore,
    emit: ev.Emit,
    newest: NewestState | None,
) -> None:
    """Fit all levels of a tree, and save it as the model's first state."""
    summary = read_rows(shared.lend(), emit, plan.columns)
    folder = folder_of(plan, summary)
    place = store.restart(f"{folder}/top")
    top = place.latest()
    if top is None or top.stop is None:  # one that has ended must not be continued
        top = run_restarts(plan.top, shared, place, once_read(emit), newest=newest)
    grower = _Grower(plan, shared.lend(), summary, store, folder, emit)
    tree, last = grower.grow(top)
    line = Iteration(
        iteration=1,
        rows=summary.counting,
        inertia=math.fsum(each.inertia for each in last.history),
        shift=max(each.shift for each in last.history),
        empty=sum(each.empty for each in last.history),
        digest=digest(last.centers),
    )
    state = replace(
        FitState.initial(last.centers, plan.metric, plan.origin),
        counts=last.counts,
        iteration=1,
        began_at=1,
        history=(line,),
        data_name=plan.data_name(summary),
        request=plan.refining.request,
        rows=plan.rows,
        tree=tree,
    )
    with Saver(store, emit) as saver:
        saver.save(state)


@dataclass(frozen=True)
class _Grower:
    """Splits the nodes of one level after the other."""

    plan: FitPlan
    """The plan of the whole fit."""
    pool: Pool
    """Workers that hold the rows."""
    summary: Summary
    """Summary of all rows."""
    store: LeasedStore
    """Place of the model."""
    folder: str
    """Name of the folder for what is done before the tree is whole."""
    emit: ev.Emit
    """Hears of each group of nodes."""

    def grow(self, top: FitState) -> tuple[Tree, FitState]:
        """Split the top level down to the clusters; return the tree, and all clusters as a
        state."""
        levels, parents, last = [top.centers], list[NDArray[np.int32]](), top
        for wanted in self.plan.levels[1:]:
            last, of_level = self._split(levels, parents, wanted)
            kept, own = np.unique(of_level, return_inverse=True)  # without those that have no rows
            levels[-1] = levels[-1][kept]
            if parents:
                parents[-1] = parents[-1][kept]
            levels.append(last.centers)
            parents.append(own.astype(np.int32))
        return Tree(tuple(levels[:-1]), tuple(parents)), last

    def _split(
        self,
        levels: Sequence[NDArray[np.float32]],
        parents: Sequence[NDArray[np.int32]],
        wanted: int,
    ) -> tuple[FitState, NDArray[np.int32]]:
        """Split all nodes of the lowest level into `wanted` children.

        Returns the children as a state, and the number of each one's parent.
        """
        answers = self.pool.remember(ShardWorker.place_in_tree, tuple(levels), tuple(parents))
        sums: NodeSums = reduce(add, answers)
        children = self._quotas(sums, wanted)
        states, split = [], 0
        for group in groups_of(sums.rows.tolist(), children.tolist()):
            interrupt.check()
            nodes = [node for node in group if children[node]]
            if nodes:
                name = f"level-{len(levels)}-{group.start:08}"
                states.append(self._found_or_split(name, len(levels), nodes, children, sums))
            split += len(group)
            self.emit(ev.NodesSplit(len(levels) + 1, split, len(children), _clusters(states)))
        self.pool.forget(ShardWorker.place_in_tree)
        return _joined(states), np.repeat(np.arange(len(children), dtype=np.int32), children)

    def _found_or_split(
        self,
        name: str,
        depth: int,
        nodes: Sequence[int],
        children: NDArray[np.int64],
        sums: NodeSums,
    ) -> FitState:
        """Return the children of a group of nodes, which an earlier run may have saved by this
        name."""
        place = self.store.restart(f"{self.folder}/{name}")
        found = place.latest()
        if found is not None:
            return found
        begin = monotonic()
        made = self._split_group(depth, nodes, children, sums)
        if self.plan.in_danger or monotonic() - begin > WORTH_SAVING_S:
            place.save(made)
        return made

    def _quotas(self, sums: NodeSums, wanted: int) -> NDArray[np.int64]:
        """Return the number of children of each node, (m,)."""
        rows = sums.counting.tolist()
        losses = sums.losses.totals() if self.plan.leaf_quota == "loss" else rows
        bound = most_children(wanted, len(rows))
        most = [min(each, bound) for each in rows]
        # Where nearly every row is to be a cluster, rows are the only bound.
        return quotas(
            wanted, losses if any(losses) else rows, most if sum(most) >= wanted else rows
        )

    def _split_group(
        self, depth: int, nodes: Sequence[int], children: NDArray[np.int64], sums: NodeSums
    ) -> FitState:
        """Split a group of nodes side by side; return the children of all as a state.

        Its history has a line for each node: the last one of its fit.
        """
        sizes = children[nodes].tolist()
        opened = self.pool.remember(ShardWorker.open_nodes, tuple(nodes), tuple(sizes))
        squares: list[Squares] = [reduce(add, each) for each in zip(*opened, strict=True)]
        summaries = [
            replace(self.summary, rows=int(sums.counting[node]), squares=of_node, weights=None)
            for node, of_node in zip(nodes, squares, strict=True)
        ]
        seeds = self._draw(depth, nodes, sizes)
        states = [FitState.initial(each, self.plan.metric) for each in seeds]
        while running := [n for n, state in enumerate(states) if not self._has_ended(state)]:
            interrupt.check()
            seen = self.pool.total(
                ShardWorker.sweep_nodes,
                np.concatenate([states[n].centers for n in running]),
                tuple(nodes[n] for n in running),
                tuple(sizes[n] for n in running),
            )
            assert isinstance(seen, PartialsOfEach)
            for n, partials in zip(running, seen.sets, strict=True):
                states[n] = update(states[n], partials, summaries[n])
        self.pool.forget(ShardWorker.open_nodes)
        ends = [replace(state, history=state.history[-1:], iteration=1) for state in states]
        return _joined(ends)

    def _has_ended(self, state: FitState) -> bool:
        """Return whether the fit of a node is over."""
        return why_stop(state, self.plan.rule) is not None

    def _draw(
        self, depth: int, nodes: Sequence[int], sizes: Sequence[int]
    ) -> list[NDArray[np.float32]]:
        """Draw the first centers of the children of each node among its rows, (q, d) each."""
        key = draws.words(self.plan.random_seed, "children", depth, size=1)[0]
        answers = self.pool.ask(ShardWorker.draw_in_nodes, tuple(nodes), tuple(sizes), key)
        won = [
            weighted_sampling.best_of(of_node, size)[1]
            for of_node, size in zip(zip(*answers, strict=True), sizes, strict=True)
        ]
        numbers = np.concatenate([np.sort(each) for each in won])
        order = np.argsort(numbers)
        rows = np.empty((len(numbers), len(self.summary.grid.exponent)), np.float32)
        rows[order] = self.pool.rows_at(numbers[order])
        return np.split(rows, np.cumsum(sizes)[:-1])


def _joined(states: Sequence[FitState]) -> FitState:
    """Return several states as one, whose clusters and lines stand one after the other."""
    lines = [line for state in states for line in state.history]
    numbered = tuple(replace(line, iteration=n) for n, line in enumerate(lines, start=1))
    centers = np.concatenate([state.centers for state in states])
    counts = np.concatenate([state.counts for state in states])
    return replace(
        states[0], centers=centers, counts=counts, history=numbered, iteration=len(numbered)
    )


def _clusters(states: Sequence[FitState]) -> int:
    """Return the number of clusters of some states."""
    return sum(len(state.centers) for state in states)
