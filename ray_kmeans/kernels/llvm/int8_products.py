"""Products of bytes: 32 rows by 32 centers, exact in int32, by what the processor has.

Loops call the instructions of a unit by address. So each loop is compiled once, whatever the unit,
and a unit of its own is a few lines of machine code; one call makes 32 x 32 x d products, beside
which its cost is nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import types
from numpy.typing import NDArray

from ray_kmeans.kernels.llvm import amx as tiles
from ray_kmeans.kernels.llvm import dot, vectors
from ray_kmeans.process.jit import address_of, njit

BLOCK_ROWS = 32
"""Rows of a block: two tiles, or some vectors."""
CHUNK_CENTERS = vectors.CHUNK_CENTERS
"""Centers that are multiplied at once."""
TILE_BYTES = 1024
"""Bytes of a tile: 16 lines of 64."""
CHUNK_COLUMNS = 64
"""Columns of a tile."""

_PRODUCTS = types.void(*[types.int64] * 5)
"""Signature of what makes products: see `multiply`."""
_ADDRESS = types.void(types.int64)
"""Signature of what begins, ends and stores: it takes one address."""


class Unit(NamedTuple):
    """What multiplies bytes, as loops take it: functions by their addresses."""

    shapes: NDArray[np.uint8]
    """(64,) Configuration of the tiles of AMX; of no use to others."""
    begin_at: int
    """Address of what makes the unit ready for a thread; it takes the address of `shapes`."""
    end_at: int
    """Address of what gives the unit back; it takes the same."""
    multiply_at: int
    """Address of what `multiply` calls."""
    multiply_exactly_at: int
    """Address of what `multiply_exactly` calls."""
    store_at: int
    """Address of what `store` calls."""
    largest_byte: np.float32
    """Largest magnitude of a byte of a center that `multiply` takes; of rows it is 127."""


@njit(nogil=True, _nrt=False)
def begin(unit: Unit) -> None:
    """Make the unit ready for this thread."""
    vectors.call_with_address(unit.begin_at, unit.shapes.ctypes.data)


@njit(nogil=True, _nrt=False)
def end(unit: Unit) -> None:
    """Give the unit back."""
    vectors.call_with_address(unit.end_at, unit.shapes.ctypes.data)


@njit(nogil=True, _nrt=False)
def multiply(unit: Unit, rows: int, quads: int, centers: int, offsets: int, sums: int) -> None:
    """Begin the products of 32 rows and 32 centers, (32, 32) int32: a line for each center.

    Addresses: `rows` (quads, 32, 4) int8; `centers` (2, chunks, 16, 64) int8; `offsets` (32,)
    int32, -128 times the sum of each center. They stand in `sums` after `store`; what is done
    between the two can go on at the same time.
    """
    vectors.call_with_products(unit.multiply_at, rows, quads, centers, offsets, sums)


@njit(nogil=True, _nrt=False)
def multiply_exactly(
    unit: Unit, rows: int, quads: int, centers: int, offsets: int, sums: int
) -> None:
    """Do as `multiply` does, for centers whose bytes may exceed `largest_byte` of the unit."""
    vectors.call_with_products(unit.multiply_exactly_at, rows, quads, centers, offsets, sums)


@njit(nogil=True, _nrt=False)
def store(unit: Unit, sums: int) -> None:
    """End the products begun last."""
    vectors.call_with_address(unit.store_at, sums)


def amx(quads: int) -> Unit:
    """Return AMX for rows of `quads` times four bytes: sums of 16 x 16 x 64 products at once."""
    last = min(quads, CHUNK_COLUMNS // 4)
    shapes = np.zeros(64, np.uint8)
    shapes[0] = 1
    for tile in range(8):
        shapes[16 + 2 * tile] = 4 * last if tile in (4, 5) else 64
        shapes[48 + tile] = last if tile in (6, 7) else 16
    multiply_at = address_of(_PRODUCTS, _by_tiles)
    return Unit(
        shapes=shapes,
        begin_at=address_of(_ADDRESS, _configure_tiles),
        end_at=address_of(_ADDRESS, _release_tiles),
        multiply_at=multiply_at,
        multiply_exactly_at=multiply_at,
        store_at=address_of(_ADDRESS, _store_tiles),
        largest_byte=np.float32(127),
    )


def vnni(quads: int) -> Unit:
    """Return AVX-512 VNNI: sums of four products in 16 lanes at once."""
    return _of_vectors(_by_avx512_vnni)


def avx_vnni(quads: int) -> Unit:
    """Return AVX-VNNI: sums of four products in 8 lanes at once."""
    return _of_vectors(_by_avx_vnni)


def avx2(quads: int) -> Unit:
    """Return AVX2: sums of two products in 16 lanes, of rows in 8 bits and centers in 7."""
    return _of_vectors(_by_avx2, _by_any, np.float32(64))


def arm_dot(quads: int) -> Unit:
    """Return the dot products of Arm: sums of four products in 4 lanes at once."""
    return _of_vectors(_by_arm_dot)


def arm_matrix(quads: int) -> Unit:
    """Return the matrix products of Arm: sums of eight products in 4 lanes at once."""
    return _of_vectors(_by_arm_matrix)


def plain(quads: int) -> Unit:
    """Return what LLVM makes of products of whole numbers, on any processor."""
    return _of_vectors(_by_any)


def _of_vectors(
    quick: Callable[..., None],
    exact: Callable[..., None] | None = None,
    largest_byte: Any = np.float32(127),  # noqa: B008 (immutable)
) -> Unit:
    """Return a unit of vectors, which needs no beginning and no end."""
    nothing, multiply_at = address_of(_ADDRESS, _do_nothing), address_of(_PRODUCTS, quick)
    return Unit(
        shapes=_no_shapes(),
        begin_at=nothing,
        end_at=nothing,
        multiply_at=multiply_at,
        multiply_exactly_at=address_of(_PRODUCTS, exact) if exact else multiply_at,
        store_at=nothing,
        largest_byte=largest_byte,
    )


@cache
def _no_shapes() -> NDArray[np.uint8]:
    """Return shapes for units without tiles."""
    return np.zeros(64, np.uint8)


def _do_nothing(address: int) -> None:
    """Begin, end or store where there is nothing to do."""


def _by_avx512_vnni(rows: int, quads: int, centers: int, offsets: int, sums: int) -> None:
    """Write the products of `multiply` by AVX-512 VNNI."""
    dot.avx512_vnni(rows, quads, centers, offsets, sums)


def _by_avx_vnni(rows: int, quads: int, centers: int, offsets: int, sums: int) -> None:
    """Write the products of `multiply` by AVX-VNNI."""
    dot.avx_vnni(rows, quads, centers, offsets, sums)


def _by_avx2(rows: int, quads: int, centers: int, offsets: int, sums: int) -> None:
    """Write the products of `multiply` by AVX2."""
    dot.avx2(rows, quads, centers, offsets, sums)


def _by_arm_dot(rows: int, quads: int, centers: int, offsets: int, sums: int) -> None:
    """Write the products of `multiply` by Arm's dot products."""
    dot.arm_dot(rows, quads, centers, offsets, sums)


def _by_arm_matrix(rows: int, quads: int, centers: int, offsets: int, sums: int) -> None:
    """Write the products of `multiply` by Arm's matrix products."""
    dot.arm_matrix(rows, quads, centers, offsets, sums)


def _by_any(rows: int, quads: int, centers: int, offsets: int, sums: int) -> None:
    """Write the products of `multiply` by what LLVM chooses."""
    dot.plain(rows, quads, centers, offsets, sums)


def _configure_tiles(shapes: int) -> None:
    """Set the shapes of this thread's tiles."""
    tiles.configure(shapes)


def _release_tiles(shapes: int) -> None:
    """Give the tiles back, so that the system need not save them when threads change."""
    tiles.release()


def _by_tiles(rows: int, quads: int, centers: int, offsets: int, sums: int) -> None:
    """Begin the products of `multiply` in the tiles 0 to 3; `_store_tiles` writes them."""
    chunks = (quads + 15) // 16
    tiles.zero_0()
    tiles.zero_1()
    tiles.zero_2()
    tiles.zero_3()
    # Each load stands right before the first product that needs it, so that loads and products
    # overlap: four products for four loads.
    for chunk in range(chunks):
        here = rows + chunk * 2 * TILE_BYTES
        center = centers + chunk * TILE_BYTES
        tiles.load_4(center, 64)
        tiles.load_6(here, 128)
        tiles.multiply_0()
        tiles.load_7(here + 64, 128)
        tiles.multiply_1()
        tiles.load_5(center + chunks * TILE_BYTES, 64)
        tiles.multiply_2()
        tiles.multiply_3()


def _store_tiles(sums: int) -> None:
    """Write the tiles 0 to 3, the quarters of (32, 32) int32, to an address."""
    tiles.store_0(sums, 128)
    tiles.store_1(sums + 64, 128)
    tiles.store_2(sums + 16 * 128, 128)
    tiles.store_3(sums + 16 * 128 + 64, 128)
