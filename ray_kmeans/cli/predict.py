"""The command `predict`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from tyro.conf import Positional, arg

from ray_kmeans.cli import exit_codes
from ray_kmeans.cli.flags import (
    Configured,
    Rows,
    announce,
    join,
    run_config,
)
from ray_kmeans.config import MachineOptions
from ray_kmeans.data.model_rows import said_of
from ray_kmeans.store.labelled import LabelledOutput, RowCounts
from ray_kmeans.store.model_dir import ModelDir
from ray_kmeans.workflows.explain import Work, explain
from ray_kmeans.workflows.label import write_labels
from ray_kmeans.workflows.validation import check_features


@dataclass(frozen=True)
class Predict(Rows, Configured):
    """Write the cluster of every row of a data set to Parquet; run it again and it continues."""

    uri: Positional[Annotated[str, arg(metavar="URI")]]
    """File, directory or glob of Parquet, Arrow, .npy, ... (README); a path or any fsspec URL."""
    model_dir: Positional[Annotated[str, arg(metavar="MODEL_DIR")]]
    """Directory or fsspec URL of a fitted model."""
    output: Positional[Annotated[str, arg(metavar="OUTPUT")]]
    """Directory or fsspec URL for the labelled rows, as Parquet files."""
    keep_columns: tuple[str, ...] = ()
    """Columns of the data to pass through to the output."""
    second: bool = False
    """Also the second-nearest cluster of every row, and its distance. Costs another pass."""
    by_cluster: bool = False
    """Write folders by cluster (cluster=00007/, as Hive has them), or by ranges of many."""
    append: bool = False
    """Add the rows of new data to the output that is there, made with the same model and flags."""
    storage_options: str = "{}"
    """JSON for fsspec, for the data, MODEL_DIR and OUTPUT."""
    explain: bool = False
    """Print what it would read, hold, send and write, from metadata alone, and run nothing."""
    run: MachineOptions = field(default_factory=MachineOptions)


def run(flags: Predict) -> None:
    """Label all rows, and print how many."""
    config = run_config(flags.run, flags.storage_options)
    model = ModelDir.of(flags.model_dir, config)
    state = model.fitted()
    source = flags.open(flags.uri, config, state)
    if flags.explain:
        layout = source.describe()
        check_features(layout.features, state, flags.model_dir)
        k, features = len(state.centers), said_of(source)
        print(explain(layout, k, config, work=Work.PREDICT, features=features))
        return
    announce("predict", flags.uri, flags.output, config, rows=source)
    join(config)
    rows = write_labels(
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
    exit_codes.tell(_counted(rows), flags.output)


def _counted(found: RowCounts) -> str:
    """Say how many rows have a cluster, and apart from them how many have none.

    >>> _counted(RowCounts(1000, 0)), _counted(RowCounts(1000, 3))
    ('1,000 rows labelled', '997 rows labelled, 3 left out (cluster -1)')
    """
    if not found.left_out:
        return f"{found.rows:,} rows labelled"
    return (
        f"{found.rows - found.left_out:,} rows labelled, {found.left_out:,} left out (cluster -1)"
    )
