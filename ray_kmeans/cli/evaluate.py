"""The command `evaluate`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Annotated

from tyro.conf import Positional, arg

from ray_kmeans.cli import exit_codes
from ray_kmeans.cli.flags import (
    Configured,
    WeighedRows,
    announce,
    join,
    run_config,
)
from ray_kmeans.config import MachineOptions, RunConfig
from ray_kmeans.data.model_rows import said_of
from ray_kmeans.io.publish import Place, absolute, put
from ray_kmeans.store.model_dir import ModelDir
from ray_kmeans.workflows.evaluate import Evaluation, evaluate_on
from ray_kmeans.workflows.explain import Work, explain
from ray_kmeans.workflows.validation import check_features


@dataclass(frozen=True)
class Evaluate(WeighedRows, Configured):
    """Tell the loss of a data set under a fitted model, and how its rows spread over clusters."""

    uri: Positional[Annotated[str, arg(metavar="URI")]]
    """File, directory or glob of Parquet, Arrow, .npy, ... (README); a path or any fsspec URL."""
    model_dir: Positional[Annotated[str, arg(metavar="MODEL_DIR")]]
    """Directory or fsspec URL of a fitted model."""
    output: str | None = None
    """Path or fsspec URL of a JSON file for the figures, too."""
    storage_options: str = "{}"
    """JSON for fsspec, for the data, MODEL_DIR and OUTPUT."""
    explain: bool = False
    """Print what it would read, hold and send, from metadata alone, and run nothing."""
    run: MachineOptions = field(default_factory=MachineOptions)


def run(flags: Evaluate) -> None:
    """Print the figures, and write them where that is asked for."""
    config = run_config(flags.run, flags.storage_options)
    model = ModelDir.of(flags.model_dir, config)
    state = model.fitted()
    source = flags.open(flags.uri, config, state, flags.sample_weight)
    layout = source.describe()
    check_features(layout.features, state, flags.model_dir)
    if flags.explain:
        k, features = len(state.centers), said_of(source)
        print(explain(layout, k, config, work=Work.EVALUATE, features=features))
        return
    what = f"{flags.uri} by {flags.model_dir}"
    announce("evaluate", what, flags.output, config, rows=source)
    join(config)
    result = evaluate_on(source, layout, state, config)
    print(result.table())
    if flags.output is not None:
        _write(result, flags.output, config)
        exit_codes.tell("written", flags.output)


def _write(result: Evaluation, output: str, config: RunConfig) -> None:
    place = Place(absolute(output), config.storage_options)
    with place.raise_store_errors(f"{place.shown!r} cannot be written"):
        put(place.fs, place.path, json.dumps(asdict(result), indent=1).encode())
