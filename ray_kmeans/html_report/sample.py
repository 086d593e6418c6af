"""A sample of the data, the same rows every time: their labels, and texts or images of some."""

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
from ray_kmeans.data.sharding import Block, Layout
from ray_kmeans.data.source import Source
from ray_kmeans.errors import ConfigError, DataError, NoDataError
from ray_kmeans.html_report.centers import Plane
from ray_kmeans.text.quantities import format_bytes
from ray_kmeans.workflows.predict_in_memory import CLUSTER_IDX, ReadyModel, batches_of

ROWS = 20_000
"""Largest number of rows of a sample."""
BLOCKS = 32
"""Number of blocks that are read; more only where these hold too few rows for a sample."""
LONGEST_TEXT = 200
"""Largest number of characters of a text that are shown."""
LARGEST_IMAGE_BYTES = 2**19
"""Largest size of an image that is shown, in bytes."""
IMAGES = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg"}
"""Media types of images, by the first bytes of a file."""


@dataclass(frozen=True)
class Image:
    """An image inside the page."""

    uri: str
    """The image as a data URI."""
    alt: str
    """Text for readers who do not see it."""


Shown: TypeAlias = str | Image
"""Text or image of a row."""


@dataclass(frozen=True)
class Sample:
    """Facts about a sample of rows, without the rows themselves."""

    blocks: tuple[Block, ...]
    """The blocks that the rows are from."""
    numbers: NDArray[np.int64]
    """(n,) numbers of the rows in the data set, ascending."""
    labels: NDArray[np.int64]
    """(n,) label of each row."""
    distances: NDArray[np.float64]
    """(n,) distance of each row to its center."""
    points: NDArray[np.float64]
    """(n, 2) the rows as points of the plane."""
    of_rows: int
    """Number of rows of the whole data set."""

    def nearest(self, cluster: int, rows: int) -> list[int]:
        """Return the numbers of the `rows` rows of a cluster nearest to its center, in order."""
        members = np.flatnonzero(self.labels == cluster)
        order = np.argsort(self.distances[members], kind="stable")
        return list(self.numbers[members[order[:rows]]].tolist())


def sample_of(
    source: Source,
    layout: Layout,
    state: FitState,
    plane: Plane,
    most_rows: int = ROWS,
    few_blocks: int = BLOCKS,
) -> Sample:
    """Draw rows from blocks all over the data and label them; NoDataError for no rows.

    At most `most_rows` rows, from `few_blocks` blocks, or from more where these hold too few rows.
    """
    if not layout.rows:
        raise NoDataError("the data have no rows to show. Give other data, or none.")
    blocks = _spread(layout, most_rows, few_blocks)
    ends = np.cumsum([block.rows for block in blocks])
    total = int(ends[-1])
    drawn = distinct_rows(total, min(most_rows, total), 0, "report")
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


def _spread(layout: Layout, most_rows: int, few_blocks: int) -> tuple[Block, ...]:
    """Return enough blocks for a sample, evenly spread over the data."""
    n_blocks = len(layout.blocks)
    wanted = max(few_blocks, -(-most_rows * n_blocks // layout.rows))
    places = np.linspace(0, n_blocks - 1, min(wanted, n_blocks)).round().astype(int)
    return tuple(layout.blocks[place] for place in places)


def check_column(source: Source, layout: Layout, column: str) -> None:
    """Raise ConfigError unless the data have this column beside their vectors."""
    if layout.blocks:
        _values(source, layout.blocks[0], column)


def show_rows(
    source: Source, sample: Sample, column: str, numbers: Sequence[int]
) -> Mapping[int, Shown]:
    """Return the text or image of each of these rows of a sample, by the row's number."""
    found: dict[int, Shown] = {}
    for block in sample.blocks:
        here = [number for number in numbers if 0 <= number - block.first < block.rows]
        if here:
            values = _values(source, block, column).take([each - block.first for each in here])
            pairs = zip(here, values.to_pylist(), strict=True)
            found |= {number: _text_or_image(value, f"row {number:,}") for number, value in pairs}
    return found


def _values(source: Source, block: Block, column: str) -> Any:
    """Return a column of a block as an Arrow array; ConfigError if there is none."""
    try:
        return source.columns_of(block, [column])[column]
    except (ConfigError, DataError) as error:
        raise ConfigError(f"show={column!r}: {error}") from None


def _text_or_image(value: Any, alt: str) -> Shown:
    """Return what the page shows of a value."""
    if isinstance(value, bytes):
        return _image(value, alt)
    text = "" if value is None else str(value)
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}…"


def _image(content: bytes, alt: str) -> Shown:
    """Return an image; a text with its size if it is too large, or of an unknown type."""
    kind = next((kind for start, kind in IMAGES.items() if content.startswith(start)), None)
    if kind is None:
        return format_bytes(len(content))
    if len(content) > LARGEST_IMAGE_BYTES:
        return f"{kind}, {format_bytes(len(content))}"
    return Image(f"data:{kind};base64,{base64.b64encode(content).decode()}", alt)
