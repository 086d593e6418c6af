"""Make independent calls as Ray tasks, on any node."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from ray_kmeans.errors import WorkersLostError
from ray_kmeans.on_ray.death_counts import MOST_LOST
from ray_kmeans.on_ray.ray_errors import first_line


def outcomes(
    call: Callable[..., Any], arguments: Iterable[tuple[Any, ...]], at_once: int | None
) -> Iterator[Any]:
    """Make a call with each of these arguments on one CPU of any node; yield results as they come.

    `at_once` calls run or wait at the same time; None: two for each CPU of the Ray cluster, counted
    anew each time, so that a cluster that can grow is asked to. Ray makes a call again whose
    process or node is lost.

    After an exception no more calls are made, and those that Ray knows end by themselves. They are
    not cancelled: ray.cancel of a task that is about to run may crash this process (measured in Ray
    2.60: "Tried to complete task that was not pending").
    """
    task: Any = ray.remote(num_cpus=1, max_retries=MOST_LOST)(call)
    waiting = iter(arguments)
    running: list[Any] = []
    try:
        while True:
            room = max(0, (at_once or _twice_the_cpus()) - len(running))
            running += [task.remote(*each) for each in islice(waiting, room)]
            if not running:
                return
            done, running = ray.wait(running)
            yield from ray.get(done)
    except RayTaskError as error:
        raise error.cause from None
    except RayError as error:
        raise WorkersLostError(f"a task was lost for good: {first_line(error)}") from error


def _twice_the_cpus() -> int:
    """Return twice the number of CPUs that the Ray cluster has now."""
    there: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return 2 * max(1, int(there.get("CPU", 0)))
