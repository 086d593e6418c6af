"""The plan of a run in words, made from metadata alone."""

from __future__ import annotations

from enum import Enum

from ray_kmeans.algorithm.dtypes import item_bytes
from ray_kmeans.config import RunConfig
from ray_kmeans.data.footprint import WORKER_BASE_BYTES
from ray_kmeans.data.layout import Layout
from ray_kmeans.engine.row_cache import DISK, MEMORY, SOURCE
from ray_kmeans.workflows.plan import plan_shards, worker_memory

PLACES = {
    MEMORY: "in memory; a sweep reads nothing",
    DISK: "on a disk of their node; a sweep reads them from there once",
    SOURCE: "where they come from; a sweep reads them from there once",
}
LABEL_BYTES = 16
"""Of a row of labelled output: its number, cluster and distance."""
UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB")


class Work(Enum):
    """What is to be done with the rows; the value says what that moves between machines."""

    FIT = (
        "an iteration sends {centers} of centers to each worker and gets {sums} of sums and counts "
        "from each"
    )
    PREDICT = (
        "each worker gets {centers} of centers, and writes the labels of its rows; all of them are "
        "{labels} and the columns kept, before compression"
    )
    EVALUATE = "each worker gets {centers} of centers and gives {sums} of sums and counts, once"


def explain(
    layout: Layout,
    num_clusters: int,
    config: RunConfig,
    batch_size: int | None = None,
    work: Work = Work.FIT,
    features: str = "",
) -> str:
    """Return what a run would hold and move, a line each; `features` are the columns of a row.

    Joins or starts Ray, to know the nodes, where workers are to run there. Raises what the run
    would: BudgetError where it does not fit the memory.
    """
    _, options = plan_shards(layout, num_clusters, config, batch_size)
    cpus, row_cache = options.threads, options.row_cache
    values = num_clusters * layout.features
    files = len({block.file for block in layout.blocks})
    where = "in this process" if config.num_workers == 0 else "on Ray"
    lines = {
        "data": f"{layout.rows:,} rows x {layout.features:,} features, {in_units(_bytes(layout))} "
        f"as {layout.narrow or 'float32'}; {files:,} file{'s'[: files != 1]}, "
        f"{len(layout.blocks):,} blocks",
        "features": features,
        "workers": f"{options.num_workers:,} {where}, with {cpus:,} thread{'s'[: cpus != 1]} and "
        f"at most {options.planned_rows:,} rows each",
        "rows": f"as {row_cache.narrow or 'float32'} {PLACES[row_cache.cache]} "
        f"(cache={config.cache!r})",
        "memory": f"{in_units(options.planned_bytes)} in a worker at most, "
        f"{in_units(WORKER_BASE_BYTES)} of it before any row; "
        f"it may hold {in_units(worker_memory(config))}",
        "traffic": work.value.format(
            centers=in_units(4 * values),
            sums=in_units(8 * (values + num_clusters)),
            labels=in_units(LABEL_BYTES * layout.rows),
        ),
    }
    return "\n".join(f"{name:<8} {line}" for name, line in lines.items() if line)


def in_units(size: float) -> str:
    """Return a number of bytes in the largest unit of which there is one.

    >>> in_units(512), in_units(1536), in_units(3 * 2**40)
    ('512 bytes', '1.5 KiB', '3.0 TiB')
    """
    for unit in UNITS:
        if size < 1024 or unit == UNITS[-1]:
            break
        size /= 1024
    return f"{size:,.0f} {unit}" if unit == UNITS[0] else f"{size:,.1f} {unit}"


def _bytes(layout: Layout) -> int:
    return layout.rows * layout.features * item_bytes(layout.narrow)
