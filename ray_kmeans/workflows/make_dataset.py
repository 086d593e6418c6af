"""A synthetic data set in files, made by Ray tasks or in this process."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import asdict
from typing import TypeAlias

import numpy as np

from ray_kmeans.config import RunConfig
from ray_kmeans.data.synthetic import Mixture
from ray_kmeans.errors import ConfigError
from ray_kmeans.io.publish import absolute
from ray_kmeans.observe import events as ev
from ray_kmeans.observe.log import LogLines, tell_all
from ray_kmeans.observe.progress import Progress
from ray_kmeans.store.dataset_dir import DatasetDir
from ray_kmeans.workflows.plan import check_reachable

FORMATS = ("parquet", "npy")

Call: TypeAlias = tuple[DatasetDir, Mixture, str, int, int]


def make(
    mixture: Mixture, url: str, file_format: str, rows_per_file: int, config: RunConfig
) -> int:
    """Write the rows of a mixture to files of so many rows each; return how many files there are.

    What was cut off is continued: files that are there stay, each was written in one step. The bits
    are the same for any number of tasks.
    """
    if file_format not in FORMATS:
        raise ConfigError(f"format={file_format!r} is unknown. Give one of {FORMATS}.")
    if rows_per_file < 1:
        raise ConfigError(f"rows_per_file={rows_per_file} must be at least 1.")
    place = DatasetDir(absolute(url), config.storage_options)
    check_reachable(config, {f"the output {place.shown!r}": place})
    about = {"numpy": np.__version__, "format": file_format, "rows_per_file": rows_per_file}
    there = place.start({**asdict(mixture), **about})
    starts = range(0, mixture.num_rows, rows_per_file)
    calls: list[Call] = [
        (place, mixture, name, start, min(start + rows_per_file, mixture.num_rows))
        for number, start in enumerate(starts)
        if (name := f"part-{number:08d}.{file_format}") not in there
    ]
    with closing(Progress(config.progress)) as progress:
        emit = tell_all([LogLines(), progress])
        emit(ev.PhaseBegan(ev.Phase.WRITING, sum(c[4] - c[3] for c in calls), "rows"))
        done = 0
        for rows in _made(calls, config):
            done += rows
            emit(ev.PhaseMoved(ev.Phase.WRITING, done))
    return len(starts)


def _made(calls: Iterable[Call], config: RunConfig) -> Iterator[int]:
    if config.num_workers == 0:
        yield from (write_file(*call) for call in calls)
    else:
        from ray_kmeans.on_ray import capacity, driver, tasks  # ray is not imported where not used

        driver.connect(config.ray_address, config.num_workers, None)
        capacity.check(1, 1)
        yield from tasks.outcomes(write_file, calls, config.num_workers)


def write_file(place: DatasetDir, mixture: Mixture, name: str, start: int, stop: int) -> int:
    """Make and publish one file; return its rows."""
    place.write(name, start, *mixture.rows(start, stop))
    return stop - start
