"""Looks at hosts that are at work, to tell how far all of them are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ray

from ray_kmeans.engine.progress import Moved
from ray_kmeans.on_ray.calls import Call, method_of
from ray_kmeans.on_ray.worker_actor import KMeansWorker
from ray_kmeans.on_ray.worker_group import LOOKS, LOST

LOOK_S = 1.0
"""Between two looks."""


class Looks:
    """Hosts are asked again and again; what they answer is told when it comes, never waited for."""

    def __init__(self, moved: Moved | None, rows: Sequence[int]) -> None:
        self._moved = moved
        self._rows = rows
        """Of each shard."""
        self._asked: dict[Any, Any] = {}
        self._found: dict[Any, int] = {}
        self._most = 0

    def within(self, patience: float | None) -> float | None:
        """Return for how long to wait for an answer before the next look, in seconds."""
        if self._moved is None:
            return patience
        return LOOK_S if patience is None else min(patience, LOOK_S)

    def tell(self, missing: set[int], pending: Mapping[Any, Call]) -> None:
        """Tell of all shards but those that are missing, and what is known of these."""
        if self._moved is None:
            return
        left = sum(self._rows[shard] for shard in missing)
        under_way = sum(self._found.get(each, 0) for each in pending)
        self._most = max(self._most, sum(self._rows) - left + min(under_way, left))
        self._moved(self._most)

    def look(self, pending: Mapping[Any, Call]) -> None:
        """Take note of what has been answered, and ask again."""
        come, _ = ray.wait(list(self._asked), num_returns=len(self._asked), timeout=0)
        for look in come:
            each = self._asked.pop(look)
            try:
                self._found[each] = ray.get(look)
            except LOST:
                self._found.pop(each, None)
        for each in set(pending) - set(self._asked.values()):
            rows_done = method_of(pending[each].host, KMeansWorker.rows_done).options(
                concurrency_group=LOOKS
            )
            self._asked[rows_done.remote()] = each
