"""The command `import-centers`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional, arg

from ray_kmeans.cli import exit_codes
from ray_kmeans.cli.flags import Configured, announce, run_config
from ray_kmeans.config import DistanceMetric, MachineOptions
from ray_kmeans.loading import import_centers


@dataclass(frozen=True)
class ImportCenters(Configured):
    """Make a model of centers from elsewhere: it labels, evaluates and exports without a fit."""

    uri: Positional[Annotated[str, arg(metavar="URI")]]
    """File of centers, a row each: .npy, .npz, Parquet and all else that fit reads, or an index of
    faiss (of which the centers of its inverted lists are taken), an IVF model of Lance, a table of
    VectorChord; a path or any fsspec URL."""
    model_dir: Positional[Annotated[str, arg(metavar="MODEL_DIR")]]
    """Directory or fsspec URL for the model; one that is there already is not replaced."""
    distance_metric: DistanceMetric = "squared_euclidean"
    """'cosine': the centers are scaled to norm 1."""
    columns: tuple[str, ...] = ()
    """The column of vectors, or the columns of numbers. Needed where there is a choice."""
    storage_options: str = "{}"
    """JSON for fsspec, for URI and MODEL_DIR."""


def run(flags: ImportCenters) -> None:
    """Make the model, and print what it is and how to use it."""
    config = run_config(MachineOptions(num_workers=0), flags.storage_options)
    announce("import-centers", flags.uri, flags.model_dir, config)
    km = import_centers(
        flags.uri,
        flags.model_dir,
        distance_metric=flags.distance_metric,
        columns=flags.columns,
        config=config,
    )
    k, d = km.clusters().shape
    exit_codes.print_result(f"{k:,} clusters of {d:,} features", flags.model_dir)
