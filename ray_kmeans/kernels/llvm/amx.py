"""Matrix instructions as numba intrinsics: AMX, the tiles of Intel's processors.

Tiles are eight registers of 16 lines of 64 bytes, used as: 0-3 sums, 4-5 centers, 6-7 rows.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from ray_kmeans.kernels.llvm.vectors import BYTES, I8, call_llvm


def _tile(name: str, *tiles: int) -> Any:
    """Return an intrinsic without arguments that works on some tiles."""

    @intrinsic
    def instruction(typing: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            numbers = [ir.Constant(I8, tile) for tile in tiles]
            call_llvm(builder, f"llvm.x86.{name}", ir.VoidType(), numbers)
            return context.get_dummy_value()

        return types.void(), generate

    return instruction


def _tile_memory(name: str, tile: int) -> Any:
    """Return an intrinsic (address, bytes from line to line) that moves one tile."""

    @intrinsic
    def instruction(typing: Any, address: Any, stride: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            place = builder.inttoptr(arguments[0], BYTES)
            call_llvm(
                builder,
                f"llvm.x86.{name}",
                ir.VoidType(),
                [ir.Constant(I8, tile), place, arguments[1]],
            )
            return context.get_dummy_value()

        return types.void(types.int64, types.int64), generate

    return instruction


zero_0 = _tile("tilezero", 0)
"""Set the sums in tile 0 to zero."""
zero_1 = _tile("tilezero", 1)
"""Set the sums in tile 1 to zero."""
zero_2 = _tile("tilezero", 2)
"""Set the sums in tile 2 to zero."""
zero_3 = _tile("tilezero", 3)
"""Set the sums in tile 3 to zero."""
load_4 = _tile_memory("tileloadd64", 4)
"""Load centers into tile 4."""
load_5 = _tile_memory("tileloadd64", 5)
"""Load centers into tile 5."""
load_6 = _tile_memory("tileloadd64", 6)
"""Load rows into tile 6."""
load_7 = _tile_memory("tileloadd64", 7)
"""Load rows into tile 7."""
store_0 = _tile_memory("tilestored64", 0)
"""Store the sums in tile 0."""
store_1 = _tile_memory("tilestored64", 1)
"""Store the sums in tile 1."""
store_2 = _tile_memory("tilestored64", 2)
"""Store the sums in tile 2."""
store_3 = _tile_memory("tilestored64", 3)
"""Store the sums in tile 3."""
multiply_0 = _tile("tdpbssd", 0, 4, 6)
"""Add the products of tiles 4 and 6 to tile 0."""
multiply_1 = _tile("tdpbssd", 1, 4, 7)
"""Add the products of tiles 4 and 7 to tile 1."""
multiply_2 = _tile("tdpbssd", 2, 5, 6)
"""Add the products of tiles 5 and 6 to tile 2."""
multiply_3 = _tile("tdpbssd", 3, 5, 7)
"""Add the products of tiles 5 and 7 to tile 3."""
release = _tile("tilerelease")
"""Give all tiles back."""


@intrinsic
def configure(typing: Any, address: Any) -> Any:
    """Set the shapes of this thread's tiles from 64 bytes."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = builder.inttoptr(arguments[0], BYTES)
        call_llvm(builder, "llvm.x86.ldtilecfg", ir.VoidType(), [place])
        return context.get_dummy_value()

    return types.void(types.int64), generate
