"""The Triton program that quantizes rows to bytes around a reference, as `int8.quantize` does."""

from __future__ import annotations

import triton
import triton.language as tl

_FAR_AWAY = tl.constexpr(2.0**30)
"""As `int8.quantize.FAR_AWAY`: a row this many spreads away is compared in float64."""
_ROOM = tl.constexpr(1.01)
"""As `int8.quantize.ROOM`: a factor that rounds a norm up."""
_SMALL_R = tl.constexpr(2.0**-50)
"""As `int8.quantize.SMALL_R`: the least error of a quantized row."""
_LITTLE = tl.constexpr(2.0**-21)
"""Share of the size of a row that bounds what it and its bytes are rounded by."""


@triton.jit
def _load_residuals(x, base, columns, reference, scale, d, is_there):
    """Return scale x - g for a tile of rows and columns; zeros beyond the last column."""
    inside = columns < d
    mask = is_there[:, None] & inside[None, :]
    values = tl.load(x + base[:, None] + columns[None, :], mask=mask, other=0).to(tl.float32)
    g = tl.load(reference + columns, mask=inside, other=0.0)
    return tl.where(mask, values * scale - g[None, :], 0.0)


@triton.jit
def _compute_steps(largest, near):
    """Return the step in which a largest magnitude is 127, and nearly its inverse."""
    is_worth = near & (largest >= _SMALL_R)
    step = tl.where(is_worth, largest / 127.0, 0.0)
    return step, tl.where(is_worth, 126.9999 / tl.where(is_worth, largest, 1.0), 0.0)


@triton.jit(do_not_specialize=["d", "chunks"])
def quantize_rows(
    x,  # (n, d)  IN, any type that float32 holds
    order,  # (slots,)  IN, numbers of rows
    block_groups,  # (blocks,)  IN
    references,  # (groups, d)  IN
    scale,  # IN
    packed,  # (slots, width)  OUT, int8
    steps,  # (slots,)  OUT
    sizes,  # (slots,)  OUT  |r'|
    errors,  # (slots,)  OUT  |r - r'|, infinite for a row that is too far away
    squares,  # (slots,)  OUT  |r|^2
    d,
    chunks,  # of columns
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Quantize the rows of one block around the reference of its group."""
    width = chunks * COLUMNS  # so that the compiler knows what divides it
    slots = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    rows = tl.load(order + slots).to(tl.int64)
    base = rows * d
    reference = references + tl.load(block_groups + tl.program_id(0)).to(tl.int64) * d
    square = tl.zeros((ROWS,), tl.float32)
    largest = tl.zeros((ROWS,), tl.float32)
    for first in range(0, width, COLUMNS):
        columns = first + tl.arange(0, COLUMNS)
        r = _load_residuals(x, base, columns, reference, scale, d, rows >= 0)
        square += tl.sum(r * r, axis=1)
        largest = tl.maximum(largest, tl.max(tl.abs(r), axis=1))
    near = square < _FAR_AWAY * _FAR_AWAY  # not where it is not a number
    step, inverse = _compute_steps(largest, near)
    whole = tl.zeros((ROWS,), tl.float32)
    error = tl.zeros((ROWS,), tl.float32)
    for first in range(0, width, COLUMNS):
        columns = first + tl.arange(0, COLUMNS)
        r = _load_residuals(x, base, columns, reference, scale, d, rows >= 0)
        r = tl.where(near[:, None], r, 0.0)
        q = tl.floor(r * inverse[:, None] + 0.5)
        off = r - step[:, None] * q
        error += tl.sum(off * off, axis=1)
        whole += tl.sum(q * q, axis=1)
        tl.store(packed + slots[:, None] * width + columns[None, :], q.to(tl.int8))
    size = step * tl.sqrt(whole) * _ROOM
    off = tl.sqrt(error) * _ROOM + _LITTLE * size + _SMALL_R
    tl.store(steps + slots, step)
    tl.store(sizes + slots, size)
    tl.store(errors + slots, tl.where(near, off, float("inf")))
    tl.store(squares + slots, square)
