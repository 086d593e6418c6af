"""Calls that do not depend on each other, as Ray tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from ray_kmeans.cluster.crew import first_line
from ray_kmeans.errors import WorkersLostError


def outcomes(
    call: Callable[..., Any], arguments: Iterable[tuple[Any, ...]], at_once: int
) -> Iterator[Any]:
    """Make a call with each of these arguments on one CPU of any node; yield results as they come.

    At most so many run or wait at once. Ray makes the calls of a node that is lost on another one;
    the first exception ends them all.
    """
    task: Any = ray.remote(num_cpus=1)(call)
    waiting = iter(arguments)
    running: list[Any] = []
    try:
        while running := running + [
            task.remote(*a) for a in islice(waiting, at_once - len(running))
        ]:
            done, running = ray.wait(running)
            yield from ray.get(done)
    except RayTaskError as error:
        raise error.cause from None
    except RayError as error:
        raise WorkersLostError(f"a task was lost for good: {first_line(error)}") from error
    finally:
        for each in running:
            ray.cancel(each, force=True)
