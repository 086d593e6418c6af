"""Double-double arithmetic, element by element: a number is the sum of two floats, about 106 bits.

Every operation is a fixed sequence of IEEE additions and multiplications, so the result has the
same bits on every machine. Dekker 1971; Knuth, TAOCP 2, 4.2.2, theorem B; Shewchuk 1997.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
"""Numbers of any shape."""
Twofold: TypeAlias = tuple[Floats, Floats]
"""Double-doubles: (high, low) of the same shape; the value is high + low."""


def from_int64(values: NDArray[np.int64]) -> Twofold:
    """Return whole numbers within +-2**62 as double-doubles, exactly."""
    high = values.astype(np.float64)
    return high, (values - high.astype(np.int64)).astype(np.float64)


def exact_sum(a: Floats, b: Floats) -> Twofold:
    """Return (s, e) with s + e equal to a + b."""
    s = a + b
    part = s - a
    return s, (a - (s - part)) + (b - part)


def add(x: Twofold, y: Twofold) -> Twofold:
    """Return x + y, off by at most a few units of 2**-104 of |x| + |y|."""
    s, e = exact_sum(x[0], y[0])
    return exact_sum(s, e + (x[1] + y[1]))


def total(x: Twofold) -> Twofold:
    """Return the sum of all elements, (1,), added by halving in an order that only the size
    decides."""
    high, low = x[0].ravel(), x[1].ravel()
    while len(high) > 1:
        half = len(high) // 2
        rest = slice(2 * half, None)
        s, e = add((high[:half], low[:half]), (high[half : 2 * half], low[half : 2 * half]))
        is_odd = 2 * half < len(high)
        high, low = (np.append(s, high[rest]), np.append(e, low[rest])) if is_odd else (s, e)
    return high, low
