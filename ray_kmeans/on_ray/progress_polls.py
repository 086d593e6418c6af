"""Ask worker processes that are at work how far they are, to tell the progress of all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ray

from ray_kmeans.engine.progress import Moved
from ray_kmeans.on_ray.calls import Call, method_of
from ray_kmeans.on_ray.ray_errors import LOST
from ray_kmeans.on_ray.worker_actor import KMeansWorker
from ray_kmeans.on_ray.worker_group import POLLS

POLL_S = 1.0
"""Seconds between two polls, if nothing else is given."""


class ProgressPolls:
    """Asks workers again and again how far they are; an answer is used when it comes.

    An answer is never waited for: a worker that hangs must not hold up the progress of the others,
    nor the look-out for it. What is told never goes backwards, also where the work of a call is
    given up and begun again elsewhere.
    """

    def __init__(self, moved: Moved | None, rows: Sequence[int], poll_s: float = POLL_S) -> None:
        self._moved = moved
        self._rows = rows
        """Number of rows of each shard."""
        self._poll_s = poll_s
        """Seconds between two polls."""
        self._polls: dict[Any, Any] = {}
        """Call that each poll is about, by the reference to the poll's answer."""
        self._rows_done: dict[Any, int] = {}
        """Number of rows done, as last heard, by call."""
        self._most = 0
        """Largest number of rows that was told so far."""

    def wait_s(self, patience: float | None) -> float | None:
        """Return for how many seconds to wait for an answer: `patience`, or until the next poll."""
        if self._moved is None:
            return patience
        return self._poll_s if patience is None else min(patience, self._poll_s)

    def tell(self, missing: set[int], pending: Mapping[Any, Call]) -> None:
        """Tell the rows of all shards but the `missing` ones, and of these the last known count.

        Two workers may be at the same shard, where one lags: so what is under way counts for no
        more rows than are missing.
        """
        if self._moved is None:
            return
        left = sum(self._rows[shard] for shard in missing)
        under_way = sum(self._rows_done.get(each, 0) for each in pending)
        self._most = max(self._most, sum(self._rows) - left + min(under_way, left))
        self._moved(self._most)

    def poll(self, pending: Mapping[Any, Call]) -> None:
        """Note the answers that have come, and ask each worker at work that has answered again."""
        come, _ = ray.wait(list(self._polls), num_returns=len(self._polls), timeout=0)
        for answer in come:
            each = self._polls.pop(answer)
            try:
                self._rows_done[each] = ray.get(answer)
            except LOST:
                self._rows_done.pop(each, None)
        for each in set(pending) - set(self._polls.values()):
            rows_done = method_of(pending[each].worker, KMeansWorker.rows_done)
            self._polls[rows_done.options(concurrency_group=POLLS).remote()] = each
