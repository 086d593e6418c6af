"""The command `make-dataset`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional, arg

from ray_kmeans.cli import exit_codes
from ray_kmeans.cli.flags import (
    Configured,
    announce,
    join_ray,
    run_config,
)
from ray_kmeans.config import DatasetFormat, MachineOptions
from ray_kmeans.workflows.make_dataset import check_files, make, mixture_of


@dataclass(frozen=True)
class MakeDataset(Configured):
    """Make rows that lie around some centers, to try a cluster out; run it again to continue."""

    output: Positional[Annotated[str, arg(metavar="OUTPUT")]]
    """Directory or fsspec URL for the files; it must be empty, or hold a part of the same data."""
    num_rows: int
    """Number of rows."""
    num_features: int
    """Number of values of a row."""
    num_clusters: int
    """Number of centers around which the rows lie; each is drawn from a normal distribution
    (variance 1 per value)."""
    spread: float = 0.5
    """Standard deviation of each value of a row from that of its center."""
    random_seed: int = 0
    """Seed of centers and rows: the same seed gives the same rows."""
    unit_norm: bool = False
    """Whether each row is scaled to norm 1."""
    format: DatasetFormat = "parquet"
    """'parquet': the columns id, vector, label. 'npy': vectors, and labels below _labels/."""
    rows_per_file: int = 65_536
    """Rows of a file; a task has one file at a time in its memory."""
    storage_options: str = "{}"
    """JSON for fsspec."""
    num_workers: int | None = None
    """Number of tasks of one CPU at a time. None: as many as the Ray cluster has CPUs. 0: none, in
    this process and without Ray."""
    ray_address: str | None = None
    """Address of a running Ray cluster. None: RAY_ADDRESS where it is set (as in `ray job submit`),
    else a Ray on this machine that ends with this process."""


def run(flags: MakeDataset) -> None:
    """Write the files, and print how many rows there are."""
    options = MachineOptions(num_workers=flags.num_workers, ray_address=flags.ray_address)
    config = run_config(options, flags.storage_options)
    workers = f"{flags.num_workers or 'all'} tasks at a time"
    announce("make-dataset", f"{flags.num_rows:,} rows", flags.output, config, workers)
    mixture = mixture_of(
        num_rows=flags.num_rows,
        num_features=flags.num_features,
        num_clusters=flags.num_clusters,
        spread=flags.spread,
        random_seed=flags.random_seed,
        unit_norm=flags.unit_norm,
    )
    check_files(flags.format, flags.rows_per_file)
    join_ray(config)
    files = make(mixture, flags.output, flags.format, flags.rows_per_file, config)
    result = f"{flags.num_rows:,} rows in {files:,} file{'s'[: files != 1]}"
    exit_codes.print_result(result, flags.output)
