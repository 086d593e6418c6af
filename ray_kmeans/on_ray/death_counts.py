"""Count the deaths in a row of workers and coordinators, to know when to give up."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable

MOST = 3
"""Deaths in a row that are borne of a process that Ray kills for want of memory."""
MOST_LOST = 12
"""Deaths in a row that are borne of any other process: something may go round and kill. Of two
workers that are killed at random, the same one is hit six times in a row within minutes."""
STILL_S = 600.0
"""Seconds that workers or coordinators have to get on, however often they die meanwhile."""


class ShardLosses:
    """Counts deaths of workers by shard, to tell whether the shard itself kills its workers.

    A shard may kill whoever reads it, as when its rows do not fit the memory: then the run must
    end, or it would go on for ever. But workers are also killed from outside (a machine that is
    taken away, a test): then they are replaced, however often.

    - A killer that goes round takes this worker and that one; a shard that kills does so while the
      others live. So what counts against a shard (`_alone`) are the deaths of its workers between
      which no worker of other shards has died.
    - Once a worker has answered for a shard its counts begin at 0: whoever reads it lives.
    - Where all workers die in turn, no count of `_alone` grows. Then the run ends only when nobody
      has answered for long, and the shard has died often, too.
    - Where Ray itself ended the worker for its memory, nothing came from outside: few deaths do.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        """Returns the seconds since some moment."""
        self._deaths: Counter[int] = Counter()
        """Deaths of each shard's workers since one has answered."""
        self._alone: Counter[int] = Counter()
        """The same, but only those since the last death of a worker of other shards."""
        self._answered = clock()
        """When any worker answered last, by the clock."""

    def answer(self, shards: Iterable[int]) -> None:
        """Note that workers have answered for these shards: they kill nobody."""
        self._answered = self._clock()
        for shard in shards:
            self._deaths.pop(shard, None)
            self._alone.pop(shard, None)

    def add(self, lost: Iterable[int]) -> None:
        """Count the death of the worker that held these shards."""
        died = set(lost)
        self._alone = Counter({shard: self._alone[shard] + 1 for shard in died})
        self._deaths.update(died)

    def count(self, shard: int) -> int:
        """Return the number of deaths of a shard's workers since one has answered."""
        return self._deaths[shard]

    def is_hopeless(self, shard: int, by_itself: bool) -> bool:
        """Tell whether another worker would die, too; `by_itself`: this one surely died of its
        rows."""
        if by_itself:
            return self._deaths[shard] > MOST
        if self._alone[shard] > MOST_LOST:
            return True
        return self._deaths[shard] > MOST_LOST and self._clock() - self._answered >= STILL_S


class CoordinatorLosses:
    """Counts the deaths of coordinators since the last progress, which is a new checkpoint.

    A fit in danger saves after every iteration that takes long enough, so a coordinator that lives
    for one iteration makes progress, and the count begins anew.
    """

    def __init__(self, reached: list[str], clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        """Returns the seconds since some moment."""
        self._reached = reached
        """The newest checkpoint, as a list of none or one."""
        self._since = clock()
        """When the last progress was seen, by the clock."""
        self.count = 0
        """Number of deaths since then."""

    def add(self, reached: list[str]) -> None:
        """Count one death, with the newest checkpoint that was there when it happened."""
        if reached != self._reached:
            self._reached, self._since, self.count = reached, self._clock(), 0
        self.count += 1

    def is_hopeless(self, by_itself: bool) -> bool:
        """Tell whether another coordinator would die, too: at once, if the last one died
        `by_itself`, and else after `STILL_S`."""
        waited = self._clock() - self._since
        return self.count > MOST and (by_itself or waited >= STILL_S)
