"""Vector instructions for narrow rows: up to 32 columns of float32, one lane a row of the data."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ray_kmeans.kernels.llvm.vectors import (
    FLOAT,
    FLOATS,
    I32,
    I64,
    INTS,
    LANES,
    call_llvm,
    least,
    load,
    load_pair,
    splat,
    step,
    store_pair,
)

FLOAT_COLUMNS = 32
"""Largest number of columns that these loops take."""
CENTERS_AT_ONCE = 2
"""Number of which the centers of a search must be a multiple."""
LINE = 128
"""Bytes of a column of 32 rows, and of the 32 columns of a center."""

_MASK = ir.VectorType(ir.IntType(1), LANES)
"""LLVM's type of a vector of truth values."""


@intrinsic
def transpose(
    typing: Any, rows: Any, d: Any, first: Any, scale: Any, g: Any, columns: Any, squares: Any
) -> Any:
    """Write columns `first` to `first` + 15 of 16 rows as `columns`, times scale and less g.

    The rows follow each other, of `d` float32 each; where these end, so does g, in zeros, and zeros
    are written. `columns`: 128 bytes from one to the next. The squares are added to `squares`.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        rows, d, first, scale, g, columns, squares = arguments
        lines = _rows(builder, rows, d, first)
        # 16 rows of 16 columns become 16 columns of 16 rows in four rounds of swaps.
        for apart in (8, 4, 2, 1):
            lines = _swap(builder, lines, apart)
        factor = splat(builder, scale)
        total = load(builder, squares, FLOATS)
        for column, values in enumerate(lines):
            place = builder.add(first, ir.Constant(I64, column))
            less = builder.fneg(splat(builder, load(builder, step(builder, g, place, 4), FLOAT)))
            values = call_llvm(builder, "llvm.fma.v16f32", FLOATS, [values, factor, less])
            total = call_llvm(builder, "llvm.fma.v16f32", FLOATS, [values, values, total])
            store_pair(builder, [values], step(builder, columns, place, LINE))
        store_pair(builder, [total], squares)
        return context.get_dummy_value()

    integers = [types.int64] * 3
    return types.void(*integers, types.float32, *integers), generate


def _rows(builder: Any, rows: Any, d: Any, first: Any) -> list[Any]:
    """Load 16 columns of 16 rows; the values behind the end of a row are not touched."""
    left = builder.trunc(builder.sub(d, first), I32)
    mask = builder.icmp_signed("<", ir.Constant(INTS, list(range(LANES))), splat(builder, left))
    zeros, lines = ir.Constant(FLOATS, [0.0] * LANES), []
    for row in range(LANES):
        number = builder.add(builder.mul(d, ir.Constant(I64, row)), first)
        place = builder.inttoptr(step(builder, rows, number, 4), FLOATS.as_pointer())
        arguments = [place, ir.Constant(I32, 4), mask, zeros]
        lines.append(call_llvm(builder, "llvm.masked.load.v16f32.p0", FLOATS, arguments))
    return lines


def _swap(builder: Any, lines: list[Any], apart: int) -> list[Any]:
    """Swap the two blocks off the diagonal in squares of 2 x 2 blocks, each `width` lanes wide."""
    swapped = list(lines)
    for i in range(LANES):
        if not i & apart:
            a, b = lines[i], lines[i + apart]
            low = [lane if not lane & apart else LANES + (lane ^ apart) for lane in range(LANES)]
            high = [LANES + lane if lane & apart else lane ^ apart for lane in range(LANES)]
            swapped[i] = builder.shuffle_vector(a, b, ir.Constant(INTS, low))
            swapped[i + apart] = builder.shuffle_vector(a, b, ir.Constant(INTS, high))
    return swapped


@intrinsic
def nearest_two(
    typing: Any, columns: Any, d: Any, centers: Any, constants: Any, count: Any, found: Any
) -> Any:
    """Find the lowest two of the scores q_j + c_j . x for each of 32 rows x.

    `columns`: of the rows, d of them. `centers`: c, 128 bytes each. `constants`: q. `count`: of
    centers, a multiple of CENTERS_AT_ONCE. Written to `found`, (3, 32): lowest, second, and as
    int32 which center has the lowest, the first of equals.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        columns, d, centers, constants, count, found = arguments
        # As many scores as registers hold: 32 of 16 lanes each, or 16 of 8 lanes, of which the
        # lowest scores take 6. LLVM would keep others in memory.
        is_wide = "+avx512f" in context.codegen().magic_tuple()[2]
        sides: tuple[tuple[int, ...], ...] = ((0, 1),) if is_wide else ((0,), (1,))
        at_once = 8 if is_wide else 4
        for some in sides:
            at = ir.Constant(I64, 64 * some[0])
            _find_two(
                builder,
                [builder.add(columns, at), d, centers, constants, count],
                builder.add(found, at),
                len(some),
                at_once,
            )
        return context.get_dummy_value()

    return types.void(*[types.int64] * 6), generate


def _find_two(builder: Any, arguments: list[Any], found: Any, sides: int, at_once: int) -> None:
    """Emit the search of `nearest_two` for 16 times `sides` rows, `at_once` centers together.

    Of the centers that are left behind whole groups, CENTERS_AT_ONCE are taken together.
    """
    *data, count = arguments
    highest = ir.Constant(FLOATS, [3e38] * LANES)
    state = [
        [cgutils.alloca_once_value(builder, start) for _ in range(sides)]
        for start in (highest, highest, ir.Constant(INTS, [0] * LANES))
    ]
    whole = builder.and_(count, ir.Constant(I64, -at_once))
    for begin, end, group in (
        (ir.Constant(I64, 0), whole, at_once),
        (whole, count, CENTERS_AT_ONCE),
    ):
        step_size = ir.Constant(I64, group)
        with cgutils.for_range_slice(builder, begin, end, step_size, I64) as (first, _):
            for j, scores in enumerate(_scores(builder, data, first, sides, group)):
                number = builder.add(builder.trunc(first, I32), ir.Constant(I32, j))
                for side, score in enumerate(scores):
                    total = builder.load(score)
                    _take(builder, total, splat(builder, number), [at[side] for at in state])
    for rank, each in enumerate(state):
        place = builder.add(found, ir.Constant(I64, LINE * rank))
        store_pair(builder, [builder.load(at) for at in each], place)


def _scores(builder: Any, data: list[Any], first: Any, sides: int, group: int) -> list[list[Any]]:
    """Return where the scores of 16 times `sides` rows to a group of centers are."""
    columns, d, centers, constants = data
    scores = []
    for j in range(group):
        number = builder.add(first, ir.Constant(I64, j))
        start = splat(builder, load(builder, step(builder, constants, number, 4), FLOAT))
        scores.append([cgutils.alloca_once(builder, FLOATS) for _ in range(sides)])
        for score in scores[-1]:
            builder.store(start, score)
    with cgutils.for_range(builder, d) as loop:
        place = step(builder, columns, loop.index, LINE)
        rows = load_pair(builder, place, FLOATS)[:sides]
        center = step(builder, step(builder, centers, first, LINE), loop.index, 4)
        for each in scores:
            value = splat(builder, load(builder, center, FLOAT))
            for score, some in zip(each, rows, strict=True):
                operands = [some, value, builder.load(score)]
                builder.store(call_llvm(builder, "llvm.fma.v16f32", FLOATS, operands), score)
            center = builder.add(center, ir.Constant(I64, LINE))
    return scores


def _take(builder: Any, score: Any, number: Any, places: list[Any]) -> None:
    """Take a score into the lowest two; one that is not a number makes these equal."""
    lowest, second, nearest = (builder.load(place) for place in places)
    is_lower = builder.fcmp_ordered("<", score, lowest)
    rival = builder.select(builder.fcmp_ordered(">", score, lowest), score, lowest)
    builder.store(least(builder, rival, second), places[1])
    builder.store(builder.select(is_lower, score, lowest), places[0])
    builder.store(builder.select(is_lower, number, nearest), places[2])
