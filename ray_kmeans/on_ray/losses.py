"""How often in a row something dies, and when that is hopeless."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable

MOST = 3
"""Deaths in a row of what Ray itself kills for want of memory."""
MOST_LOST = 12
"""Deaths in a row of anything else: something may go round and kill. Of two workers that are killed
at random, the same one is hit six times in a row within minutes."""
STILL_S = 600.0
"""However often workers or a coordinator die, they have so long to get on."""


class ShardLosses:
    """Deaths of workers, by shard. A shard that kills whoever reads it must end the run.

    A killer that goes round kills this worker and that one; a shard that kills does so while the
    others live. So what counts for a shard are its worker's deaths between which no other worker
    died. Many deaths of all workers end the run only where nobody answers for long.
    """

    def __init__(self) -> None:
        self._deaths: Counter[int] = Counter()
        self._alone: Counter[int] = Counter()
        self._answered = time.monotonic()

    def answer(self, shards: Iterable[int]) -> None:
        """Note that workers have answered for these shards: they kill nobody."""
        self._answered = time.monotonic()
        for shard in shards:
            self._deaths.pop(shard, None)
            self._alone.pop(shard, None)

    def add(self, lost: Iterable[int]) -> None:
        """Count the death of the worker that held these shards."""
        died = set(lost)
        self._alone = Counter({shard: self._alone[shard] + 1 for shard in died})
        self._deaths.update(died)

    def count(self, shard: int) -> int:
        """Return the deaths of a shard's worker since it answered last."""
        return self._deaths[shard]

    def is_hopeless(self, shard: int, by_itself: bool) -> bool:
        """Tell whether another worker would die too; `by_itself`: of its own want of memory."""
        if by_itself:
            return self._deaths[shard] > MOST
        if self._alone[shard] > MOST_LOST:
            return True
        return self._deaths[shard] > MOST_LOST and time.monotonic() - self._answered >= STILL_S


class CoordinatorLosses:
    """Deaths of coordinators since the last progress, which is a checkpoint."""

    def __init__(self, reached: list[str]) -> None:
        self._reached = reached
        self._since = time.monotonic()
        self.count = 0

    def add(self, reached: list[str]) -> None:
        """Count one more, with the newest checkpoint that was there when it died."""
        if reached != self._reached:
            self._reached, self._since, self.count = reached, time.monotonic(), 0
        self.count += 1

    def is_hopeless(self, by_itself: bool) -> bool:
        """Tell whether another one would die, too; one that dies `by_itself` has no more time."""
        waited = time.monotonic() - self._since
        return self.count > MOST and (by_itself or waited >= STILL_S)
