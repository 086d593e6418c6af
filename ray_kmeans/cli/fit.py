"""The command `fit`."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from ray_kmeans.cli.flags import (
    Configured,
    WeighedRows,
    announce,
    join,
    run_config,
)
from ray_kmeans.config import RunOptions
from ray_kmeans.data.model_rows import said_of
from ray_kmeans.estimator import KMeansClustering
from ray_kmeans.observe.events import EndedBefore
from ray_kmeans.observe.table import fit_table
from ray_kmeans.process import interrupt
from ray_kmeans.store.model_dir import ModelDir
from ray_kmeans.text import secrets
from ray_kmeans.text.one_line import in_one_line
from ray_kmeans.workflows.evaluate import after_mini_batch
from ray_kmeans.workflows.explain import explain
from ray_kmeans.workflows.fit import BATCH_SIZE
from ray_kmeans.workflows.import_centers import initial_clusters_of


@dataclass(frozen=True)
class Fit(WeighedRows, Configured):
    """Cluster the rows of a data set; run it again with the same MODEL_DIR and it continues."""

    uri: Positional[Annotated[str, arg(metavar="URI")]]
    """File, directory or glob of Parquet, Arrow, .npy, ... (README); a path or any fsspec URL."""
    model_dir: Positional[Annotated[str, arg(metavar="MODEL_DIR")]]
    """Directory or fsspec URL for the model and its checkpoints."""
    num_clusters: int
    """Number of clusters."""
    initial_clusters: str = "random"
    """How the initial centers are chosen among the rows: random, kmeans_plus_plus, kmc2 or
    kmeans_parallel; or a file that holds them, as import-centers takes it."""
    distance_metric: Literal["squared_euclidean", "cosine"] = "squared_euclidean"
    """'cosine' is spherical k-means."""
    random_seed: int = 0
    """Seed of the initial centers and the mini-batches."""
    use_mini_batch: bool = True
    """A step visits BATCH_SIZE rows; --no-use-mini-batch: all rows (Lloyd's algorithm)."""
    mini_batch_steps_per_iteration: int = 1
    """Mini-batch: steps with the same centers, after which they are updated."""
    batch_size: int | None = None
    """Mini-batch: rows of a step. None: 65,536, at most all."""
    kmeans_plus_plus_num_retries: int = 2
    """Further candidates for each center of k-means++; negative: 2 + ln(NUM_CLUSTERS)."""
    empty_clusters: Literal["keep", "farthest"] = "keep"
    """All rows: 'farthest' moves an empty cluster's center to the row farthest from its own."""
    center: bool = False
    """Subtract the middle of each column, in float64, before values become float32: for those that
    differ by little beside their distance from zero, as time stamps do. The model keeps it."""
    max_steps: int | None = None
    """Steps over all runs at most. None: until the centers or the loss settle."""
    relative_tolerance: float | None = None
    """Stop when the loss changes by less than this share from one iteration to the next."""
    storage_options: str = "{}"
    """JSON for fsspec, for the data and for MODEL_DIR."""
    explain: bool = False
    """Print what the fit would read, hold and send, from metadata alone, and run nothing."""
    run: RunOptions = field(default_factory=RunOptions)


def run(flags: Fit) -> None:
    """Fit, and print how that went."""
    config = run_config(flags.run, flags.storage_options)
    km = KMeansClustering(**_shared(flags), config=config)
    km.set_params(
        initial_clusters=initial_clusters_of(flags.initial_clusters, config.storage_options)
    )
    found = ModelDir.of(flags.model_dir, config).latest()
    source = flags.open(flags.uri, config, found, flags.sample_weight, flags.center)
    if flags.explain:
        drawn = (flags.batch_size or BATCH_SIZE) if flags.use_mini_batch else None
        features = said_of(source)
        print(explain(source.describe(), flags.num_clusters, config, drawn, features=features))
        return
    announce("fit", flags.uri, flags.model_dir, config, rows=source)
    join(config)
    before = km.checkpoints()[-1:]
    with interrupt.listening():
        km.fit(source, batch_size=flags.batch_size, max_steps=flags.max_steps)
    if before and km.checkpoints()[-1:] == before:
        print(EndedBefore(km.why_stopped(), len(km.history())))
    drawn = flags.use_mini_batch
    sizes = None if drawn else km.counts()  # mini-batch counts rows of many steps
    print(fit_table(km.history(), km.why_stopped(), sizes, mini_batch=drawn))
    if drawn:
        print(after_mini_batch(source, ModelDir.of(flags.model_dir, config).fitted(), config))
    model_dir = in_one_line(secrets.shown(flags.model_dir))
    print(f"\nmodel: {model_dir}\nnext: label rows with `predict`, or read the centers with")
    print(f"  ray_kmeans.load_model({model_dir!r}).clusters()")


def _shared(flags: Fit) -> dict[str, Any]:
    """Return the flags that are parameters of the estimator."""
    names = set(inspect.signature(KMeansClustering).parameters) - {"config"}
    return {name: value for name, value in vars(flags).items() if name in names}
