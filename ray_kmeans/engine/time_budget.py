"""The time that a fit may take: it ends with the last whole iteration that has room in it."""

from __future__ import annotations

from time import monotonic

from ray_kmeans.algorithm.state import FitState, Stop


class TimeBudget:
    """Tells when a fit has to end because its time is over.

    An iteration is never cut off, and none begins that would end too late if it took as long as the
    one before. The first one is always made: so a fit that is repeated with any budget comes to its
    end at last. What a fit computes does not depend on the budget, only how far it comes.
    """

    def __init__(self, seconds: float | None) -> None:
        """Begin to count; `seconds` None: there is no limit."""
        self._seconds = seconds
        self._began = monotonic()
        self._iteration_began: float | None = None

    def why_stop(self, state: FitState) -> Stop | None:
        """Return the reason to stop before the next step, or None. To be asked before each step."""
        is_within = state.accumulators is not None and state.accumulators.done > 0
        if self._seconds is None or is_within:
            return None
        now, before = monotonic(), self._iteration_began
        self._iteration_began = now
        if before is None:
            return None
        return Stop.SECONDS if (now - self._began) + (now - before) > self._seconds else None
