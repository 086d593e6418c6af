"""Flags to calls: the `ray-kmeans` command, and the same as jobs/*.py."""

from __future__ import annotations

import inspect
import json
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tyro
from tyro.conf import OmitArgPrefixes, Positional, arg

from ray_kmeans import answers, interrupt
from ray_kmeans.config import RunConfig, RunOptions
from ray_kmeans.data.source import open_source
from ray_kmeans.demo import run_demo
from ray_kmeans.errors import ConfigError, RayKMeansError, RunStoppedError
from ray_kmeans.estimator import KMeansClustering
from ray_kmeans.explain import explain
from ray_kmeans.observe.table import fit_table
from ray_kmeans.remote import redacted
from ray_kmeans.report import write_report
from ray_kmeans.resources import workforce
from ray_kmeans.runs import BATCH_SIZE
from ray_kmeans.store.labelled import LabelledOutput
from ray_kmeans.store.model_dir import ModelDir

T = TypeVar("T")

STOPPED = 128 + 15
"""Exit code of a job that was asked to end (SIGTERM), as shells tell it."""


@dataclass(frozen=True)
class Fit:
    """Cluster the rows of a data set; run it again with the same MODEL_DIR and it continues."""

    uri: Positional[Annotated[str, arg(metavar="URI")]]
    """File, directory or glob of Parquet, Arrow, .npy, ... (README); a path or any fsspec URL."""
    model_dir: Positional[Annotated[str, arg(metavar="MODEL_DIR")]]
    """Directory or fsspec URL for the model and its checkpoints."""
    num_clusters: int
    """Number of clusters."""
    columns: tuple[str, ...] = ()
    """The column of vectors, or the columns of numbers. Needed where there is a choice."""
    sample_weight: str | None = None
    """A column of numbers from 0 on: how often each row counts."""
    filters: str = "[]"
    """JSON list of [column, operator, value]: leave rows out for which not all of these hold."""
    nonfinite: Literal["error", "drop"] = "error"
    """'drop': leave rows with NaN, null or infinity out, and say how many."""
    initial_clusters: Literal["random", "kmeans_plus_plus", "kmc2", "kmeans_parallel"] = "random"
    """How the initial centers are chosen among the rows."""
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
    max_steps: int | None = None
    """Steps over all runs at most. None: until the centers or the loss settle."""
    relative_tolerance: float | None = None
    """Stop when the loss changes by less than this share from one iteration to the next."""
    storage_options: str = "{}"
    """JSON for fsspec, for the data and for MODEL_DIR."""
    explain: bool = False
    """Print what the fit would read, hold and send, from metadata alone, and run nothing."""
    run: RunOptions = field(default_factory=RunOptions)


@dataclass(frozen=True)
class Predict:
    """Write the cluster of every row of a data set to Parquet; run it again and it continues."""

    uri: Positional[Annotated[str, arg(metavar="URI")]]
    """File, directory or glob of Parquet, Arrow, .npy, ... (README); a path or any fsspec URL."""
    model_dir: Positional[Annotated[str, arg(metavar="MODEL_DIR")]]
    """Directory or fsspec URL of a fitted model."""
    output: Positional[Annotated[str, arg(metavar="OUTPUT")]]
    """Directory or fsspec URL for the labelled rows, one Parquet file per block of the data."""
    columns: tuple[str, ...] = ()
    """The column of vectors, or the columns of numbers. Needed where there is a choice."""
    keep_columns: tuple[str, ...] = ()
    """Columns of the data to pass through to the output."""
    second: bool = False
    """Also the second-nearest cluster of every row, and its distance. Costs another pass."""
    by_cluster: bool = False
    """Write folders by cluster (cluster=00007/, as Hive has them), or by ranges of many."""
    append: bool = False
    """Add the rows of new data to the output that is there, made with the same model and flags."""
    filters: str = "[]"
    """JSON list of [column, operator, value]: rows for which not all hold get the cluster -1."""
    nonfinite: Literal["error", "drop"] = "error"
    """'drop': rows with NaN, null or infinity get the cluster -1."""
    storage_options: str = "{}"
    """JSON for fsspec, for the data, MODEL_DIR and OUTPUT."""
    run: RunOptions = field(default_factory=RunOptions)


@dataclass(frozen=True)
class Report:
    """Make one HTML page of a fitted model: loss, sizes, a map, gaps, and rows of each cluster."""

    model_dir: Positional[Annotated[str, arg(metavar="MODEL_DIR")]]
    """Directory or fsspec URL of a fitted model."""
    output: Positional[Annotated[str, arg(metavar="OUTPUT")]]
    """Path or fsspec URL of the page, as report.html."""
    data: tuple[str, ...] = ()
    """URI, or several, of data as for `fit`: some of their rows are shown, too."""
    columns: tuple[str, ...] = ()
    """The column of vectors, or the columns of numbers. Needed where there is a choice."""
    show: str | None = None
    """Column of the data that says what a row is: text, or PNG or JPEG files."""
    storage_options: str = "{}"
    """JSON for fsspec, for the data, MODEL_DIR and OUTPUT."""


@dataclass(frozen=True)
class Demo:
    """Cluster 6,000 WordNet glosses (embedded by MiniLM) on a Ray on this machine."""

    output: str = "ray-kmeans-demo"
    """Directory for the model and the labelled rows; a number is added if it exists."""
    num_clusters: int = 25
    """Number of clusters."""
    run: RunOptions = field(default_factory=RunOptions)


def fit(flags: Fit) -> None:
    config = _config(flags.run, flags.storage_options)
    km = KMeansClustering(**_shared(flags), config=config)
    source = open_source(
        flags.uri,
        flags.columns,
        config.storage_options,
        sample_weight=flags.sample_weight,
        filters=_parsed("filters", flags.filters),
        nonfinite=flags.nonfinite,
    )
    if flags.explain:
        drawn = (flags.batch_size or BATCH_SIZE) if flags.use_mini_batch else None
        print(explain(source.describe(), flags.num_clusters, config, drawn))
        return
    _say(redacted(f"fit: {flags.uri} -> {flags.model_dir}, {_where(config)}"))
    if config.num_workers != 0:
        workforce(config)  # joins or starts Ray, which takes SIGTERM for itself
    interrupt.listen()
    km.fit(source, batch_size=flags.batch_size, max_steps=flags.max_steps)
    sizes = None if flags.use_mini_batch else km.counts()  # mini-batch counts rows of many steps
    print(fit_table(km.history(), km.why_stopped(), sizes))
    model_dir = redacted(flags.model_dir)
    print(f"\nmodel: {model_dir}\nnext: label rows with `predict`, or read the centers with")
    print(f"  KMeansClustering({flags.num_clusters}, {model_dir!r}).clusters()")


def predict(flags: Predict) -> None:
    config = _config(flags.run, flags.storage_options)
    model = ModelDir.at(flags.model_dir, config.storage_options, config.keep_checkpoint_max)
    state = model.fitted()
    _say(redacted(f"predict: {flags.uri} -> {flags.output}, {_where(config)}"))
    source = open_source(
        flags.uri,
        flags.columns,
        config.storage_options,
        filters=_parsed("filters", flags.filters),
        nonfinite=flags.nonfinite,
    )
    rows = answers.write_labels(
        state,
        source,
        LabelledOutput.at(flags.output, config.storage_options),
        config,
        model_dir=flags.model_dir,
        keep_columns=flags.keep_columns,
        second=flags.second,
        by_cluster=flags.by_cluster,
        append=flags.append,
    )
    print(redacted(f"{rows:,} rows labelled: {flags.output}"))


def report(flags: Report) -> None:
    config = _config(RunOptions(), flags.storage_options)
    model = ModelDir.at(flags.model_dir, config.storage_options, config.keep_checkpoint_max)
    write_report(model, flags.output, flags.data, flags.columns, flags.show)
    print(redacted(f"report: {flags.output}"))


def demo(flags: Demo) -> None:
    output = _free_directory(Path(flags.output))
    config = _config(flags.run, "{}")
    _say(f"demo: 6,000 glosses -> {output}, {_where(config)}")
    print(run_demo(output, flags.num_clusters, config))


def main(args: Sequence[str] | None = None) -> None:
    """Run the `ray-kmeans` command."""
    commands: dict[str, tuple[type, Callable[[Any], None]]] = {
        "fit": (Fit, fit),
        "predict": (Predict, predict),
        "report": (Report, report),
        "demo": (Demo, demo),
    }
    flags = tyro.extras.subcommand_cli_from_dict(
        {name: kind for name, (kind, _) in commands.items()},
        prog="ray-kmeans",
        args=args,
        config=(OmitArgPrefixes,),
    )
    call = next(call for kind, call in commands.values() if isinstance(flags, kind))
    _run(call, flags)


def job(kind: type[T], call: Callable[[T], None], args: Sequence[str] | None = None) -> None:
    """Run one command as a script of its own (jobs/*.py)."""
    _run(call, tyro.cli(kind, args=args, config=(OmitArgPrefixes,)))


def _run(call: Callable[[T], None], flags: T) -> None:
    quiet = sys.stderr.isatty()  # a terminal has the progress bar
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("ray_kmeans").setLevel(logging.WARNING if quiet else logging.INFO)
    try:
        call(flags)
    except RunStoppedError as stopped:
        _say(str(stopped))
        sys.exit(STOPPED)
    except RayKMeansError as error:
        sys.exit(f"error: {error}")


def _shared(flags: Fit) -> dict[str, Any]:
    """Return the flags that are parameters of the estimator."""
    parameters = inspect.signature(KMeansClustering).parameters
    return {name: value for name, value in vars(flags).items() if name in parameters}


def _config(options: RunOptions, storage_options: str) -> RunConfig:
    return RunConfig(**asdict(options), storage_options=_parsed("storage_options", storage_options))


def _parsed(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:  # the value may hold a secret
        raise ConfigError(f"{name} is not JSON: {error}.") from None


def _where(config: RunConfig) -> str:
    if config.num_workers == 0:
        return "in this process"
    workers = config.num_workers or "one worker per CPU"
    return f"on Ray at {config.ray_address or 'RAY_ADDRESS, else this machine'}, {workers}"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _free_directory(wanted: Path) -> Path:
    number, path = 1, wanted
    while path.exists():
        number += 1
        path = wanted.with_name(f"{wanted.name}-{number}")
    return path
