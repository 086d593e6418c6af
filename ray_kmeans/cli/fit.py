"""The command `fit`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

from tyro.conf import Positional, arg

from ray_kmeans.cli import exit_codes
from ray_kmeans.cli.flags import (
    Configured,
    WeighedRows,
    announce,
    join_ray,
    run_config,
)
from ray_kmeans.config import (
    DistanceMetric,
    EmptyClusters,
    LeafQuota,
    Preset,
    RunConfig,
    RunOptions,
)
from ray_kmeans.data.source import Source
from ray_kmeans.errors import ConfigError
from ray_kmeans.estimator import KMeansClustering
from ray_kmeans.observe.events import EndedBefore
from ray_kmeans.observe.fit_table import fit_table
from ray_kmeans.process import interrupt
from ray_kmeans.store.model_dir import ModelDir
from ray_kmeans.workflows.evaluate import after_mini_batch
from ray_kmeans.workflows.import_centers import initial_clusters_of
from ray_kmeans.workflows.label import LabelCounts
from ray_kmeans.workflows.presets import advice_of


@dataclass(frozen=True)
class Fit(WeighedRows, Configured):
    """Cluster the rows of a data set; run it again with the same MODEL_DIR and it continues."""

    uri: Positional[Annotated[str, arg(metavar="URI")]]
    """File, directory or glob of Parquet, Arrow, .npy, CSV, ...; a path or any fsspec URL."""
    model_dir: Positional[Annotated[str, arg(metavar="MODEL_DIR")]]
    """Directory or fsspec URL for the model and its checkpoints."""
    num_clusters: int
    """Number of clusters."""
    preset: Preset | None = None
    """Settings by one word. 'best': k-means||, full batch, a relative tolerance of 1e-4 and four
    restarts; flags
    that are given beside it win, also those of a --config file. None: TensorFlow's defaults."""
    initial_clusters: str = "random"
    """How the initial centers are chosen among the rows: random, kmeans_plus_plus, kmc2 or
    kmeans_parallel; or a file that holds them, as import-centers takes it."""
    distance_metric: DistanceMetric = "squared_euclidean"
    """'cosine' is spherical k-means."""
    random_seed: int = 0
    """Seed of the initial centers and the mini-batches."""
    use_mini_batch: bool = True
    """A step visits BATCH_SIZE rows; --no-use-mini-batch: all rows (Lloyd's algorithm)."""
    mini_batch_steps_per_iteration: int = 1
    """Steps of mini-batch with the same centers, after which they are updated."""
    batch_size: int | None = None
    """Rows of a step of mini-batch. None: 65,536, at most all."""
    kmeans_plus_plus_num_retries: int = 2
    """Further candidates for each center of k-means++; negative: 2 + ln(NUM_CLUSTERS)."""
    empty_clusters: EmptyClusters = "keep"
    """What becomes of an empty cluster's center where a step visits all rows: 'farthest' moves it
    to the row farthest from its own center, 'split_largest' to a row of the largest cluster."""
    n_init: int = 1
    """Number of fits from the seeds RANDOM_SEED, + 1, ... over one reading; the best one stays."""
    levels: tuple[int, ...] | None = None
    """Levels of a tree, for many clusters. '2': two levels; '100 1000': 100 clusters at the top, of
    about 1,000 clusters each. Needs --no-use-mini-batch."""
    refine_steps: int = 0
    """Steps over all clusters once the tree is there."""
    leaf_quota: LeafQuota = "loss"
    """What the number of children of a node of the tree follows."""
    train_rows: int | float | None = None
    """Number of rows that the fit visits, or their share between 0 and 1, chosen by the hash of
    their numbers and RANDOM_SEED. None: all. --label labels all rows."""
    renumber_like: str | None = None
    """Directory or URL of a model whose numbers the clusters get at the end of the fit."""
    reassignment_ratio: float = 0.0
    """Share of the largest count of mini-batch below which a cluster's center moves to a row of the
    newest mini-batch; scikit-learn's MiniBatchKMeans has 0.01. 0: none moves."""
    nested_batches: bool = False
    """Whether mini-batches are samples that grow until they are all rows, each step an iteration of
    Lloyd over the sample (Newling and Fleuret 2016)."""
    center: bool = False
    """Whether the middle of each column is subtracted, in float64, before values become float32:
    for values that differ by little beside their distance from zero, as time stamps do. The model
    keeps it."""
    max_steps: int | None = None
    """Largest number of steps over all runs. None: until the centers or the loss settle."""
    max_seconds: float | None = None
    """Seconds that this run may take, from its first row on; run it again and it goes on."""
    relative_tolerance: float | None = None
    """Relative change of the loss from one iteration to the next below which the fit ends."""
    label: str | None = None
    """Directory or fsspec URL for the labelled rows: when the fit ends, the workers write the
    cluster of every row there, as predict does, without reading the data again."""
    keep_columns: tuple[str, ...] = ()
    """Columns of the data to pass through to the labelled rows; needs --label."""
    nearest: int | None = None
    """Number of nearest clusters to list for every labelled row, as predict does; needs --label."""
    storage_options: str = "{}"
    """JSON for fsspec, for the data, MODEL_DIR and the labelled rows."""
    explain: bool = False
    """Print what the fit would read, hold and send, from metadata alone, and run nothing."""
    run: RunOptions = field(default_factory=RunOptions)


def run(flags: Fit) -> None:
    """Fit, and print how that went."""
    if flags.keep_columns and flags.label is None:
        raise ConfigError(
            f"keep_columns={list(flags.keep_columns)} without label: a fit writes no rows. Give "
            "--label OUTPUT, or leave it out."
        )
    if flags.nearest is not None and flags.label is None:
        raise ConfigError(
            f"nearest={flags.nearest} without label: a fit writes no rows. Give --label OUTPUT, or "
            "leave it out."
        )
    config = run_config(flags.run, flags.storage_options)
    km = _estimator(flags, config)
    store = ModelDir.of(flags.model_dir, config)
    source = flags.open(flags.uri, config, store.latest(), flags.sample_weight, flags.center)
    if flags.explain:
        print(km.explain(source, batch_size=flags.batch_size))
        return
    announce("fit", flags.uri, flags.model_dir, config, rows=source)
    join_ray(config)
    before = store.checkpoints()[-1:]
    counts = _fit(km, source, flags)
    state = store.fitted()
    if before and store.checkpoints()[-1:] == before:
        print(EndedBefore(state.stop, len(state.history)))
    sizes = None if flags.use_mini_batch else state.counts  # mini-batch counts rows of many steps
    print(fit_table(state.history, state.stop, sizes, mini_batch=flags.use_mini_batch))
    if flags.use_mini_batch:
        print(after_mini_batch(source, state, config))
        if advice := advice_of(state, state.began_at):
            print(advice)
    if counts is not None and flags.label is not None:
        exit_codes.print_result(str(counts), flags.label)
    exit_codes.print_model(flags.model_dir, is_labelled=counts is not None)


def _fit(km: KMeansClustering, source: Source, flags: Fit) -> LabelCounts | None:
    """Fit, and label the rows where that is asked for; return their counts."""
    how: dict[str, Any] = {
        "batch_size": flags.batch_size,
        "max_steps": flags.max_steps,
        "max_seconds": flags.max_seconds,
    }
    with interrupt.listening():
        if flags.label is not None:
            how |= {"keep_columns": flags.keep_columns, "nearest": flags.nearest}
            return km.fit_and_label(source, flags.label, **how)
        km.fit(source, **how)
        return None


def _levels(given: tuple[int, ...] | None) -> int | tuple[int, ...] | None:
    """Return the levels as the constructor takes them: a single number is their number."""
    return given[0] if given is not None and len(given) == 1 else given


def _estimator(flags: Fit, config: RunConfig) -> KMeansClustering:
    """Return the estimator that the flags describe."""
    return KMeansClustering(
        num_clusters=flags.num_clusters,
        model_dir=flags.model_dir,
        initial_clusters=initial_clusters_of(flags.initial_clusters, config.storage_options),
        distance_metric=flags.distance_metric,
        random_seed=flags.random_seed,
        use_mini_batch=flags.use_mini_batch,
        mini_batch_steps_per_iteration=flags.mini_batch_steps_per_iteration,
        kmeans_plus_plus_num_retries=flags.kmeans_plus_plus_num_retries,
        relative_tolerance=flags.relative_tolerance,
        config=config,
        empty_clusters=flags.empty_clusters,
        n_init=flags.n_init,
        levels=_levels(flags.levels),
        refine_steps=flags.refine_steps,
        leaf_quota=flags.leaf_quota,
        train_rows=flags.train_rows,
        renumber_like=flags.renumber_like,
        reassignment_ratio=flags.reassignment_ratio,
        nested_batches=flags.nested_batches,
    )
