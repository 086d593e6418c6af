"""Typed calls of actors, and records of the calls under way: which worker, for which shards.

An actor's method is named by the function of its class, as in ``call(worker, KMeansWorker.hello)``:
so its callers can be found, and mypy checks the arguments. Only here does it become a name.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeAlias, TypeVar

from ray import ObjectRef
from ray.actor import ActorHandle

A = TypeVar("A")
P = ParamSpec("P")
R = TypeVar("R")

Group: TypeAlias = tuple[int, ...]
"""Ascending numbers of the shards that one worker process answers for in one call."""
Submit: TypeAlias = Callable[[Any, Group], Any]
"""Submits a call for some shards of a worker process; returns a reference to its answer, or several
where the answer comes in parts."""


class Call(NamedTuple):
    """A call that is under way."""

    worker: Any
    """Handle of the worker process that was asked."""
    group: Group
    """Shards that it was asked for."""
    parts: list[Any]
    """References to the parts of its answer, where these are not fetched here; else empty."""


def call(
    actor: ActorHandle[A],
    method: Callable[Concatenate[A, P], R],
    *args: P.args,
    **kwargs: P.kwargs,
) -> ObjectRef[R]:
    """Submit a call of an actor's method; return a reference to its answer.

    Any argument may be an ObjectRef of the value instead, which is typed as Any.
    """
    found: ObjectRef[R] = method_of(actor, method).remote(*args, **kwargs)
    return found


def method_of(actor: ActorHandle[A], method: Callable[Concatenate[A, P], R]) -> Any:
    """Return Ray's handle of an actor's method, for a call with options of its own."""
    return getattr(actor, method.__name__)


def submit_all(submit: Submit, homes: Mapping[int, Any]) -> dict[Any, Call]:
    """Submit one call to each worker that holds some of these shards.

    `homes` are the workers by shard. Returns each call by the reference to wait for.
    """
    calls = {}
    for worker, group in group_by_worker(homes):
        references = submit(worker, group)
        first, *parts = references if isinstance(references, list) else [references]
        calls[first] = Call(worker, group, parts)
    return calls


def group_by_worker(homes: Mapping[int, Any]) -> Iterator[tuple[Any, Group]]:
    """Yield each worker with the ascending shards that it holds."""
    for worker in dict.fromkeys(homes.values()):
        yield worker, tuple(sorted(shard for shard, home in homes.items() if home is worker))


@dataclass(frozen=True)
class LagRule:
    """The rule by which a worker lags behind the others."""

    factor: float = 3.0
    """Smallest ratio of the time of a worker that lags to the median time of the others."""
    least_s: float = 10.0
    """Smallest time of a worker that lags, in seconds, however quick the others are."""

    def seconds_left(self, began: float, taken: Sequence[float]) -> float | None:
        """Return the seconds from now on after which workers without an answer lag.

        `began` is when all were asked, by time.monotonic; `taken` are the seconds of those that
        have answered. None while nobody has: then nothing tells how long it should take.
        """
        if not taken:
            return None
        median = sorted(taken)[len(taken) // 2]
        return max(max(self.factor * median, self.least_s) - (time.monotonic() - began), 0.0)
