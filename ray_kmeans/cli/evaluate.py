"""The command `evaluate`."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Annotated

from tyro.conf import Positional, arg

from ray_kmeans.algorithm.quality_sums import BORDERS
from ray_kmeans.cli import exit_codes
from ray_kmeans.cli.flags import (
    Configured,
    WeighedRows,
    announce,
    join_ray,
    run_config,
)
from ray_kmeans.config import MachineOptions, RunConfig
from ray_kmeans.io.publish import Place, absolute, put
from ray_kmeans.model import FittedModel
from ray_kmeans.workflows.evaluate import Evaluation
from ray_kmeans.workflows.validation import check_features


@dataclass(frozen=True)
class Evaluate(WeighedRows, Configured):
    """Print the loss of a data set under a fitted model, and how good its clusters are."""

    uri: Positional[Annotated[str, arg(metavar="URI")]]
    """File, directory or glob of Parquet, Arrow, .npy, CSV, ...; a path or any fsspec URL."""
    model_dir: Positional[Annotated[str, arg(metavar="MODEL_DIR")]]
    """Directory or fsspec URL of a fitted model."""
    output: str | None = None
    """Path or fsspec URL of a JSON file for the figures, too; `report` draws them from it."""
    quality: bool = True
    """Also tell silhouettes, indices of Davies and Bouldin and of Calinski and Harabasz, and gaps
    between centers. This costs about one sweep more, and time O(k^2 d)."""
    borders: tuple[float, ...] = BORDERS
    """Percentages x: the share of rows is told whose distances a to the nearest and b to the
    second-nearest center have (b - a) / b <= x / 100."""
    against_column: str | None = None
    """Column of labels of another clustering to compare with."""
    against_output: str | None = None
    """Path or URL of a labelled output of the same rows, in the order of the data, to compare
    with."""
    storage_options: str = "{}"
    """JSON for fsspec, for the data, MODEL_DIR, OUTPUT and AGAINST_OUTPUT."""
    explain: bool = False
    """Print what it would read, hold and send, from metadata alone, and run nothing."""
    run: MachineOptions = field(default_factory=MachineOptions)


def run(flags: Evaluate) -> None:
    """Print the figures, and write them if that is asked for."""
    config = run_config(flags.run, flags.storage_options)
    model = FittedModel(flags.model_dir, config)
    source = flags.open(flags.uri, config, model.state, flags.sample_weight)
    if flags.explain:
        print(model.explain(source, "evaluate"))
        return
    check_features(source.describe().features, model.state, flags.model_dir)
    what = f"{flags.uri} by {flags.model_dir}"
    announce("evaluate", what, flags.output, config, rows=source)
    join_ray(config)
    result = model.evaluation(
        source,
        quality=flags.quality,
        borders=flags.borders,
        against_column=flags.against_column,
        against_output=flags.against_output,
    )
    print(result.table())
    if flags.output is not None:
        _write(result, flags.output, config)
        exit_codes.print_result("written", flags.output)


def _write(result: Evaluation, output: str, config: RunConfig) -> None:
    """Write the figures to a JSON file."""
    place = Place(absolute(output), config.storage_options)
    with place.raise_store_errors(f"{place.shown!r} cannot be written"):
        put(place.fs, place.path, json.dumps(result.figures(), indent=1).encode())
