"""What a pass works on, as tuples that compiled code takes: rows, centers, and memory of a thread.

The loops allocate nothing: numba would count who refers to each array, in every call and slice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.kernels.llvm.avx512 import SLAB, SUMS_BYTES
from ray_kmeans.kernels.llvm.avx512_float import FLOAT_COLUMNS
from ray_kmeans.kernels.llvm.int8_products import BLOCK_ROWS, CHUNK_CENTERS
from ray_kmeans.process.jit import njit

HINT_ROWS = 256
NONE_LEFT_OUT: NDArray[np.int32] = np.empty(0, np.int32)
SLAB_BLOCKS = SLAB // BLOCK_ROWS

Floats: TypeAlias = NDArray[np.float32]
Ints: TypeAlias = NDArray[np.int32]
Bytes: TypeAlias = NDArray[np.int8]

bare = njit(nogil=True, _nrt=False, error_model="numpy")
"""Compile a loop that allocates nothing, and divides unasked: LLVM can make vectors of such."""
bare_sum = njit(nogil=True, _nrt=False, error_model="numpy", fastmath={"reassoc", "contract"})
"""The same; its sums are bounded for any order of their terms."""


class Rows(NamedTuple):
    """Rows in blocks, wherever these are in memory."""

    addresses: NDArray[np.int64]
    """(blocks,)"""
    firsts: NDArray[np.int64]
    """(blocks + 1,) number of the first row of each block, and how many there are."""
    hints: NDArray[np.int64]
    """The block of every 256th row."""

    @classmethod
    def of(cls, blocks: Sequence[Floats]) -> Rows:
        addresses = np.array([block.ctypes.data for block in blocks], np.int64)
        firsts = np.cumsum([0, *(len(block) for block in blocks)])
        hints = np.searchsorted(firsts, np.arange(0, firsts[-1], HINT_ROWS), side="right") - 1
        return cls(addresses, firsts, hints)


class Coarse(NamedTuple):
    """The rows in bytes around references, slot by slot."""

    packed: Ints
    """(blocks, quads, 32) four bytes each."""
    weights: Floats
    errors: Floats
    sizes: Floats
    """(slots,) -2 steps, |r - r'|, |r'|."""
    references: Floats
    """(groups, columns) scaled."""


class Parts(NamedTuple):
    """Runs of blocks that share a reference."""

    spans: Ints
    """(parts, 3) group, first block, last block."""
    radii: Floats
    """(parts,) how far a row is from the reference at most."""
    moves: Floats
    """(parts,) how far centers near the part have come, step by step the one that went farthest."""


class Target(NamedTuple):
    """The centers that rows are assigned to."""

    centers: Floats
    """(k, d)"""
    scaled: Floats
    """(k, columns) times the scale, with zeros up to whole chunks of 64 columns."""
    scale: np.float32
    cosine: bool
    moves: Floats
    """(k,) how far each center has come since bounds are kept, rounded up."""
    step: Floats
    """(k,) how far of that since the last pass."""
    safe_gap: np.float32
    """What a bound must be lower by, where scores are not quite squared distances."""
    left_out: Ints
    """(slots,) the center that each row does not get; empty where it may be any."""


class Space(NamedTuple):
    """Memory of one thread, for k centers of d columns and a part of so many blocks."""

    live: Ints
    kept: Ints
    largest: Floats
    all_norms: Floats
    constants: Floats
    all_slacks: Floats
    """(k,) of all centers around a reference: largest |e_l|, E, q, a."""
    panel: Bytes
    second_panel: Bytes
    """(tiles, chunks, 16, 64) first and second bytes of the kept centers."""
    offsets: Ints
    second_offsets: Ints
    steps: Floats
    lows: Floats
    norms: Floats
    slacks: Floats
    """Of the kept centers: -128 times the sum of the bytes, t, q - a, E, 2 a."""
    weights: Floats
    reaches: Floats
    radii: Floats
    """(256,) of the rows of a slab: -2 w, -R, a bound of |r|."""
    panel_lowest: Floats
    lowest: Floats
    """(3, 256) the lowest scores: of some centers, with their numbers, and of all."""
    best: Ints
    """(3, 256) which of the kept centers have the lowest two; the third is not kept up."""
    uppers: Floats
    bounds: Floats
    labels: Ints
    chosen: Ints
    left: Ints
    sums: Ints
    """Three chunks of products, each (32, 32)."""
    opened: Ints
    packed: Ints
    second_packed: Ints
    """(8, quads, 32) rows that are open, rounded to two bytes each."""
    columns: Floats
    stray: Floats
    squares: Floats
    found: Floats
    nearest: Ints
    float_panel: Floats
    float_constants: Floats
    """Of 32 rows of few columns, as float32: column by column (32, 32); row by row; |r|^2; the two
    lowest scores and, with the same memory as int32, the nearest center (3, 32). Of all centers:
    -2 e (room, 32), q."""
    copies: Ints
    copied: Floats
    scores: NDArray[np.float64]
    counts: Ints
    """Of 32 rows: both bytes; -2 w, -R and the highest score possible; scores; candidates."""
    vector: Floats
    bits: Ints
    first_bytes: Bytes
    words: Ints
    second_bytes: Bytes
    second_words: Ints
    """One row or center, and its bytes; each also as int32."""

    @classmethod
    def of(cls, k: int, d: int, quads: int, blocks: int) -> Space:
        chunks = -(-d // 64)
        room = -(-k // CHUNK_CENTERS) * CHUNK_CENTERS
        vector = np.zeros(64 * chunks, np.float32)
        found = np.zeros((3, BLOCK_ROWS), np.float32)
        both = np.zeros((2, 64 * chunks), np.int8)
        fields: list[Any] = [
            np.empty(blocks, np.int32),
            np.empty(k, np.int32),
            *np.empty((4, k), np.float32),
            *np.empty((2, room // 16, chunks, 16, 64), np.int8),
            *np.empty((2, room), np.int32),
            *np.empty((4, room), np.float32),
            *np.empty((3, SLAB), np.float32),
            *np.empty((2, 3, SLAB), np.float32),
            np.empty((3, SLAB), np.int32),
            *np.empty((2, SLAB), np.float32),
            *np.empty((3, SLAB), np.int32),
            np.empty((3, SUMS_BYTES // 4), np.int32),
            np.empty(blocks * BLOCK_ROWS, np.int32),
            *np.zeros((2, SLAB_BLOCKS, quads, BLOCK_ROWS), np.int32),
            np.empty((FLOAT_COLUMNS, BLOCK_ROWS), np.float32),
            np.zeros(FLOAT_COLUMNS * BLOCK_ROWS, np.float32),
            np.empty(BLOCK_ROWS, np.float32),
            found,
            found[2].view(np.int32),
            np.empty((room if d <= FLOAT_COLUMNS else 0, FLOAT_COLUMNS), np.float32),
            np.empty(room, np.float32),
            np.zeros((2, quads, BLOCK_ROWS), np.int32),
            np.zeros((3, BLOCK_ROWS), np.float32),
            np.empty((BLOCK_ROWS, 2)),
            np.zeros(BLOCK_ROWS, np.int32),
            vector,
            vector.view(np.int32),
            both[0],
            both[0].view(np.int32),
            both[1],
            both[1].view(np.int32),
        ]
        return cls(*fields)


class Spaces:
    """The memory of threads, for centers of one shape at a time."""

    def __init__(self) -> None:
        self._shape: tuple[int, ...] = ()
        self._free: list[Space] = []

    @contextmanager
    def one(self, *shape: int) -> Iterator[Space]:
        """Lend memory for these arguments of `Space.of`, which nobody else has meanwhile."""
        if shape != self._shape:
            self._shape, self._free = shape, []
        try:
            space = self._free.pop()
        except IndexError:
            space = Space.of(*shape)
        yield space
        if shape == self._shape:
            self._free.append(space)


def padded(matrix: Floats) -> Floats:
    """Return a matrix with columns of zeros added, up to whole chunks of 64."""
    rows, d = matrix.shape
    result = np.zeros((rows, 64 * -(-d // 64)), np.float32)
    result[:, :d] = matrix
    return result


def quads_for(d: int) -> int:
    """Return the bytes of a rounded row, in fours: whole tiles where there is more than one."""
    return -(-d // 4) if d <= 64 else 16 * -(-d // 64)
