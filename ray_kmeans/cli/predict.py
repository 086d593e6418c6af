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
    join_ray,
    run_config,
)
from ray_kmeans.config import MachineOptions
from ray_kmeans.model import FittedModel


@dataclass(frozen=True)
class Predict(Rows, Configured):
    """Write the cluster of every row of a data set to Parquet; run it again and it continues."""

    uri: Positional[Annotated[str, arg(metavar="URI")]]
    """File, directory or glob of Parquet, Arrow, .npy, CSV, ...; a path or any fsspec URL."""
    model_dir: Positional[Annotated[str, arg(metavar="MODEL_DIR")]]
    """Directory or fsspec URL of a fitted model."""
    output: Positional[Annotated[str, arg(metavar="OUTPUT")]]
    """Directory or fsspec URL for the labelled rows, as Parquet files."""
    keep_columns: tuple[str, ...] = ()
    """Columns of the data to pass through to the output."""
    second: bool = False
    """Also the second-nearest cluster of every row, and its distance. Costs another pass."""
    nearest: int | None = None
    """Number of nearest clusters to list for every row with their distances, the nearest first.
    Costs a product of all rows and centers in float32."""
    beam: int | None = None
    """Label by the tree of a model that was fitted with levels: look at the children of this many
    nodes of each level. A few labels are not of the nearest center; a sample tells how many."""
    recall: float | None = None
    """The same by the narrowest beam of whose labels at least this share is right, as 0.99."""
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
    model = FittedModel(flags.model_dir, config)
    source = flags.open(flags.uri, config, model.state)
    if flags.explain:
        print(model.explain(source, "label"))
        return
    announce("predict", flags.uri, flags.output, config, rows=source)
    join_ray(config)
    counts = model.label(
        source,
        flags.output,
        keep_columns=flags.keep_columns,
        second=flags.second,
        nearest=flags.nearest,
        beam=flags.beam,
        recall=flags.recall,
        by_cluster=flags.by_cluster,
        append=flags.append,
    )
    exit_codes.print_result(str(counts), flags.output)
