"""Some rows of the data, the same every time: their clusters, and what to show of a few of them."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ray_kmeans import kernels
from ray_kmeans.algorithm.draws import distinct_rows
from ray_kmeans.algorithm.metric import project
from ray_kmeans.algorithm.state import FitState
from ray_kmeans.data.layout import Block, Layout
from ray_kmeans.data.source import Source
from ray_kmeans.errors import ConfigError, DataError, NoDataError
from ray_kmeans.html_report.centers import Plane
from ray_kmeans.text.quantities import format_bytes
from ray_kmeans.workflows.predict import CLUSTER_IDX, ReadyModel, batches_of

ROWS = 20_000
"""Rows of a sample, at most."""
BLOCKS = 32
"""Blocks that are read for it; more only where they are so small that these hold too few rows."""
LONGEST_TEXT = 200
"""Characters of a row that are shown."""
LARGEST_IMAGE_BYTES = 2**19
IMAGES = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg"}
"""By how they begin."""


@dataclass(frozen=True)
class Image:
    """A picture that stands in the page itself."""

    uri: str
    """A data URI."""
    alt: str


Shown: TypeAlias = str | Image


@dataclass(frozen=True)
class Sample:
    """Some rows, without the rows themselves."""

    blocks: tuple[Block, ...]
    """Those that were read."""
    numbers: NDArray[np.int64]
    """(n,) of the rows in the data set, ascending."""
    labels: NDArray[np.int64]
    """(n,) the cluster of each."""
    distances: NDArray[np.float64]
    """(n,) to its center."""
    points: NDArray[np.float64]
    """(n, 2) in the plane."""
    of_rows: int
    """Rows of the whole data set."""

    def nearest(self, cluster: int, rows: int) -> list[int]:
        """Return the numbers of the rows of a cluster that are nearest to its center, in order."""
        members = np.flatnonzero(self.labels == cluster)
        order = np.argsort(self.distances[members], kind="stable")
        return list(self.numbers[members[order[:rows]]].tolist())


def sample_of(source: Source, layout: Layout, state: FitState, plane: Plane) -> Sample:
    """Draw rows from blocks all over the data and label them; NoDataError where there are none."""
    if not layout.rows:
        raise NoDataError("the data have no rows to show. Give other data, or none.")
    blocks = _spread(layout)
    ends = np.cumsum([block.rows for block in blocks])
    total = int(ends[-1])
    drawn = distinct_rows(total, min(ROWS, total), 0, "report")
    kernel, predict = kernels.load(), ReadyModel(state, (CLUSTER_IDX,))
    numbers, labels, distances, points = [], [], [], []
    batches = batches_of(source, Layout(blocks, layout.features), None)
    for block, end, batch in zip(blocks, ends.tolist(), batches, strict=True):
        low, high = np.searchsorted(drawn, (end - block.rows, end))
        here = drawn[low:high] - (end - block.rows)
        here = here[np.logical_not(np.isnan(batch[here, 0]))]  # rows that are left out
        rows = project(batch[here], state.metric)
        own = predict(rows)[CLUSTER_IDX]
        numbers.append(block.first + here)
        labels.append(own)
        distances.append(
            kernel.distances_to(rows, state.centers, own.astype(np.int32), state.metric)
        )
        points.append(plane.project(rows))
    return Sample(
        blocks,
        np.concatenate(numbers),
        np.concatenate(labels),
        np.concatenate(distances),
        np.concatenate(points),
        layout.rows,
    )


def _spread(layout: Layout) -> tuple[Block, ...]:
    """Return enough blocks for a sample, evenly spread."""
    n_blocks = len(layout.blocks)
    wanted = max(BLOCKS, -(-ROWS * n_blocks // layout.rows))
    places = np.linspace(0, n_blocks - 1, min(wanted, n_blocks)).round().astype(int)
    return tuple(layout.blocks[place] for place in places)


def check_column(source: Source, layout: Layout, column: str) -> None:
    """Raise ConfigError unless the data have this column beside their vectors."""
    if layout.blocks:
        _values(source, layout.blocks[0], column)


def shown(
    source: Source, sample: Sample, column: str, numbers: Sequence[int]
) -> Mapping[int, Shown]:
    """Return what to show of these rows of a sample, by number."""
    found: dict[int, Shown] = {}
    for block in sample.blocks:
        here = [number for number in numbers if 0 <= number - block.first < block.rows]
        if here:
            values = _values(source, block, column).take([each - block.first for each in here])
            pairs = zip(here, values.to_pylist(), strict=True)
            found |= {number: _shown(value, f"row {number:,}") for number, value in pairs}
    return found


def _values(source: Source, block: Block, column: str) -> Any:
    try:
        return source.columns_of(block, [column])[column]
    except (ConfigError, DataError) as error:
        raise ConfigError(f"show={column!r}: {error}") from None


def _shown(value: Any, alt: str) -> Shown:
    if isinstance(value, bytes):
        return _image(value, alt)
    text = "" if value is None else str(value)
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}…"


def _image(content: bytes, alt: str) -> Shown:
    kind = next((kind for start, kind in IMAGES.items() if content.startswith(start)), None)
    if kind is None:
        return format_bytes(len(content))
    if len(content) > LARGEST_IMAGE_BYTES:
        return f"{kind}, {format_bytes(len(content))}"
    return Image(f"data:{kind};base64,{base64.b64encode(content).decode()}", alt)
