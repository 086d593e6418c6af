"""The command `demo`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ray_kmeans.cli.flags import (
    Configured,
    announce,
    join_ray,
    run_config,
)
from ray_kmeans.config import RunOptions
from ray_kmeans.demo import run_demo


@dataclass(frozen=True)
class Demo(Configured):
    """Cluster 6,000 WordNet glosses (embedded by MiniLM) on a Ray on this machine."""

    output: str = "ray-kmeans-demo"
    """Directory for the model and the labelled rows; a number is added if it exists."""
    num_clusters: int = 25
    """Number of clusters."""
    run: RunOptions = field(default_factory=RunOptions)


def run(flags: Demo) -> None:
    """Fit and label the data that come with the package, and print the largest clusters."""
    output = _free_directory(Path(flags.output))
    config = run_config(flags.run, "{}")
    announce("demo", "6,000 glosses", str(output), config)
    join_ray(config)
    print(run_demo(output, flags.num_clusters, config))


def _free_directory(wanted: Path) -> Path:
    """Return the wanted path, with a number added if it exists."""
    number, path = 1, wanted
    while path.exists():
        number += 1
        path = wanted.with_name(f"{wanted.name}-{number}")
    return path
