"""Matrix instructions as numba intrinsics: AMX, the tiles of Intel's processors.

Tiles are eight registers of 16 lines of 64 bytes, used as: 0-3 sums, 4-5 centers, 6-7 rows.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from ray_kmeans.kernels.llvm.vectors import call_llvm

_I8 = ir.IntType(8)
_BYTES = _I8.as_pointer()


def _tile(name: str, *tiles: int) -> Any:
    """Return an intrinsic without arguments that works on some tiles."""

    @intrinsic
    def instruction(typing: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            numbers = [ir.Constant(_I8, tile) for tile in tiles]
            call_llvm(builder, f"llvm.x86.{name}", ir.VoidType(), numbers)
            return context.get_dummy_value()

        return types.void(), generate

    return instruction


def _tile_memory(name: str, tile: int) -> Any:
    """Return an intrinsic (address, bytes from line to line) that moves one tile."""

    @intrinsic
    def instruction(typing: Any, address: Any, stride: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            place = builder.inttoptr(arguments[0], _BYTES)
            call_llvm(
                builder,
                f"llvm.x86.{name}",
                ir.VoidType(),
                [ir.Constant(_I8, tile), place, arguments[1]],
            )
            return context.get_dummy_value()

        return types.void(types.int64, types.int64), generate

    return instruction


zero_0, zero_1, zero_2, zero_3 = (_tile("tilezero", tile) for tile in range(4))
load_4, load_5, load_6, load_7 = (_tile_memory("tileloadd64", tile) for tile in range(4, 8))
store_0, store_1, store_2, store_3 = (_tile_memory("tilestored64", tile) for tile in range(4))
multiply_0 = _tile("tdpbssd", 0, 4, 6)
multiply_1 = _tile("tdpbssd", 1, 4, 7)
multiply_2 = _tile("tdpbssd", 2, 5, 6)
multiply_3 = _tile("tdpbssd", 3, 5, 7)
release = _tile("tilerelease")


@intrinsic
def configure(typing: Any, address: Any) -> Any:
    """Set the shapes of this thread's tiles from 64 bytes."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = builder.inttoptr(arguments[0], _BYTES)
        call_llvm(builder, "llvm.x86.ldtilecfg", ir.VoidType(), [place])
        return context.get_dummy_value()

    return types.void(types.int64), generate
