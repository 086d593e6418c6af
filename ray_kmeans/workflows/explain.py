"""Put the plan of a run into words, from metadata alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ray_kmeans.algorithm.dtypes import item_bytes
from ray_kmeans.algorithm.tree import most_at_once
from ray_kmeans.config import RunConfig, Work
from ray_kmeans.data.sharding import Layout
from ray_kmeans.data.worker_memory import SUM_BYTES, WORKER_BASE_BYTES
from ray_kmeans.engine.row_cache import DISK, MEMORY, SOURCE
from ray_kmeans.text.quantities import format_bytes
from ray_kmeans.workflows.worker_plan import plan_shards, worker_memory

PLACES = {
    MEMORY: "in memory; a sweep reads nothing",
    DISK: "on a disk of their node; a sweep reads them from there once",
    SOURCE: "where they come from; a sweep reads them from there once",
}
"""A phrase for each place where workers keep their rows."""
SAMPLE = "{:,} of {:,} rows, chosen by the hash of their numbers"
"""Phrase for the rows that a fit visits; takes their number and that of all rows."""
LABEL_BYTES = 16
"""Bytes of a row of labelled output: its number, cluster and distance."""


TRAFFIC: Mapping[Work, str] = {
    "fit": "an iteration sends {centers} of centers to each worker and gets {sums} of sums and "
    "counts from each",
    "label": "each worker gets {centers} of centers, and writes the labels of its rows; all of "
    "them are {labels} and the columns kept, before compression",
    "evaluate": "each worker gets {centers} of centers and gives {sums} of sums and counts, "
    "once, and {figures} of figures of quality unless they are left out",
}
"""A sentence for each work about what it moves between machines."""


def explain(
    layout: Layout,
    num_clusters: int,
    config: RunConfig,
    batch_size: int | None = None,
    work: Work = "fit",
    features: str = "",
    sample: Sequence[int] = (),
    levels: Sequence[int] = (),
    refine_steps: int = 0,
) -> str:
    """Return what a run would hold and move, as text of one line each.

    `batch_size` is None for full batch, `features` names the columns of a row, and `sample` is what
    `sample_of` tells. `levels` are the numbers of centers of each level of a tree, which
    `refine_steps` over all clusters follow. Joins or starts Ray, to know the nodes, where workers
    are to run there. Raises what the run would: BudgetError where it does not fit the memory.
    """
    at_once = most_at_once(num_clusters, levels, refine_steps)
    _, options = plan_shards(layout, at_once, config, batch_size, is_tree=bool(levels))
    cpus, row_cache = options.threads, options.row_cache
    values = at_once * layout.features
    files = len({block.file for block in layout.blocks})
    where = "in this process" if config.num_workers == 0 else "on Ray"
    lines = {
        "data": f"{layout.rows:,} rows x {layout.features:,} features, "
        f"{format_bytes(_bytes(layout))} as {layout.narrow or 'float32'}; "
        f"{files:,} file{'s'[: files != 1]}, {len(layout.blocks):,} blocks",
        "sample": SAMPLE.format(*sample) if sample else "",
        "features": features,
        "tree": _tree(levels, at_once, refine_steps) if levels else "",
        "workers": f"{options.num_workers:,} {where}, with {cpus:,} thread{'s'[: cpus != 1]} and "
        f"at most {options.planned_rows:,} rows each",
        "rows": f"as {row_cache.narrow or 'float32'} {PLACES[row_cache.cache]} "
        f"(cache={config.cache!r})",
        "memory": f"{format_bytes(options.planned_bytes)} in a worker at most, "
        f"{format_bytes(WORKER_BASE_BYTES)} of it before any row; "
        f"it may hold {format_bytes(worker_memory(config))}",
        "traffic": TRAFFIC[work].format(
            centers=format_bytes(4 * values),
            sums=format_bytes(8 * (values + at_once)),
            labels=format_bytes(LABEL_BYTES * layout.rows),
            figures=format_bytes(SUM_BYTES * num_clusters),
        ),
    }
    return "\n".join(f"{name:<8} {line}" for name, line in lines.items() if line)


def _tree(levels: Sequence[int], at_once: int, refine_steps: int) -> str:
    """Return the sentence about the levels of a tree."""
    centers = " and ".join(f"{size:,}" for size in levels)
    steps = f"; then {refine_steps:,} steps over all of them" if refine_steps else ""
    return f"levels of {centers} centers, of which up to {at_once:,} are fitted at once{steps}"


def _bytes(layout: Layout) -> int:
    """Return the size in bytes of all rows, in the type of their values."""
    return layout.rows * layout.features * item_bytes(layout.narrow)
