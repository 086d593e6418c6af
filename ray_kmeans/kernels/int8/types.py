"""Records that compiled loops work on: rows, centers, and the scratch memory of one thread.

The loops allocate nothing and find their memory in a `Scratch`: numba would count who refers to
each new array, in every call and slice. No loop checks a bound, so two arrays that change places
would corrupt memory silently. Therefore every record is built by keyword, which
tests/kernels/test_kernel_records.py holds, and arrays that belong together share one record.

Words: a *block* is 32 rows; a *slot* is the place of a row in the order of the sweep; a *panel of
rows* is up to 8 blocks that are scored together; a *chunk of centers* is 32 of them, a *panel of
centers* 256. A *group* of rows shares a reference; a *part* is a run of blocks of one group.

Letters in the shapes: n rows, k centers, d columns, `columns` (d up to whole chunks of 64), `quads`
(bytes of a row in fours), `room` (k up to whole chunks of 32).

Arguments that many loops share, and that they do not explain again:

    unit       Amx or Vnni     IN     what multiplies bytes, see `llvm.int8_products`
    sweep      Sweep           INOUT  rows, slots and centers of the sweep; changes and counts
    rows       Rows            IN     where the rows are
    slots      Slots           INOUT  labels and bounds in the order of the sweep
    parts      Parts           INOUT  the runs of blocks that share a reference
    quantized  QuantizedRows   IN     the rows in bytes
    target     Target          IN     the centers
    part       PartCenters     IN     how the centers of the part at hand are quantized
    scratch    Scratch         INOUT  memory of this thread
    g          (columns,)      IN     float32, the reference of the part at hand, scaled
    n_kept     int             IN     how many centers pruning keeps: places in `scratch.centers`
    padded     int             IN     n_kept up to whole chunks of 32
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from ray_kmeans.kernels import F32, F64, I8, I32, I64
from ray_kmeans.kernels.llvm.float_vectors import FLOAT_COLUMNS
from ray_kmeans.kernels.llvm.int8_products import BLOCK_ROWS, CHUNK_CENTERS
from ray_kmeans.kernels.llvm.vectors import LANES, PANEL_ROWS, SUMS_BYTES
from ray_kmeans.process.jit import njit

HINT_ROWS = 256
"""Every how many rows `Rows.hints` holds a block number."""
NONE_LEFT_OUT: I32 = np.empty(0, np.int32)
"""The value of `Target.left_out` where a row may get any center."""
PANEL_BLOCKS = PANEL_ROWS // BLOCK_ROWS
"""Blocks of 32 rows in one panel of rows."""

bare = njit(nogil=True, _nrt=False, error_model="numpy")
"""Compile a loop that allocates nothing and divides as NumPy does: LLVM can vectorize it."""
bare_sum = njit(nogil=True, _nrt=False, error_model="numpy", fastmath={"reassoc", "contract"})
"""Compile as `bare`, and let LLVM reorder sums: only for sums with a bound for any order."""


@bare
def zero() -> int:
    """Return 0 to count from; for a 0 in the code, numba would compile a caller twice."""
    return np.int64(0)  # type: ignore[return-value]


@bare
def start_of(array: Any) -> int:
    """Return the address of an array as int64, as numba adds int64 to uint64 in floats."""
    return np.int64(array.ctypes.data)  # type: ignore[return-value]


class Rows(NamedTuple):
    """Rows in blocks, wherever these are in memory."""

    addresses: I64
    """(blocks,) address of the first row of each block."""
    firsts: I64
    """(blocks + 1,) number of the first row of each block, then the number of all rows."""
    hints: I64
    """(ceil(n / 256),) the block that holds row 256 i: where a search for a row begins."""

    @classmethod
    def of(cls, blocks: Sequence[F32]) -> Rows:
        """Return where these blocks (n_i, d) are; they must outlive the result."""
        addresses = np.array([block.ctypes.data for block in blocks], np.int64)
        firsts = np.cumsum([0, *(len(block) for block in blocks)])
        hints = np.searchsorted(firsts, np.arange(0, firsts[-1], HINT_ROWS), side="right") - 1
        return cls(addresses=addresses, firsts=firsts, hints=hints)


class QuantizedRows(NamedTuple):
    """The rows, quantized to one byte a column around references, slot by slot."""

    packed: I32
    """(blocks, quads, 32) the bytes, four columns in each int32."""
    weights: F32
    """(slots,) -2 times the step of each row."""
    errors: F32
    """(slots,) upper bound of |r - r'|, what quantizing changed; infinite for rows too far away."""
    sizes: F32
    """(slots,) |r'|, the length of the quantized row, rounded up."""
    references: F32
    """(groups, columns) the references, times the scale."""


class FloatRows(NamedTuple):
    """The rows as float32 relative to references: of few columns, they take no more than bytes."""

    columns: F32
    """(blocks, d, 32) the rows times the scale, less their reference; without blocks where rows
    are read from where they are."""
    references: F32
    """(groups, columns) the references, times the scale."""


class Parts(NamedTuple):
    """Runs of blocks that share a reference."""

    spans: I32
    """(parts, 3) group, first block, block after the last one."""
    radii: F32
    """(parts,) upper bound of how far a row of the part is from its reference."""
    moves: F32
    """(parts,) sum over the sweeps of the longest way of a center near the part."""


class Target(NamedTuple):
    """The centers that rows are assigned to."""

    centers: F32
    """(k, d) as given."""
    scaled: F32
    """(k, columns) times the scale; zeros beyond column d."""
    scale: np.float32
    """Power of two that brings the spread of the centers near 1."""
    cosine: bool
    """Whether the score is -2 x.c, and not |x - c|^2."""
    moves: F32
    """(k,) how far each center has come since bounds are kept, rounded up."""
    step: F32
    """(k,) how far each center has come since the last sweep, rounded up."""
    safe_gap: np.float32
    """What is taken off every bound, for scores that are not quite squared distances."""
    left_out: I32
    """(slots,) the center that each row must not get; empty where it may get any."""


class CenterTerms(NamedTuple):
    """The terms of the scores of all centers around one reference; each (k,), see `quantize`."""

    largest: F32
    """Largest magnitude |e_l| of a column."""
    norms: F32
    """E, an upper bound of |e|."""
    constants: F32
    """q, the part of the score that does not depend on the row."""
    slacks: F32
    """a, an upper bound of the error of q."""


class CenterPanel(NamedTuple):
    """The centers that pruning keeps for a part, quantized; place i holds center `numbers[i]`."""

    numbers: I32
    """(k,) the number of each kept center."""
    first_bytes: I8
    """(room / 16, chunks, 16, 64) the first bytes, in tiles of 16 centers by 64 columns."""
    second_bytes: I8
    """(room / 16, chunks, 16, 64) the second bytes, in the same tiles."""
    first_offsets: I32
    """(room,) -128 times the sum of the first bytes, at which VNNI's sums begin."""
    second_offsets: I32
    """(room,) -128 times the sum of the second bytes."""
    steps: F32
    """(room,) t, what one unit of a first byte stands for."""
    lows: F32
    """(room,) q - a, where the constant part of the interval begins."""
    norms: F32
    """(room,) E, an upper bound of |e|."""
    slacks: F32
    """(room,) 2 a, the width of the constant part of the interval."""


class RowPanel(NamedTuple):
    """Up to 256 rows that are scored together, and what the scores say of them."""

    weights: F32
    """(256,) -2 w, w being what one unit of a byte of the row stands for."""
    reaches: F32
    """(256,) -R, what the interval grows by downwards for each unit of E."""
    radii: F32
    """(256,) an upper bound of |r|."""
    panel_lowest: F32
    """(3, 256) the lowest scores among the centers of one panel; the last bits name the center."""
    lowest: F32
    """(3, 256) the lowest scores among all panels so far."""
    best: I32
    """(3, 256) the places in `CenterPanel` of the two lowest scores; line 2 is not maintained."""
    uppers: F32
    """(256,) an upper bound of the true score of the best center."""
    bounds: F32
    """(256,) how far centers may come, in all, before the label can change; or `UNDECIDED`."""
    labels: I32
    """(256,) the number of the center with the lowest score."""
    undecided: I32
    """(256,) the rows of this panel that one byte leaves undecided."""
    unresolved: I32
    """(256,) the rows of this panel that two bytes leave undecided too."""
    first_bytes: I32
    """(8, quads, 32) the first bytes of rows that are quantized to two, four in each int32."""
    second_bytes: I32
    """(8, quads, 32) the second bytes of these rows."""


class ExactBlock(NamedTuple):
    """Up to 32 rows whose candidates are compared exactly."""

    bytes: I32
    """(2, quads, 32) first and second bytes of these rows."""
    factors: F32
    """(3, 32) of each row -2 w, -R, and the highest score that a candidate may begin at."""
    scores: F64
    """(32, 2) the float64 score of the best center so far, and the bound of its error."""
    counts: I32
    """(32,) how many candidates each row has been compared with."""


class FloatBlock(NamedTuple):
    """Up to 32 rows of few columns, and all centers, as float32."""

    columns: F32
    """(32, 32) the rows relative to the reference, one line for each column."""
    copied: F32
    """(32 * 32,) rows that do not follow each other in memory, copied side by side."""
    squares: F32
    """(32,) |r|^2."""
    found: F32
    """(3, 32) lowest score, second-lowest score; line 2 is the memory of `nearest`."""
    nearest: I32
    """(32,) the center with the lowest score: line 2 of `found`, as int32."""
    centers: F32
    """(room, 32) -2 e; without lines where rows have too many columns for this way."""
    constants: F32
    """(room,) q."""
    transposed: F32
    """(PACKED_COLUMNS, room) the first columns of the scaled centers, one line each."""
    lanes: F32
    """(16,) the least so far in each lane of a vector."""


class Vector(NamedTuple):
    """One row or center relative to a reference, and its bytes."""

    values: F32
    """(columns,) r or e; zeros beyond column d."""
    bits: I32
    """(columns,) the memory of `values`, as int32."""
    first_bytes: I8
    """(columns,) the first byte of each column."""
    first_words: I32
    """(columns / 4,) the memory of `first_bytes`, as int32."""
    second_bytes: I8
    """(columns,) the second byte of each column."""
    second_words: I32
    """(columns / 4,) the memory of `second_bytes`, as int32."""


class Slots(NamedTuple):
    """Rows in the order in which they are swept; each group fills whole blocks of 32 slots."""

    order: I32
    """(slots,) number of the row in the shard; -1 where there is none."""
    labels: I32
    """(slots,) the center of each row."""
    bounds: F32
    """(slots,) how far centers may have come, in all, before the label can change."""

    @classmethod
    def empty(cls, count: int) -> Slots:
        """Return slots without rows."""
        return cls(
            order=np.full(count, -1, np.int32),
            labels=np.zeros(count, np.int32),
            bounds=np.full(count, np.inf, np.float32),
        )

    @classmethod
    def of_rows(cls, rows: int) -> Slots:
        """Return all rows as one group, in their own order, all undecided."""
        slots = cls.empty(-(-rows // BLOCK_ROWS) * BLOCK_ROWS)
        slots.order[:rows] = np.arange(rows)
        slots.bounds[:rows] = -np.inf
        return slots


N_CHANGED = 0
"""Place in `Sweep.tally` of the number of rows with a new label."""
N_DEFERRED = 1
"""Place in `Sweep.tally` of the number of rows whose label the caller must find."""
N_UNDECIDED = 2
"""Place in `Sweep.tally` of the number of rows that one byte leaves undecided."""
N_REFINED = 3
"""Place in `Sweep.tally` of the number of rows that are refined by two bytes."""
N_SCORED = 4
"""Place in `Sweep.tally` of the number of rows that are scored."""
N_ACTIVE = 5
"""Place in `Sweep.tally` of the number of active rows, whose label might change."""
PACKED_COLUMNS = 4
"""Up to this many columns, rows relative to references take no more memory as float32 than as bytes
with their factors."""
N_OPEN = 6
"""Place in `Sweep.tally` of the number of scores that a prefix does not spare."""
FEW_CENTERS = 32
"""Up to this many kept centers, rows that one byte leaves undecided are scored in float32."""
TALLIES = 7
"""How many counts `Sweep.tally` has."""


class Sweep(NamedTuple):
    """What one piece of work of a sweep reads and writes."""

    rows: Rows
    """Where the rows of the shard are."""
    slots: Slots
    """The slots of the shard; a piece of work writes those of its own parts."""
    target: Target
    """The centers."""
    changed: I32
    """(slots of the piece,) from its begin on the slots whose label is new, and from its end on the
    deferred ones, whose label the caller must find. A slot is at most one of both, so they fit."""
    tally: I64
    """(7,) counts of rows and scores, at the places `N_CHANGED` to `N_OPEN`."""

    @property
    def new_slots(self) -> I32:
        """The slots whose label is new."""
        return self.changed[: self.tally[N_CHANGED]]

    @property
    def deferred_slots(self) -> I32:
        """The slots whose label the caller must find."""
        return self.changed[len(self.changed) - self.tally[N_DEFERRED] :]


class Margin(NamedTuple):
    """What the bounds of the rows of a part are counted with, see `sweep.update_margin`."""

    most: np.float32
    """The largest bound that a row of the part may get."""
    moves: np.float32
    """How far centers near the part have come, in all."""


class PartCenters(NamedTuple):
    """How the centers of one part are quantized, and what its bounds may be."""

    reference: F32
    """(columns,) g, the reference of the part."""
    n_kept: int
    """How many centers pruning kept."""
    padded: int
    """The same, up to whole chunks of 32 centers."""
    others: np.float32
    """Where the scores of the centers begin that were not kept."""
    shift: float
    """|g|^2 - s^2, s being the scale: a term of all scores by cosine."""
    theta: np.float32
    """max |e - e'| / |e| over the kept centers, by one byte."""
    margin: Margin
    """What the bounds of the rows of the part are counted with."""


class Scratch(NamedTuple):
    """The memory of one thread while it sweeps; no value in it outlives a sweep."""

    active_blocks: I32
    """(blocks,) the blocks of a part with a row whose label may change."""
    active: I32
    """(32 * blocks,) the slots of a part whose label may change."""
    undecided: I32
    """(32 * blocks,) the slots of a part that one byte leaves undecided."""
    products: I32
    """(3, SUMS_BYTES / 4) three chunks of byte products, each (32 centers, 32 rows)."""
    terms: CenterTerms
    """The terms of all centers around the reference of the part at hand."""
    centers: CenterPanel
    """The quantized centers of the part at hand."""
    rows: RowPanel
    """The rows that are scored together."""
    exact: ExactBlock
    """The rows whose candidates are compared exactly."""
    floats: FloatBlock
    """What the sweep for few columns takes instead of `centers` and `rows`."""
    vector: Vector
    """The row or center that is quantized."""
    residuals: F32
    """(up to FEW_CENTERS, columns) e of the kept centers, where these are few."""

    @classmethod
    def of(cls, k: int, d: int, quads: int, blocks: int) -> Scratch:
        """Return memory for k centers of d columns and parts of at most `blocks` blocks."""
        chunks = -(-d // 64)
        room = -(-k // CHUNK_CENTERS) * CHUNK_CENTERS
        return cls(
            active_blocks=np.empty(blocks, np.int32),
            active=np.empty(blocks * BLOCK_ROWS, np.int32),
            undecided=np.empty(blocks * BLOCK_ROWS, np.int32),
            products=np.empty((3, SUMS_BYTES // 4), np.int32),
            terms=_center_terms(k),
            centers=_center_panel(k, chunks, room),
            rows=_row_panel(quads),
            exact=_exact_block(quads),
            floats=_float_block(room if d <= FLOAT_COLUMNS else 0, room),
            vector=_vector(64 * chunks),
            residuals=np.zeros((min(k, FEW_CENTERS), 64 * chunks), np.float32),
        )


def _center_terms(k: int) -> CenterTerms:
    """Return memory for the terms of k centers."""
    return CenterTerms(
        largest=np.empty(k, np.float32),
        norms=np.empty(k, np.float32),
        constants=np.empty(k, np.float32),
        slacks=np.empty(k, np.float32),
    )


def _center_panel(k: int, chunks: int, room: int) -> CenterPanel:
    """Return memory for k quantized centers."""
    tiles = room // 16, chunks, 16, 64
    return CenterPanel(
        numbers=np.empty(k, np.int32),
        first_bytes=np.empty(tiles, np.int8),
        second_bytes=np.empty(tiles, np.int8),
        first_offsets=np.empty(room, np.int32),
        second_offsets=np.empty(room, np.int32),
        steps=np.empty(room, np.float32),
        lows=np.empty(room, np.float32),
        norms=np.empty(room, np.float32),
        slacks=np.empty(room, np.float32),
    )


def _row_panel(quads: int) -> RowPanel:
    """Return memory for a panel of rows."""
    return RowPanel(
        weights=np.empty(PANEL_ROWS, np.float32),
        reaches=np.empty(PANEL_ROWS, np.float32),
        radii=np.empty(PANEL_ROWS, np.float32),
        panel_lowest=np.empty((3, PANEL_ROWS), np.float32),
        lowest=np.empty((3, PANEL_ROWS), np.float32),
        best=np.empty((3, PANEL_ROWS), np.int32),
        uppers=np.empty(PANEL_ROWS, np.float32),
        bounds=np.empty(PANEL_ROWS, np.float32),
        labels=np.empty(PANEL_ROWS, np.int32),
        undecided=np.empty(PANEL_ROWS, np.int32),
        unresolved=np.empty(PANEL_ROWS, np.int32),
        first_bytes=np.zeros((PANEL_BLOCKS, quads, BLOCK_ROWS), np.int32),
        second_bytes=np.zeros((PANEL_BLOCKS, quads, BLOCK_ROWS), np.int32),
    )


def _exact_block(quads: int) -> ExactBlock:
    """Return memory for 32 rows that are compared exactly."""
    return ExactBlock(
        bytes=np.zeros((2, quads, BLOCK_ROWS), np.int32),
        factors=np.zeros((3, BLOCK_ROWS), np.float32),
        scores=np.empty((BLOCK_ROWS, 2)),
        counts=np.zeros(BLOCK_ROWS, np.int32),
    )


def _float_block(lines: int, room: int) -> FloatBlock:
    """Return memory for 32 rows and `lines` centers of few columns."""
    found = np.zeros((3, BLOCK_ROWS), np.float32)
    return FloatBlock(
        columns=np.empty((FLOAT_COLUMNS, BLOCK_ROWS), np.float32),
        copied=np.zeros(FLOAT_COLUMNS * BLOCK_ROWS, np.float32),
        squares=np.empty(BLOCK_ROWS, np.float32),
        found=found,
        nearest=found[2].view(np.int32),
        centers=np.empty((lines, FLOAT_COLUMNS), np.float32),
        constants=np.empty(room, np.float32),
        transposed=np.empty((PACKED_COLUMNS, lines), np.float32),
        lanes=np.empty(LANES, np.float32),
    )


def _vector(columns: int) -> Vector:
    """Return memory for one row or center; its views share memory."""
    values = np.zeros(columns, np.float32)
    first, second = np.zeros(columns, np.int8), np.zeros(columns, np.int8)
    return Vector(
        values=values,
        bits=values.view(np.int32),
        first_bytes=first,
        first_words=first.view(np.int32),
        second_bytes=second,
        second_words=second.view(np.int32),
    )


class ScratchPool:
    """The scratch memory of several threads, for centers of one shape at a time.

    Threads share a pool without a lock. No loop checks a bound, so scratch of a wrong shape would
    corrupt memory; this is why it is never lent:

    - The shape and the list of what is free are one attribute, read and replaced at once. A thread
      never sees the list of one shape under the name of another.
    - A thread that comes with another shape puts an empty list in its place; two that do so at once
      make two lists, and the one that is replaced is freed with what is returned to it.
    - Scratch goes back to the list that it was lent from, so it can only meet its own shape.
    - `list.pop` and `list.append` are atomic, so nothing is lent twice at once. A thread that finds
      an empty list makes new scratch.
    """

    def __init__(self) -> None:
        self._free: tuple[tuple[int, ...], list[Scratch]] = (), []

    @contextmanager
    def lend(self, *shape: int) -> Iterator[Scratch]:
        """Lend memory for these arguments of `Scratch.of`, which no other thread has meanwhile."""
        of_shape, free = self._free
        if shape != of_shape:
            free = []
            self._free = shape, free
        try:
            scratch = free.pop()
        except IndexError:
            scratch = Scratch.of(*shape)
        yield scratch
        free.append(scratch)


def pad_columns(matrix: F32) -> F32:
    """Return a matrix (n, d) with columns of zeros added, up to whole chunks of 64."""
    rows, d = matrix.shape
    result = np.zeros((rows, 64 * -(-d // 64)), np.float32)
    result[:, :d] = matrix
    return result


def quads_for(d: int) -> int:
    """Return the bytes of a quantized row, in fours: whole tiles where there is more than one."""
    return -(-d // 4) if d <= 64 else 16 * -(-d // 64)
