"""One block of rows in, labels and partials out. Bare arithmetic: kernels check nothing.

Every kernel gives the same bits, so the choice is about speed alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ray_kmeans.algorithm.metric import Metric

I8: TypeAlias = NDArray[np.int8]
"""An array of int8; these aliases are for the signatures of compiled loops."""
I32: TypeAlias = NDArray[np.int32]
"""An array of int32."""
I64: TypeAlias = NDArray[np.int64]
"""An array of int64."""
F32: TypeAlias = NDArray[np.float32]
"""An array of float32."""
F64: TypeAlias = NDArray[np.float64]
"""An array of float64."""

COARSE_UNITS = 256
"""Values below this many units of the grid are counted, but for 0: it may be coarse for them."""

ALIKE: NDArray[np.int64] = np.empty(0, np.int64)
"""The weights (0,) of rows that count once each: none are stored."""


class Moves(NamedTuple):
    """Rows whose label changed."""

    rows: NDArray[np.integer]
    """(m,) the numbers of these rows, in any order."""
    before: NDArray[np.int32]
    """(m,) the label that each had; -1 where it had none."""


class Held(Protocol):
    """Rows that are labelled again and again; only those that move change the sums."""

    def assign(self, centers: NDArray[np.float32]) -> NDArray[np.int32]:
        """Return the labels of all rows (n,), as `Kernel.assign` does, until the next call."""

    def sums(
        self, centers: NDArray[np.float32], scale: NDArray[np.float64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Label all rows; return sums (k, d) in whole units of the grid, and counts (k,)."""


class Kernel(Protocol):
    """A way to label rows and to add them up. Shapes: n rows, d features, k centers.

    By cosine, rows and centers are unit vectors, but for their rounding, or zero: the nearest
    center has the largest inner product, and the distance is 1 minus that, but not below 0.
    """

    def ready(self, rows: int, k: int, d: int) -> str:
        """Get ready to label `rows` rows of d columns by k centers; return the name of what will.

        This compiles and checks what is needed, so that no sweep waits for it.
        """

    def hold(
        self,
        blocks: Sequence[NDArray[np.float32]],
        metric: Metric,
        k: int,
        weights: NDArray[np.int64] = ALIKE,
    ) -> Held:
        """Hold blocks of rows (n_i, d) that stay where they are, for about k centers.

        `weights`: (n,) of all rows, as in `accumulate`.
        """

    def hold_each(
        self,
        blocks: Sequence[NDArray[np.float32]],
        sizes: Sequence[int],
        d: int,
        metric: Metric,
        weights: NDArray[np.int64] = ALIKE,
    ) -> Held:
        """Hold blocks (n_i, d) of these sizes, which are made anew whenever one is asked for."""

    def prepare(self, centers: NDArray[np.float32], metric: Metric) -> Any:
        """Do the work that depends on the centers (k, d) alone, once per sweep."""

    def assign(
        self,
        rows: NDArray[np.float32],  # (n, d)  IN, C order
        prepared: Any,  # IN
        labels: NDArray[np.int32],  # (n,)  OUT
    ) -> None:
        """Label each row with its nearest center over the reals; a tie goes to the lowest index."""

    def assign_second(
        self,
        rows: NDArray[np.float32],  # (n, d)  IN, C order
        prepared: Any,  # IN, of two centers or more
        labels: NDArray[np.int32],  # (n,)  IN, the nearest center of each row
        seconds: NDArray[np.int32],  # (n,)  OUT
    ) -> None:
        """Label each row with the nearest of all other centers, as `assign` does."""

    def assign_nearest(
        self,
        rows: NDArray[np.float32],  # (n, d)  IN, C order
        prepared: Any,  # IN, of m centers or more
        found: NDArray[np.int32],  # (n, m)  OUT
    ) -> None:
        """Write the m nearest centers of each row over the reals, nearest first, as `assign`."""

    def accumulate(
        self,
        rows: NDArray[np.float32],  # (n, d)  IN, C order
        labels: NDArray[np.int32],  # (n,)  IN
        scale: NDArray[np.float64],  # (d,)  IN, units of the grid per 1.0
        sums: NDArray[np.int64],  # (k, d)  INOUT
        weights: NDArray[np.int64] = ALIKE,  # (n,)  IN, how often each row counts; or ALIKE
    ) -> None:
        """Add the rows, in whole units of the grid, to the sums of their clusters."""

    def move(
        self,
        blocks: Sequence[NDArray[np.float32]],  # (n_i, d)  IN, C order, n rows in all
        moves: Moves,  # IN
        labels: NDArray[np.int32],  # (n,)  IN, of all rows now
        scale: NDArray[np.float64],  # (d,)  IN, units of the grid per 1.0
        sums: NDArray[np.int64],  # (k, d)  INOUT
        weights: NDArray[np.int64] = ALIKE,  # (n,)  IN, how often each row counts; or ALIKE
    ) -> None:
        """Move rows whose label changed from the sums of one cluster to those of another."""

    def accumulate_squares(
        self,
        rows: NDArray[np.float32],  # (n, d)  IN, C order
        scale: NDArray[np.float64],  # (d,)  IN, units of the grid per 1.0
        half_bits: int,  # IN, a value q is h * 2**half_bits + l
        limbs: NDArray[np.int64],  # (3, d)  INOUT, sums of h*h, h*l and l*l
        coarse: NDArray[np.int64],  # (d,)  INOUT, values with 0 < |x| < COARSE_UNITS units
        weights: NDArray[np.int64] = ALIKE,  # (n,)  IN
    ) -> None:
        """Add the squares of the rows, in whole units of the grid, column by column."""

    def fingerprint(self, rows: NDArray[np.float32], weights: NDArray[np.int64] = ALIKE) -> int:
        """Return the sum modulo 2**64 of a hash of each row (n, d), with `column_keys`."""

    def distances(
        self,
        rows: NDArray[np.float32],  # (n, d)  IN
        centers: NDArray[np.float32],  # (k, d)  IN
        metric: Metric,  # IN
        result: NDArray[Any],  # (n, k)  OUT, float32 or float64
    ) -> None:
        """Write all distances: float64 sums in the order of the columns, then rounded as asked."""

    def distances_to(
        self,
        rows: NDArray[np.float32],  # (n, d)  IN
        centers: NDArray[np.float32],  # (k, d)  IN
        labels: NDArray[np.int32],  # (n,)  IN
        metric: Metric,  # IN
    ) -> NDArray[np.float64]:
        """Return the distance of each row to one center, (n,): the float64 bits of `distances`."""


BLAS = "float32 BLAS"
"""Begins the name of what labels rows by matrix products in float32."""


def column_keys(n_features: int) -> NDArray[np.uint64]:
    """Return an odd 64-bit factor for each column (Steele et al., SplitMix, 2014)."""
    keys = np.arange(1, n_features + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(keys | np.uint64(1))


def load(name: str = "cpu", threads: int = 1, share: float = 1.0) -> Kernel:
    """Return the kernel of a name, which may use this many threads.

    'cpu': the fastest that this processor has for the work at hand; 'portable': float32 BLAS;
    'gpu': the first GPU of this process, of whose memory `share` is ours. For tests: 'amx', 'vnni':
    products of bytes by this unit; 'gpu-torch', 'gpu-triton': what may label on a GPU, on the CPU
    where there is none; 'reference': NumPy, obvious. Imports numba or torch only when it is asked
    for, so that reading a model needs none.
    """
    if name == "reference":
        from ray_kmeans.kernels import reference

        return reference.ReferenceKernel()
    if name.startswith("gpu"):
        from ray_kmeans.kernels import gpu

        return gpu.load(name, threads, share)
    from ray_kmeans.kernels import cpu, portable

    if name == "portable":
        return portable.PortableKernel(threads)
    return cpu.CpuKernel(threads, None if name == "cpu" else name)
