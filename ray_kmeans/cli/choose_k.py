"""The command `choose-k`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from tyro.conf import Positional, arg

from ray_kmeans.choosing import choose_k
from ray_kmeans.cli import exit_codes
from ray_kmeans.cli.flags import Configured, WeighedRows, announce, join_ray, run_config
from ray_kmeans.config import DistanceMetric, InitialMethod, RunOptions
from ray_kmeans.process import interrupt


@dataclass(frozen=True)
class ChooseK(WeighedRows, Configured):
    """Fit for several numbers of clusters over one reading, and recommend one."""

    uri: Positional[Annotated[str, arg(metavar="URI")]]
    """File, directory or glob of Parquet, Arrow, .npy, CSV, ...; a path or any fsspec URL."""
    model_dir: Positional[Annotated[str, arg(metavar="MODEL_DIR")]]
    """Directory or fsspec URL for the models: each goes to MODEL_DIR/k=NUMBER."""
    ks: tuple[int, ...]
    """The numbers of clusters to compare."""
    initial_clusters: InitialMethod = "kmeans_parallel"
    """How the initial centers are chosen among the rows."""
    distance_metric: DistanceMetric = "squared_euclidean"
    """'cosine' is spherical k-means."""
    random_seed: int = 0
    """Seed of the initial centers and the mini-batches."""
    use_mini_batch: bool = False
    """A step visits BATCH_SIZE rows, and not all."""
    batch_size: int | None = None
    """Rows of a step of mini-batch. None: 65,536, at most all."""
    relative_tolerance: float | None = 1e-4
    """Relative change of the loss from one iteration to the next below which a fit ends."""
    max_steps: int | None = None
    """Largest number of steps of each fit. None: until the centers or the loss settle."""
    n_init: int = 1
    """Restarts of each fit; the best one stays."""
    report: str | None = None
    """Path or fsspec URL of an HTML page with the figures drawn over the number of clusters."""
    storage_options: str = "{}"
    """JSON for fsspec, for the data, MODEL_DIR and REPORT."""
    run: RunOptions = field(default_factory=RunOptions)


def run(flags: ChooseK) -> None:
    """Fit, and print the figures and the recommended number."""
    config = run_config(flags.run, flags.storage_options)
    source = flags.open(flags.uri, config, None, flags.sample_weight)
    announce("choose-k", flags.uri, flags.model_dir, config, rows=source)
    join_ray(config)
    with interrupt.listening():
        choice = choose_k(
            source,
            flags.ks,
            flags.model_dir,
            config=config,
            distance_metric=flags.distance_metric,
            initial_clusters=flags.initial_clusters,
            random_seed=flags.random_seed,
            use_mini_batch=flags.use_mini_batch,
            batch_size=flags.batch_size,
            relative_tolerance=flags.relative_tolerance,
            max_steps=flags.max_steps,
            n_init=flags.n_init,
        )
    print(choice.table())
    print(f"recommended: {choice.reason}")
    if flags.report is not None:
        choice.report(flags.report)
        exit_codes.print_result("report", flags.report)
    exit_codes.print_model(choice.model().model_dir)
