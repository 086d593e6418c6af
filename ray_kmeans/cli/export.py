"""The command `export`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional, arg

from ray_kmeans.cli import exit_codes
from ray_kmeans.cli.flags import Configured, announce, run_config
from ray_kmeans.config import ExportFormat, MachineOptions
from ray_kmeans.data.datasets.lance import ROW_ID
from ray_kmeans.errors import ConfigError
from ray_kmeans.loading import export_centers
from ray_kmeans.model import FittedModel
from ray_kmeans.workflows import export


@dataclass(frozen=True)
class Export(Configured):
    """Write a fitted model for others: as a graph that labels rows, or its centers alone."""

    model_dir: Positional[Annotated[str, arg(metavar="MODEL_DIR")]]
    """Directory or fsspec URL of a fitted model."""
    output: Positional[Annotated[str, arg(metavar="OUTPUT")]]
    """Path or fsspec URL: of a directory of exports for a graph, of the file for centers."""
    format: ExportFormat = "onnx"
    """'savedmodel': of TensorFlow, beside ONNX. 'parquet': the columns cluster, center, count of
    the centers. 'npy': the centers as an array, cluster by cluster. 'npz', 'safetensors': centers,
    counts and metric. 'faiss': an IVF index that is trained and empty; 'faiss-flat': its quantizer.
    'lance': a folder with ivf.lance and, with --labels, partitions.lance. 'vectorchord': a file for
    COPY of id, parent, vector; 'vectorchord-parquet': the same table as Parquet."""
    labels: str | None = None
    """Labelled output of a Lance data set by this model, for --format lance: the label of each row
    becomes its partition."""
    row_ids: str = ROW_ID
    """Column of --labels with Lance's ids of the rows, kept by `predict --keep-columns _rowid`."""
    storage_options: str = "{}"
    """JSON for fsspec, for MODEL_DIR and OUTPUT."""


def run(flags: Export) -> None:
    """Write the model, and print where it is."""
    config = run_config(MachineOptions(num_workers=0), flags.storage_options)
    announce("export", flags.model_dir, flags.output, config)
    if flags.format != "onnx" and flags.format != "savedmodel":
        path = export_centers(
            flags.model_dir,
            flags.output,
            flags.format,
            labels=flags.labels,
            row_ids=flags.row_ids,
            config=config,
        )
    elif flags.labels is not None:
        raise ConfigError(f"labels={flags.labels!r} has no meaning for format={flags.format!r}.")
    elif flags.format == "onnx":
        path = FittedModel(flags.model_dir, config).export(flags.output)
    else:
        export.check_tensorflow()
        path = FittedModel(flags.model_dir, config).export_savedmodel(flags.output)
    exit_codes.print_result("export", path)
