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
CENTERS_AT_ONCE = 8
"""Centers whose scores with 32 rows are kept in registers."""
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
    centers, a multiple of 8. Written to `found`, (3, 32): lowest, second, and as int32 which center
    has the lowest, the first of equals.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        columns, d, centers, constants, count, found = arguments
        highest = ir.Constant(FLOATS, [3e38] * LANES)
        state = [
            [cgutils.alloca_once_value(builder, start) for _ in (0, 1)]
            for start in (highest, highest, ir.Constant(INTS, [0] * LANES))
        ]
        at_once = ir.Constant(I64, CENTERS_AT_ONCE)
        with cgutils.for_range_slice(builder, ir.Constant(I64, 0), count, at_once, I64) as (
            first,
            _,
        ):
            each = _scores(
                builder, columns, d, step(builder, centers, first, LINE), constants, first
            )
            for j, pair in enumerate(each):
                number = builder.add(builder.trunc(first, I32), ir.Constant(I32, j))
                for side, score in enumerate(pair):
                    total = builder.load(score)
                    _take(builder, total, splat(builder, number), [at[side] for at in state])
        for rank, pair in enumerate(state):
            place = builder.add(found, ir.Constant(I64, LINE * rank))
            store_pair(builder, [builder.load(each) for each in pair], place)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 6), generate


def _scores(
    builder: Any, columns: Any, d: Any, centers: Any, constants: Any, first: Any
) -> list[list[Any]]:
    """Return where the scores of 32 rows to 8 centers are."""
    scores = []
    for j in range(CENTERS_AT_ONCE):
        number = builder.add(first, ir.Constant(I64, j))
        start = splat(builder, load(builder, step(builder, constants, number, 4), FLOAT))
        pair = [cgutils.alloca_once(builder, FLOATS) for _ in (0, 1)]
        for score in pair:
            builder.store(start, score)
        scores.append(pair)
    with cgutils.for_range(builder, d) as loop:
        halves = load_pair(builder, step(builder, columns, loop.index, LINE), FLOATS)
        center = step(builder, centers, loop.index, 4)
        for pair in scores:
            value = splat(builder, load(builder, center, FLOAT))
            for score, half in zip(pair, halves, strict=True):
                operands = [half, value, builder.load(score)]
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
