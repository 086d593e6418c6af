"""The command `export`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional, arg

from ray_kmeans.cli import exit_codes
from ray_kmeans.cli.flags import Configured, announce, run_config
from ray_kmeans.config import ExportFormat, MachineOptions
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
    the centers. 'npy': the centers as an array, cluster by cluster."""
    storage_options: str = "{}"
    """JSON for fsspec, for MODEL_DIR and OUTPUT."""


def run(flags: Export) -> None:
    """Write the model, and print where it is."""
    config = run_config(MachineOptions(num_workers=0), flags.storage_options)
    model = FittedModel(flags.model_dir, config)
    announce("export", flags.model_dir, flags.output, config)
    if flags.format == "onnx":
        path = model.export(flags.output)
    elif flags.format == "savedmodel":
        export.check_tensorflow()
        path = model.export_savedmodel(flags.output)
    else:
        options = config.storage_options
        path = export.write_centers(model.state, flags.output, flags.format, options)
    exit_codes.print_result("export", path)
