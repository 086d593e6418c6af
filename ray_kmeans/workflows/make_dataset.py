"""Make a synthetic data set in files, by Ray tasks or in this process."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import asdict
from typing import Any, NamedTuple, get_args

import numpy as np

from ray_kmeans.config import DatasetFormat, RunConfig, check_choice
from ray_kmeans.data.synthetic import Mixture
from ray_kmeans.io.publish import absolute
from ray_kmeans.observe import events as ev
from ray_kmeans.observe.log import LogLines, tell_all
from ray_kmeans.observe.progress import Progress
from ray_kmeans.store.dataset_dir import DatasetDir
from ray_kmeans.workflows.validation import check_count
from ray_kmeans.workflows.worker_plan import check_reachable


class FileTask(NamedTuple):
    """One file that is to be written: the arguments of `write_file`."""

    place: DatasetDir
    """Where the file goes."""
    mixture: Mixture
    """What makes its rows."""
    name: str
    """The file's name."""
    start: int
    """Number of its first row in the data set."""
    stop: int
    """Number of the row after its last one."""


def make_dataset(
    output: str,
    num_rows: int,
    num_features: int,
    num_clusters: int,
    *,
    spread: float = 0.5,
    random_seed: int = 0,
    unit_norm: bool = False,
    format: DatasetFormat = "parquet",
    rows_per_file: int = 65_536,
    config: RunConfig | None = None,
) -> int:
    """Write rows that lie around random centers to files, to try a Ray cluster out.

    The same call again writes the files that are missing. The bits are the same for any number of
    workers and any length of files.

    Parameters
    ----------
    output : str
        Directory or fsspec URL for the files; it must be empty, or hold a part of the same data.
    num_rows : int, >= 1
        Number of rows.
    num_features : int, >= 1
        Number of values of a row.
    num_clusters : int, >= 1
        Number of centers, which are drawn from a normal distribution with variance 1 per value.
    spread : float, >= 0, default=0.5
        Standard deviation of each value of a row from that of its center.
    random_seed : int, default=0
        Seed of centers and rows.
    unit_norm : bool, default=False
        Whether each row is scaled to norm 1.
    format : {'parquet', 'npy'}, default='parquet'
        'parquet': files with the columns id, vector and label. 'npy': vectors, and labels below
        ``_labels/``.
    rows_per_file : int, >= 1, default=65536
        Rows of a file; a task has one file at a time in its memory.
    config : RunConfig, default=None
        `num_workers` is the number of tasks of one CPU at a time (None: as many as the Ray cluster
        has CPUs; 0: none, in this process); `ray_address`, `progress` and `storage_options` count
        too. None: all defaults.

    Returns
    -------
    int
        Number of files of the whole data set.

    Raises
    ------
    ConfigError
        If an argument cannot be used.
    StoreError
        If something else is at `output`, or it cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> here = RunConfig(num_workers=0, progress=False)
    >>> with tempfile.TemporaryDirectory() as output:
    ...     make_dataset(output, 1000, 8, 3, rows_per_file=400, config=here)
    3
    """
    mixture = mixture_of(
        num_rows=num_rows,
        num_features=num_features,
        num_clusters=num_clusters,
        spread=spread,
        random_seed=random_seed,
        unit_norm=unit_norm,
    )
    return make(mixture, output, format, rows_per_file, config or RunConfig())


def mixture_of(*, num_rows: int, num_features: int, num_clusters: int, **how: Any) -> Mixture:
    """Return the mixture of these sizes; ConfigError for sizes that are no counts."""
    sizes: dict[str, Any] = {
        "num_rows": num_rows,
        "num_features": num_features,
        "num_clusters": num_clusters,
    }
    for name, value in sizes.items():
        check_count(name, value)
    return Mixture(**sizes, **how)


def check_files(file_format: DatasetFormat, rows_per_file: int) -> None:
    """Raise ConfigError for files that cannot be made."""
    check_choice("format", file_format, get_args(DatasetFormat))
    check_count("rows_per_file", rows_per_file)


def make(
    mixture: Mixture, url: str, file_format: DatasetFormat, rows_per_file: int, config: RunConfig
) -> int:
    """Write the rows of a mixture to files of `rows_per_file` rows; return the number of files.

    A run that was cut off is continued: files that are there stay, as each was written in one step.
    """
    check_files(file_format, rows_per_file)
    place = DatasetDir(absolute(url), config.storage_options)
    check_reachable(config, {f"the output {place.shown!r}": place})
    about = {"numpy": np.__version__, "format": file_format, "rows_per_file": rows_per_file}
    there = place.start({**asdict(mixture), **about})
    starts = range(0, mixture.num_rows, rows_per_file)
    tasks = [
        FileTask(place, mixture, name, start, min(start + rows_per_file, mixture.num_rows))
        for number, start in enumerate(starts)
        if (name := f"part-{number:08d}.{file_format}") not in there
    ]
    with closing(Progress(config.progress)) as progress:
        emit = tell_all([LogLines(), progress])
        emit(ev.PhaseBegan(ev.Phase.WRITING, sum(task.stop - task.start for task in tasks), "rows"))
        done = 0
        for rows in _write_all(tasks, config):
            done += rows
            emit(ev.PhaseMoved(ev.Phase.WRITING, done))
    return len(starts)


def _write_all(files: Iterable[FileTask], config: RunConfig) -> Iterator[int]:
    """Write all files; yield the rows of each one as it is done."""
    if config.num_workers == 0:
        yield from (write_file(*file) for file in files)
    else:
        from ray_kmeans.on_ray import capacity, ray_cluster, tasks  # ray: 0.3 s

        ray_cluster.connect(config.ray_address, config.num_workers, None)
        capacity.check(1, 1)
        yield from tasks.outcomes(write_file, files, config.num_workers)


def write_file(place: DatasetDir, mixture: Mixture, name: str, start: int, stop: int) -> int:
    """Make and publish one file; return the number of its rows."""
    place.write(name, start, *mixture.rows(start, stop))
    return stop - start
