"""Vector instructions as numba intrinsics. LLVM's IR is written in this package alone.

A vector is 16 lanes of 32 bits, one lane a row of the data. That is a register of AVX-512; where
registers are smaller, LLVM splits vectors. Addresses are int64 numbers; nothing is checked.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np import arrayobj

LANES = 16
"""Lanes of a vector, of 32 bits each."""
PANEL_ROWS = 256
"""Rows that are scored together."""
CHUNK_CENTERS = 32
"""Centers of one product: two tiles of AMX."""
SUMS_BYTES = 128 * CHUNK_CENTERS + 256
"""From one chunk of products to the next; at 4096, processors mistake loads for stores."""
ONE_BYTE = "one byte"
"""The kind of products of rows and centers of one byte a column."""
TWO_BYTES = "two bytes"
"""The kind of products of rows and centers of two bytes a column."""
FINER = 254
"""Steps of a second byte in one of the first."""
ID_BITS = 8
"""Low bits of a score that give way to the number of its center."""

I8 = ir.IntType(8)
"""LLVM's type of a byte."""
I32 = ir.IntType(32)
"""LLVM's type of a whole number of 32 bits."""
I64 = ir.IntType(64)
"""LLVM's type of a whole number of 64 bits, which addresses are here."""
FLOAT = ir.FloatType()
"""LLVM's type of a float32."""
BYTES = I8.as_pointer()
"""LLVM's type of a pointer to bytes."""
INTS = ir.VectorType(I32, LANES)
"""LLVM's type of a vector of int32."""
FLOATS = ir.VectorType(FLOAT, LANES)
"""LLVM's type of a vector of float32."""


def call_llvm(builder: Any, name: str, result: Any, arguments: list[Any]) -> Any:
    """Emit a call of a function of LLVM, by its name and the type of its result."""
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


def load(builder: Any, address: Any, kind: Any) -> Any:
    """Emit a load of a value of some type; it need not be aligned to more than 4 bytes."""
    value = builder.load(builder.inttoptr(address, kind.as_pointer()))
    value.align = 4
    return value


def store(builder: Any, value: Any, address: Any) -> None:
    """Emit a store of a value, aligned as for `load`."""
    builder.store(value, builder.inttoptr(address, value.type.as_pointer())).align = 4


def load_pair(builder: Any, address: Any, kind: Any) -> list[Any]:
    """Emit loads of two vectors that stand side by side: 32 rows."""
    return [load(builder, builder.add(address, ir.Constant(I64, side)), kind) for side in (0, 64)]


def store_pair(builder: Any, values: list[Any], address: Any) -> None:
    """Emit stores of vectors side by side."""
    for side, value in enumerate(values):
        store(builder, value, builder.add(address, ir.Constant(I64, 64 * side)))


def splat(builder: Any, value: Any) -> Any:
    """Emit a vector of 16 times the same value."""
    kind = ir.VectorType(value.type, LANES)
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(I32, 0))
    return builder.shuffle_vector(one, one, ir.Constant(INTS, [0] * LANES))


def splat_at(builder: Any, base: Any, index: Any) -> Any:
    """Emit a vector of 16 times the float32 at `base`, by its index."""
    return splat(builder, load(builder, step(builder, base, index, 4), FLOAT))


def step(builder: Any, base: Any, index: Any, size: int) -> Any:
    """Emit the address base + index * size."""
    return builder.add(base, builder.mul(index, ir.Constant(I64, size)))


def least(builder: Any, a: Any, b: Any) -> Any:
    """Emit the lesser of two vectors lane by lane; b where one is not a number."""
    return builder.select(builder.fcmp_ordered("<", a, b), a, b)


def _most(builder: Any, a: Any, b: Any) -> Any:
    """Emit the greater of two vectors lane by lane; b where one is not a number."""
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


def _low(builder: Any, constants: Any, product: Any, weight: Any, reach: Any) -> Any:
    """Emit where the intervals of 16 rows begin for one center: q - a - R E - 2 w t p."""
    step, low, norm = constants
    product = builder.fmul(product, step)
    low = call_llvm(builder, "llvm.fma.v16f32", FLOATS, [reach, norm, low])
    return call_llvm(builder, "llvm.fma.v16f32", FLOATS, [weight, product, low])


def _constants(builder: Any, steps: Any, lows: Any, norms: Any, index: Any) -> list[Any]:
    """Emit t, q - a and E of one center, each as a vector."""
    return [splat_at(builder, base, index) for base in (steps, lows, norms)]


def _products(builder: Any, place: Any, kind: str) -> list[Any]:
    """Emit the products of 32 rows with one center, as floats."""
    sums = [builder.sitofp(each, FLOATS) for each in load_pair(builder, place, INTS)]
    if kind == ONE_BYTE:
        return sums
    size = ir.Constant(I64, SUMS_BYTES)
    left = load_pair(builder, builder.add(place, size), INTS)
    right = load_pair(builder, builder.add(builder.add(place, size), size), INTS)
    share = ir.Constant(FLOATS, [1 / FINER] * LANES)
    return [
        builder.fadd(total, builder.fmul(builder.sitofp(builder.add(a, b), FLOATS), share))
        for total, a, b in zip(sums, left, right, strict=True)
    ]


def _fold(kind: str, ranks: int) -> Any:
    """Return an intrinsic that takes scores of 32 rows to some centers into their lowest so far.

    Its arguments are addresses, but for `count`, of centers: products, the constants t, q - a and E
    of each center, its number (which the last bits of a score become), the factors of the rows,
    negated, and the lowest scores: those of a whole panel of rows, then the second lowest, perhaps
    the third.
    """
    generate = _folding(kind, ranks)

    @intrinsic
    def fold(
        typing: Any,
        products: Any,
        count: Any,
        steps: Any,
        lows: Any,
        norms: Any,
        numbers: Any,
        weights: Any,
        reaches: Any,
        lowest: Any,
    ) -> Any:
        return types.void(*[types.int64] * 9), generate

    return fold


def _folding(kind: str, ranks: int) -> Any:
    """Return what emits the code of `_fold`."""
    mask = ir.Constant(INTS, [-(2**ID_BITS)] * LANES)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        products, count, steps, lows, norms, numbers, weights, reaches, lowest = arguments
        factors = [load_pair(builder, at, FLOATS) for at in (weights, reaches)]
        places = [
            builder.add(lowest, ir.Constant(I64, 4 * PANEL_ROWS * rank)) for rank in range(ranks)
        ]
        loaded = [load_pair(builder, place, FLOATS) for place in places]
        so_far = [[cgutils.alloca_once_value(builder, each) for each in pair] for pair in loaded]
        with cgutils.for_range(builder, count) as loop:
            constants = _constants(builder, steps, lows, norms, loop.index)
            number = splat(builder, load(builder, step(builder, numbers, loop.index, 4), I32))
            line = _products(builder, step(builder, products, loop.index, 128), kind)
            for side in (0, 1):
                low = _low(builder, constants, line[side], factors[0][side], factors[1][side])
                # This moves a score by 2^-15 of itself at most, up or down; `a` and R allow for it.
                bits = builder.and_(builder.bitcast(low, INTS), mask)
                key = builder.bitcast(builder.or_(bits, number), FLOATS)
                _insert(builder, key, [pair[side] for pair in so_far])
        for place, pair in zip(places, so_far, strict=True):
            store_pair(builder, [builder.load(each) for each in pair], place)
        return context.get_dummy_value()

    return generate


def _insert(builder: Any, key: Any, so_far: list[Any]) -> None:
    """Emit the insertion of a key into the lowest so far, which are in order."""
    for rank, slot in enumerate(so_far):
        before = builder.load(slot)
        builder.store(least(builder, key, before), slot)
        if rank + 1 < len(so_far):
            key = _most(builder, key, before)


def _below(kind: str) -> Any:
    """Return an intrinsic that tells which of 32 rows have a center as a candidate."""

    @intrinsic
    def below(
        typing: Any,
        products: Any,
        index: Any,
        steps: Any,
        lows: Any,
        norms: Any,
        weight: Any,
        reach: Any,
        upper: Any,
    ) -> Any:
        """Return a bit for each of 32 rows whose score to a center does not begin above `upper`."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            products, index, steps, lows, norms, weight, reach, upper = arguments
            weights, reaches, uppers = (
                load_pair(builder, at, FLOATS) for at in (weight, reach, upper)
            )
            constants = _constants(builder, steps, lows, norms, index)
            line = _products(builder, step(builder, products, index, 128), kind)
            words = []
            for side in (0, 1):
                low = _low(builder, constants, line[side], weights[side], reaches[side])
                # Unordered, so that a score that is not a number makes a candidate.
                bits = builder.fcmp_unordered("<=", low, uppers[side])
                words.append(builder.zext(builder.bitcast(bits, ir.IntType(LANES)), I64))
            return builder.or_(words[0], builder.shl(words[1], ir.Constant(I64, LANES)))

        return types.int64(*[types.int64] * 8), generate

    return below


fold_two = _fold(ONE_BYTE, 2)
"""Intrinsic of `_fold` for one byte a column and the two lowest scores."""
fold_three = _fold(ONE_BYTE, 3)
"""Intrinsic of `_fold` for one byte a column and the three lowest scores."""
fold_two_finely = _fold(TWO_BYTES, 2)
"""Intrinsic of `_fold` for two bytes a column and the two lowest scores."""
fold_three_finely = _fold(TWO_BYTES, 3)
"""Intrinsic of `_fold` for two bytes a column and the three lowest scores."""
below_fine = _below(TWO_BYTES)
"""Intrinsic of `_below` for two bytes a column."""


@intrinsic
def prune_by_prefix(
    typing: Any,
    products: Any,
    steps: Any,
    lows: Any,
    norms: Any,
    tails: Any,
    weights: Any,
    reaches: Any,
    row_tails: Any,
    limits: Any,
    others: Any,
    masks: Any,
) -> Any:
    """Tell for a chunk of 32 centers and 32 rows which scores may begin at or below a limit.

    All arguments are addresses: products, and of each center t, q - a, E of its prefix and the
    length of its tail; of each row -2 w, -R, -2 times the length of its tail, and its limit. Where
    the scores above their limit begin, at least, goes to `others`, and for each center a word with
    a bit for each other row goes to `masks`.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        products, steps, lows, norms, tails, *of_rows, others, masks = arguments
        factors = [load_pair(builder, at, FLOATS) for at in of_rows]
        loaded = load_pair(builder, others, FLOATS)
        so_far = [cgutils.alloca_once_value(builder, each) for each in loaded]
        with cgutils.for_range(builder, ir.Constant(I64, CHUNK_CENTERS)) as loop:
            constants = _constants(builder, steps, lows, norms, loop.index)
            tail = splat_at(builder, tails, loop.index)
            line = _products(builder, step(builder, products, loop.index, 128), ONE_BYTE)
            words = []
            for side in (0, 1):
                weight, reach, row_tail, limit = (pair[side] for pair in factors)
                low = _low(builder, constants, line[side], weight, reach)
                low = call_llvm(builder, "llvm.fma.v16f32", FLOATS, [row_tail, tail, low])
                # Unordered, so that a score that is not a number is not pruned.
                bits = builder.fcmp_unordered("<=", low, limit)
                words.append(builder.zext(builder.bitcast(bits, ir.IntType(LANES)), I32))
                before = builder.load(so_far[side])
                is_less = builder.and_(builder.fcmp_ordered("<", low, before), builder.not_(bits))
                builder.store(builder.select(is_less, low, before), so_far[side])
            word = builder.or_(words[0], builder.shl(words[1], ir.Constant(I32, LANES)))
            store(builder, word, step(builder, masks, loop.index, 4))
        store_pair(builder, [builder.load(each) for each in so_far], others)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 11), generate


@intrinsic
def lowest_bit(typing: Any, word: Any) -> Any:
    """Return the place of the lowest bit of an int64 that is not 0."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.int64), generate


@intrinsic
def floats_at(typing: Any, address: Any, count: Any) -> Any:
    """Return the float32 at an address as an array; the owner of the memory must outlive it."""
    kind = types.Array(types.float32, 1, "C")

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(kind)(context, builder)
        size = ir.Constant(I64, 4)
        arrayobj.populate_array(
            array,
            data=builder.inttoptr(arguments[0], array.data.type),
            shape=[arguments[1]],
            strides=[size],
            itemsize=size,
            meminfo=None,
        )
        return array._getvalue()

    return kind(types.int64, types.int64), generate


@intrinsic
def whole(typing: Any, value: Any) -> Any:
    """Return the nearest whole number, halves to even: `np.rint`, but for vectors too."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = arguments[0].type
        return call_llvm(builder, f"llvm.rint.{'f32' if kind == FLOAT else 'f64'}", kind, arguments)

    return value(value), generate


@intrinsic
def as_float(typing: Any, bits: Any) -> Any:
    """Return the float32 with these bits."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], FLOAT)

    return types.float32(types.int32), generate


@intrinsic
def prefetch(typing: Any, address: Any) -> Any:
    """Ask for the cache line at an address, to be read soon."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = builder.inttoptr(arguments[0], BYTES)
        hints = [ir.Constant(I32, value) for value in (0, 3, 1)]
        call_llvm(builder, "llvm.prefetch.p0", ir.VoidType(), [place, *hints])
        return context.get_dummy_value()

    return types.void(types.int64), generate


def _calling(count: int) -> Any:
    """Return what emits a call of the function at an address with `count` whole numbers."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [I64] * count)
        builder.call(builder.inttoptr(arguments[0], kind.as_pointer()), arguments[1:])
        return context.get_dummy_value()

    return generate


@intrinsic
def call_with_address(typing: Any, function: Any, address: Any) -> Any:
    """Call the function (int64) at an address."""
    return types.void(types.int64, types.int64), _calling(1)


@intrinsic
def call_with_products(
    typing: Any, function: Any, rows: Any, quads: Any, centers: Any, offsets: Any, sums: Any
) -> Any:
    """Call the function (five int64) at an address."""
    return types.void(*[types.int64] * 6), _calling(5)
