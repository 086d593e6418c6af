"""What hosts are asked, for which shards, and how long that may take."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeAlias, TypeVar

from ray import ObjectRef
from ray.actor import ActorHandle

A = TypeVar("A")
P = ParamSpec("P")
R = TypeVar("R")

LAG = 3.0
LEAST_LAG_S = 10.0
"""A worker lags when it takes so many times as long as half of them took, and so long at least."""

Group: TypeAlias = tuple[int, ...]
"""Shards that one host answers for in one call."""
Submit: TypeAlias = Callable[[Any, Group], Any]


class Call(NamedTuple):
    """What a host was asked."""

    host: Any
    group: Group
    parts: list[Any]
    """References to its answer, where that is not fetched."""


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


def submitted(submit: Submit, homes: Mapping[int, Any]) -> dict[Any, Call]:
    """Ask the hosts of these shards; return the calls by what is waited for."""
    calls = {}
    for host, group in by_host(homes):
        asked = submit(host, group)
        first, *parts = asked if isinstance(asked, list) else [asked]
        calls[first] = Call(host, group, parts)
    return calls


def by_host(homes: Mapping[int, Any]) -> Iterator[tuple[Any, Group]]:
    """Yield each host with its shards."""
    for host in dict.fromkeys(homes.values()):
        yield host, tuple(sorted(shard for shard, home in homes.items() if home is host))


def until_lag(began: float, taken: Sequence[float]) -> float | None:
    """Return the seconds until the hosts that have not answered lag; None: they may take time."""
    if not taken:
        return None
    usual = sorted(taken)[len(taken) // 2]
    return max(max(LAG * usual, LEAST_LAG_S) - (time.monotonic() - began), 0.0)
