"""The command `drift`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from tyro.conf import Positional, arg

from ray_kmeans.cli.flags import (
    Configured,
    WeighedRows,
    announce,
    join_ray,
    run_config,
)
from ray_kmeans.config import MachineOptions
from ray_kmeans.model import FittedModel
from ray_kmeans.workflows.drift import Side, check_alike


@dataclass(frozen=True)
class Drift(WeighedRows, Configured):
    """Print what became of the clusters of an old model in a new one, and of the rows of DATA."""

    old_model: Positional[Annotated[str, arg(metavar="OLD_MODEL")]]
    """Directory or fsspec URL of the older fitted model."""
    new_model: Positional[Annotated[str, arg(metavar="NEW_MODEL")]]
    """Directory or fsspec URL of the newer fitted model."""
    data: Positional[Annotated[str | None, arg(metavar="DATA")]] = None
    """File, directory or glob of rows, as for `fit`, which are labelled by both models. None: the
    models' own centers, sizes and losses are compared."""
    json: bool = False
    """Print all figures of all clusters as JSON."""
    storage_options: str = "{}"
    """JSON for fsspec, for the models and for DATA."""
    run: MachineOptions = field(default_factory=MachineOptions)


def run(flags: Drift) -> None:
    """Print the drift."""
    config = run_config(flags.run, flags.storage_options)
    old, new = (FittedModel(each, config) for each in (flags.old_model, flags.new_model))
    check_alike(Side(old.state, flags.old_model), Side(new.state, flags.new_model))
    source = None
    if flags.data is not None:
        source = flags.open(flags.data, config, new.state, flags.sample_weight)
        announce(
            "drift", f"{flags.data} by {flags.old_model}", flags.new_model, config, rows=source
        )
        join_ray(config)
    found = new.drift_from(old, source)
    print(found.to_json() if flags.json else found.table())
