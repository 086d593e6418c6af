"""Products of bytes: 32 rows by some centers, exact in int32, by what the processor has.

Which instructions are used follows from the type of the `unit` that is handed in, so that each is
compiled, and kept in numba's cache, on its own.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numba.extending import overload
from numpy.typing import NDArray

from ray_kmeans.kernels.llvm import amx as tiles
from ray_kmeans.kernels.llvm import avx512
from ray_kmeans.process.jit import njit

BLOCK_ROWS = 32
"""Rows of a block: two tiles, or two vectors."""
CHUNK_CENTERS = avx512.CHUNK_CENTERS
TILE_BYTES = 1024
"""Bytes of a tile: 16 lines of 64."""
CHUNK_COLUMNS = 64
"""Columns of a tile."""


class Amx(NamedTuple):
    """The matrix unit of Intel's processors since 2023: 16 x 16 sums of 64 products at once."""

    shapes: NDArray[np.uint8]
    """(64,) the configuration of the tiles."""


class Vnni(NamedTuple):
    """AVX-512 VNNI: 16 sums of 4 products at once."""

    quads: NDArray[np.int64]
    """(1,) columns of a row, in fours."""


Unit: TypeAlias = Amx | Vnni
"""What multiplies bytes: the type of this argument chooses the instructions."""


def amx(quads: int) -> Amx:
    """Return the unit for rows of `quads` times four bytes."""
    last = min(quads, CHUNK_COLUMNS // 4)
    shapes = np.zeros(64, np.uint8)
    shapes[0] = 1
    for tile in range(8):
        shapes[16 + 2 * tile] = 4 * last if tile in (4, 5) else 64
        shapes[48 + tile] = last if tile in (6, 7) else 16
    return Amx(shapes)


def vnni(quads: int) -> Vnni:
    """Return the unit for rows of `quads` times four bytes."""
    return Vnni(np.array([quads], np.int64))


def begin(unit: Unit) -> None:
    """Make the unit ready for this thread."""


def end(unit: Unit) -> None:
    """Give the unit back."""


def multiply(unit: Unit, rows: int, quads: int, centers: int, offsets: int, sums: int) -> None:
    """Begin the products of 32 rows and 32 centers, (32, 32) int32: a line for each center.

    Addresses: `rows` (quads, 32, 4) int8; `centers` (2, chunks, 16, 64) int8; `offsets` (32,)
    int32, -128 times the sum of each center. They stand in `sums` after `store`; what is done
    between the two can go on at the same time.
    """


def store(unit: Unit, sums: int) -> None:
    """End the products begun last."""


@overload(begin, strict=False)
def _begin(unit: Any) -> Any:
    """Choose what `begin` is compiled to, by the type of the unit."""
    if unit.instance_class is Amx:
        return lambda unit: tiles.configure(unit.shapes.ctypes.data)
    return lambda unit: None


@overload(end, strict=False)
def _end(unit: Any) -> Any:
    """Choose what `end` is compiled to."""
    # Released tiles need not be saved when the system gives the processor to another thread.
    if unit.instance_class is Amx:
        return lambda unit: tiles.release()
    return lambda unit: None


@overload(multiply, strict=False)
def _multiply(unit: Any, rows: Any, quads: Any, centers: Any, offsets: Any, sums: Any) -> Any:
    """Choose what `multiply` is compiled to."""
    if unit.instance_class is Amx:
        return lambda unit, rows, quads, centers, offsets, sums: _by_tiles(rows, quads, centers)
    return lambda unit, rows, quads, centers, offsets, sums: _by_vectors(
        rows, quads, centers, offsets, sums
    )


@overload(store, strict=False)
def _store(unit: Any, sums: Any) -> Any:
    """Choose what `store` is compiled to."""
    if unit.instance_class is Amx:
        return lambda unit, sums: _store_tiles(sums)
    return lambda unit, sums: None


@njit(nogil=True, _nrt=False)
def _by_tiles(rows: int, quads: int, centers: int) -> None:
    """Begin the products of `multiply` in the tiles 0 to 3; arguments as there."""
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


@njit(nogil=True, _nrt=False)
def _store_tiles(sums: int) -> None:
    """Write the tiles 0 to 3, the quarters of (32, 32) int32, to an address."""
    tiles.store_0(sums, 128)
    tiles.store_1(sums + 64, 128)
    tiles.store_2(sums + 16 * 128, 128)
    tiles.store_3(sums + 16 * 128 + 64, 128)


@njit(nogil=True, _nrt=False)
def _by_vectors(rows: int, quads: int, centers: int, offsets: int, sums: int) -> None:
    """Write the products of `multiply`; arguments as there."""
    chunks = (quads + 15) // 16
    for tile in range(2):
        for part in range(2):
            place = centers + tile * chunks * TILE_BYTES + part * 8 * 64
            first = 16 * tile + 8 * part
            avx512.multiply_bytes(rows, place, 64, quads, offsets + 4 * first, sums + 128 * first)
