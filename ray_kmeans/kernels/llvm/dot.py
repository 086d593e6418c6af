"""Products of 32 rows and 32 centers of signed bytes, by instructions that sum a few at once.

The loops are the same for all; `_Dot` says what differs. A row is a lane of 32 bits, which holds
four of its columns; a center is the same four columns in every lane. Only `smmla` of Arm takes
eight columns of two rows and of two centers, and has an inner loop of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ray_kmeans.kernels.llvm.vectors import (
    CHUNK_CENTERS,
    I8,
    I32,
    I64,
    call_llvm,
    load,
    step,
    store,
)

_I16 = ir.IntType(16)
"""LLVM's type of a whole number of 16 bits."""
_BLOCK_ROWS = 32
"""Rows of a block."""


class _Dot(NamedTuple):
    """One way to add the products of four columns to the sums of some rows with one center."""

    add: Callable[[Any, Any, Any, Any], Any]
    """Emits it, given a builder, and vectors of int32: the sums, the rows, the center."""
    lanes: int
    """Rows of a vector."""
    vectors: int
    """Vectors of rows whose sums with some centers are kept in registers; a divisor of 32 rows."""
    centers: int
    """The number of these centers; a divisor of 16."""
    is_unsigned: bool
    """Whether the bytes of rows are taken as unsigned. Then a row x goes in as x + 128, and each
    sum begins at -128 times the sum of the center's bytes."""

    feature: str = ""
    """What LLVM must be told that this processor has, if any, by LLVM's name."""
    is_paired: bool = False
    """Whether `add` takes eight columns of two rows and of two centers, not four of a few rows."""

    @property
    def kind(self) -> Any:
        """The type of a vector of int32."""
        return ir.VectorType(I32, self.lanes)


def _multiplication(dot: _Dot) -> Any:
    """Return an intrinsic that writes the products of 32 rows and 32 centers, (32, 32) int32.

    Its arguments are addresses, but for `quads`: those of `int8_products.multiply`.
    """
    write = _write_sums_of_pairs if dot.is_paired else _write_sums

    @intrinsic
    def multiply(typing: Any, rows: Any, quads: Any, centers: Any, offsets: Any, sums: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            rows, quads, centers, offsets, sums = arguments
            if dot.feature:
                _use(dot.feature, builder.function, context)
            chunks = builder.lshr(builder.add(quads, ir.Constant(I64, 15)), ir.Constant(I64, 4))
            groups = ir.Constant(I64, CHUNK_CENTERS // dot.centers)
            sides = ir.Constant(I64, _BLOCK_ROWS // (dot.vectors * dot.lanes))
            with cgutils.for_range(builder, groups) as group:
                first = step(builder, ir.Constant(I64, 0), group.index, dot.centers)
                place = _place_of(builder, centers, chunks, first)
                begin = step(builder, offsets, first, 4)
                line = step(builder, sums, first, 4 * _BLOCK_ROWS)
                with cgutils.for_range(builder, sides) as side:
                    shift = step(
                        builder, ir.Constant(I64, 0), side.index, 4 * dot.vectors * dot.lanes
                    )
                    here = builder.add(rows, shift)
                    write(dot, builder, here, quads, place, begin, builder.add(line, shift))
            return context.get_dummy_value()

        return types.void(*[types.int64] * 5), generate

    return multiply


def _use(feature: str, function: Any, context: Any) -> None:
    """Let the function that is being emitted use a feature that LLVM does not see by itself.

    LLVM knows these of Arm by the name of a processor alone; on one that is newer than itself it
    would end the process. llvmlite lists the attributes that it knows, and this is none of them.
    """
    features = ",".join(filter(None, [context.codegen().magic_tuple()[2], f"+{feature}"]))
    set.add(function.attributes, f'"target-features"="{features}"')


def _place_of(builder: Any, centers: Any, chunks: Any, first: Any) -> Any:
    """Emit the address of a center in its tiles of 16 centers by 64 columns."""
    tile = builder.lshr(first, ir.Constant(I64, 4))
    inside = builder.and_(first, ir.Constant(I64, 15))
    start = builder.add(centers, builder.mul(builder.mul(tile, chunks), ir.Constant(I64, 1024)))
    return step(builder, start, inside, 64)


def _write_sums(
    dot: _Dot, builder: Any, rows: Any, quads: Any, centers: Any, offsets: Any, sums: Any
) -> None:
    """Emit the loop over all columns of a few rows and centers, whose sums stay in registers."""
    totals = []
    for j in range(dot.centers):
        start = ir.Constant(dot.kind, [0] * dot.lanes)
        if dot.is_unsigned:
            start = _spread(dot, builder, _at(builder, offsets, 4 * j))
        totals.append([cgutils.alloca_once_value(builder, start) for _ in range(dot.vectors)])
    with cgutils.for_range(builder, quads) as quad:
        center = _columns_of(builder, centers, quad.index)
        row = step(builder, rows, quad.index, 4 * _BLOCK_ROWS)
        vectors = [
            load(builder, builder.add(row, ir.Constant(I64, 4 * dot.lanes * v)), dot.kind)
            for v in range(dot.vectors)
        ]
        if dot.is_unsigned:
            flip = ir.Constant(dot.kind, [0x80808080] * dot.lanes)
            vectors = [builder.xor(vector, flip) for vector in vectors]
        for j, line in enumerate(totals):
            values = _spread(dot, builder, _at(builder, center, 64 * j))
            for total, vector in zip(line, vectors, strict=True):
                builder.store(dot.add(builder, builder.load(total), vector, values), total)
    for j, line in enumerate(totals):
        for v, total in enumerate(line):
            place = ir.Constant(I64, 4 * _BLOCK_ROWS * j + 4 * dot.lanes * v)
            store(builder, builder.load(total), builder.add(sums, place))


def _columns_of(builder: Any, centers: Any, quad: Any) -> Any:
    """Emit the address of four columns of a center, which stand in the tile of their chunk."""
    chunk = builder.lshr(quad, ir.Constant(I64, 4))
    inside = builder.and_(quad, ir.Constant(I64, 15))
    return step(builder, step(builder, centers, chunk, 1024), inside, 4)


def _write_sums_of_pairs(
    dot: _Dot, builder: Any, rows: Any, quads: Any, centers: Any, offsets: Any, sums: Any
) -> None:
    """Emit what `_write_sums` does, for sums of two centers with two rows in each vector."""
    start = ir.Constant(dot.kind, [0] * dot.lanes)
    totals = [
        [cgutils.alloca_once_value(builder, start) for _ in range(2 * dot.vectors)]
        for _ in range(dot.centers // 2)
    ]
    one = ir.Constant(I64, 1)
    with cgutils.for_range(builder, builder.lshr(quads, one)) as pair:
        _add_pairs(dot, builder, rows, builder.shl(pair.index, one), centers, totals)
    with builder.if_then(builder.trunc(quads, ir.IntType(1))):
        last = builder.sub(quads, one)
        _add_pairs(dot, builder, rows, last, centers, totals, is_alone=True)
    for j, line in enumerate(totals):
        for v in range(dot.vectors):
            low, high = (builder.load(total) for total in line[2 * v : 2 * v + 2])
            for side, lanes in enumerate(([0, 1, 4, 5], [2, 3, 6, 7])):
                place = ir.Constant(I64, 4 * _BLOCK_ROWS * (2 * j + side) + 4 * dot.lanes * v)
                store(builder, _pick(builder, low, high, lanes), builder.add(sums, place))


def _add_pairs(
    dot: _Dot,
    builder: Any,
    rows: Any,
    quad: Any,
    centers: Any,
    totals: list[list[Any]],
    is_alone: bool = False,
) -> None:
    """Emit the products of eight columns from `quad` on, of four where this is the last, alone."""
    row = step(builder, rows, quad, 4 * _BLOCK_ROWS)
    pairs = []
    for v in range(dot.vectors):
        place = builder.add(row, ir.Constant(I64, 4 * dot.lanes * v))
        first, second = load(builder, place, dot.kind), ir.Constant(dot.kind, [0] * dot.lanes)
        if not is_alone:
            next_place = builder.add(place, ir.Constant(I64, 4 * _BLOCK_ROWS))
            second = load(builder, next_place, dot.kind)
        pairs += [_pick(builder, first, second, each) for each in ([0, 4, 1, 5], [2, 6, 3, 7])]
    center = _columns_of(builder, centers, quad)
    for j, line in enumerate(totals):
        two = ir.Constant(ir.VectorType(I64, 2), ir.Undefined)
        for side in (0, 1):
            place = builder.add(center, ir.Constant(I64, 64 * (2 * j + side)))
            eight = load(builder, place, I64)
            two = builder.insert_element(two, eight, ir.Constant(I32, side))
        values = builder.bitcast(two, dot.kind)
        for total, pair in zip(line, pairs, strict=True):
            builder.store(dot.add(builder, builder.load(total), pair, values), total)


def _pick(builder: Any, a: Any, b: Any, lanes: list[int]) -> Any:
    """Emit a vector of some lanes of two."""
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(I32, len(lanes)), lanes))


def _at(builder: Any, base: Any, shift: int) -> Any:
    """Emit a load of the int32 that stands `shift` bytes after an address."""
    return load(builder, builder.add(base, ir.Constant(I64, shift)), I32)


def _spread(dot: _Dot, builder: Any, value: Any) -> Any:
    """Emit a vector that has the same int32 in every lane."""
    one = builder.insert_element(ir.Constant(dot.kind, ir.Undefined), value, ir.Constant(I32, 0))
    return builder.shuffle_vector(one, one, ir.Constant(dot.kind, [0] * dot.lanes))


def _by(name: str) -> Callable[[Any, Any, Any, Any], Any]:
    """Return what emits one instruction of VNNI: four products and their sum, in each lane."""
    return lambda builder, total, rows, center: call_llvm(
        builder, f"llvm.x86.avx512.vpdpbusd.{name}", total.type, [total, rows, center]
    )


def _by_sdot(builder: Any, total: Any, rows: Any, center: Any) -> Any:
    """Emit `sdot` of Arm: four products of signed bytes and their sum, in each lane."""
    return _by_arm("sdot", builder, total, rows, center)


def _by_smmla(builder: Any, total: Any, rows: Any, centers: Any) -> Any:
    """Emit `smmla` of Arm: the products of eight columns of two centers and two rows, summed up."""
    return _by_arm("smmla", builder, total, centers, rows)


def _by_arm(name: str, builder: Any, total: Any, a: Any, b: Any) -> Any:
    """Emit an instruction of Arm that adds products of two vectors of bytes to some sums."""
    operands = [total, *(builder.bitcast(each, ir.VectorType(I8, 16)) for each in (a, b))]
    return call_llvm(builder, f"llvm.aarch64.neon.{name}.v4i32.v16i8", total.type, operands)


def _by_pairs(builder: Any, total: Any, rows: Any, center: Any) -> Any:
    """Emit vpmaddubsw and vpmaddwd of AVX2: sums of two products in 16 bits, of four in 32.

    Of unsigned bytes up to 255 and signed ones up to 64 in magnitude, two products are at most
    32,640, and do not saturate.
    """
    bytes_, words = ir.VectorType(I8, 32), ir.VectorType(_I16, 16)
    operands = [builder.bitcast(rows, bytes_), builder.bitcast(center, bytes_)]
    pairs = call_llvm(builder, "llvm.x86.avx2.pmadd.ub.sw", words, operands)
    ones = ir.Constant(words, [1] * 16)
    fours = call_llvm(builder, "llvm.x86.avx2.pmadd.wd", total.type, [pairs, ones])
    return builder.add(total, fours)


def _by_words(builder: Any, total: Any, rows: Any, center: Any) -> Any:
    """Emit products of bytes widened to 16 bits, in instructions that LLVM chooses.

    It knows vpmaddwd (SSE2, AVX2) and smull (Arm) by this form: two products and their sum in each
    lane of 32 bits, of the odd and then of the even bytes.
    """
    words = ir.VectorType(_I16, 2 * total.type.count)
    eight = ir.Constant(words, [8] * words.count)
    both = [builder.bitcast(each, words) for each in (rows, center)]
    odd = [builder.ashr(each, eight) for each in both]
    even = [builder.ashr(builder.shl(each, eight), eight) for each in both]
    for pair in (odd, even):
        total = builder.add(total, _sums_of_two(builder, *pair))
    return total


def _sums_of_two(builder: Any, a: Any, b: Any) -> Any:
    """Emit the products of two vectors of int16, (2 n,), and the sums (n,) of two at a time."""
    wide = ir.VectorType(I32, a.type.count)
    products = builder.mul(builder.sext(a, wide), builder.sext(b, wide))
    halves = [
        builder.shuffle_vector(
            products,
            products,
            ir.Constant(ir.VectorType(I32, wide.count // 2), list(range(first, wide.count, 2))),
        )
        for first in (0, 1)
    ]
    return builder.add(*halves)


avx512_vnni = _multiplication(_Dot(_by("512"), lanes=16, vectors=2, centers=8, is_unsigned=True))
"""Intrinsic of `_multiplication` for AVX-512 VNNI: four products in each of 16 lanes at once."""
avx_vnni = _multiplication(_Dot(_by("256"), lanes=8, vectors=2, centers=4, is_unsigned=True))
"""Intrinsic of `_multiplication` for AVX-VNNI: four products in each of 8 lanes at once."""
avx2 = _multiplication(_Dot(_by_pairs, lanes=8, vectors=2, centers=4, is_unsigned=True))
"""Intrinsic of `_multiplication` for AVX2, for centers of 7 bits."""
plain = _multiplication(_Dot(_by_words, lanes=8, vectors=2, centers=4, is_unsigned=False))
"""Intrinsic of `_multiplication` for any processor."""
arm_dot = _multiplication(
    _Dot(_by_sdot, lanes=4, vectors=4, centers=4, is_unsigned=False, feature="dotprod")
)
"""Intrinsic of `_multiplication` for Arm's `sdot`."""
arm_matrix = _multiplication(
    _Dot(
        _by_smmla,
        lanes=4,
        vectors=2,
        centers=8,
        is_unsigned=False,
        feature="i8mm",
        is_paired=True,
    )
)
"""Intrinsic of `_multiplication` for Arm's `smmla`."""
