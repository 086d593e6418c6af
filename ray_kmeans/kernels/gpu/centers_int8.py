"""Centers in bytes around references, and what Triton's programs tell of rows with them."""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple

import torch

from ray_kmeans.kernels.gpu import programs
from ray_kmeans.kernels.gpu.packing import Bytes, Slots, Tile

ROOM = 1.01
"""A factor that rounds a norm up: it covers the rounding of a float32 sum."""
SMALL_E = 2.0**-30
"""Least norm of a center around its reference."""
MOST_CANDIDATES = 16
"""Candidates of an undecided row that float64 compares; `ByFloats` labels a row with more."""
ABSENT = 3e38
"""The score of a center that is not there."""


class Scaled(NamedTuple):
    """Centers, times a power of two that rows are multiplied by, too."""

    centers: torch.Tensor
    """(k, d) float32, times the scale."""
    scale: float
    """The power of two, which brings the spread of the centers near 1."""
    cosine: bool
    """Whether the score is -2 x.c, and not |x - c|^2."""


class Placed(NamedTuple):
    """Rows as the programs take them."""

    slots: Slots
    """The blocks that they stand in."""
    rows: Bytes
    """Their bytes."""
    visits: torch.Tensor
    """(blocks,) how many tiles of centers, in order of distance, may hold the nearest one."""


class Around:
    """All centers in bytes around each of some references (groups, d), the nearest ones first."""

    def __init__(
        self, scaled: Scaled, tile: Tile, references: torch.Tensor, group_of: torch.Tensor
    ) -> None:
        self._scaled, self._tile = scaled, tile
        self._references, self._group_of = references, group_of
        k, d = scaled.centers.shape
        groups, padded = len(references), -(-k // tile.centers) * tile.centers
        order = torch.full((groups, padded), -1, dtype=torch.int32, device=references.device)
        order[:, :k] = distances(references, scaled.centers).argsort(dim=1)
        block_groups = torch.arange(groups, device=references.device, dtype=torch.int32)
        slots = Slots(order.flatten(), block_groups.repeat_interleave(padded // tile.centers))
        self._names = order.clamp(min=0)
        self._centers = Bytes.of(scaled.centers, slots, references, 1.0, tile)
        self._bound(self._centers, groups, k, d)

    def _bound(self, centers: Bytes, groups: int, k: int, d: int) -> None:
        """Compute q - a, E, 2 a and theta, which docs/internals/exactness.md derives."""
        squares = centers.squares.view(groups, -1)
        self._norms = squares.sqrt() * ROOM + SMALL_E
        off = centers.errors.view(groups, -1) + 2.0**-21 * self._norms
        shares = off / self._norms * (1 + 2.0**-20)
        self._thetas = shares[:, :k].amax(dim=1)  # not a number if one is not: no row is certain
        self._begins = self._begin(squares, k)
        slack = torch.full_like(squares, d * 2.0**-100)
        if self._scaled.cosine:
            squares, more = self._products(k)
            slack += more
        slack += ROOM * (2.0**-15 + (d + 16) * 2.0**-24) * squares.abs()
        self._lows, self._slacks = squares - slack, 2 * slack
        self._lows[:, k:] = ABSENT
        for each in (self._norms, self._slacks):
            each[:, k:] = 0

    def _begin(self, squares: torch.Tensor, k: int) -> torch.Tensor:
        """Return how near a center of a tile, or of one after it, may be to the reference.

        (groups, tiles), in ascending order.
        """
        nearest = squares.sqrt() / ROOM
        nearest[:, k:] = torch.inf
        of_tiles = nearest.view(len(nearest), -1, self._tile.centers).amin(dim=2)
        return of_tiles.flip(1).cummin(dim=1).values.flip(1)

    def _products(self, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return q for 'cosine' and how far it may be off, but for its own share; (groups, slots).

        q = -2 g.e - (|g|^2 - s^2) = |g|^2 + s^2 - 2 g.c, in float64: off by (d + 8) 2^-52 of what
        is added up, and by 2^-23 |g| E as e is rounded.
        """
        g, c = self._references.double(), self._scaled.centers.double()
        square = g.square().sum(dim=1, keepdim=True)
        shift = square + self._scaled.scale**2
        q = torch.zeros(self._norms.shape, dtype=torch.float64, device=g.device)
        q[:, :k] = (shift - 2 * g @ c.T).gather(1, self._names[:, :k].long())
        size = shift + 2 * square.sqrt() * c.square().sum(dim=1).max().sqrt()
        more = 2.0**-22 * square.sqrt() * self._norms + (c.shape[1] + 8) * 2.0**-52 * size
        return q.float(), more.float()

    @cached_property
    def _radii(self) -> torch.Tensor:
        """How far a center is from the reference of its group, at most; (k,)."""
        k = len(self._group_of)
        by_name = torch.empty(len(self._names), k, device=self._norms.device)
        by_name.scatter_(1, self._names[:, :k].long(), self._norms[:, :k])
        return by_name[self._group_of, torch.arange(k, device=by_name.device)]

    def place(self, x: torch.Tensor, before: torch.Tensor) -> Placed:
        """Return rows (n, d) in blocks by the groups of their centers from before (n,).

        Those of -1 belong to the first group.
        """
        before = before.long()
        group = self._group_of[before.clamp(min=0)]
        slots = Slots.of(group, len(self._references), self._tile.rows)
        rows = Bytes.of(x, slots, self._references, self._scaled.scale, self._tile)
        radii = torch.where(before < 0, torch.inf, self._radii[before.clamp(min=0)])
        return Placed(slots, rows, self._visits(slots, rows, radii))

    def _visits(self, slots: Slots, rows: Bytes, radii: torch.Tensor) -> torch.Tensor:
        """Return the tiles to visit (blocks,): the others hold no center as near as that before.

        |x - c| >= |e| - |r| for a center, and |x - c_b| <= |r| + |e_b| for the one from before.
        """
        if self._scaled.cosine:  # centers are of about one length, but not quite
            return torch.full_like(slots.block_groups, self._begins.shape[1])
        reach = ROOM * (2 * (rows.sizes + rows.errors) + radii[slots.order.clamp(min=0).long()])
        furthest = reach.masked_fill(slots.order < 0, 0).view(len(slots.block_groups), -1).amax(1)
        begins = self._begins[slots.block_groups.long()]
        return (~(begins > furthest[:, None])).sum(dim=1, dtype=torch.int32)

    def nearest(self, placed: Placed, n: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return labels (n,) of rows, where their scores end, and which labels are certain."""
        labels = torch.empty(n, dtype=torch.int32, device=self._norms.device)
        uppers = torch.empty(n, device=labels.device)
        certain = torch.empty(n, dtype=torch.bool, device=labels.device)
        self._run(programs.lowest_two, placed, self._slacks, labels, uppers, certain)
        return labels, uppers, certain

    def candidates(self, placed: Placed, uppers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the centers whose scores begin below these ends (n,).

        (n, MOST_CANDIDATES), k where there are no more; and how many they are, (n,).
        """
        n, k = len(uppers), len(self._group_of)
        shape = n, MOST_CANDIDATES
        found = torch.full(shape, k, dtype=torch.int32, device=uppers.device)
        counts = torch.empty(n, dtype=torch.int32, device=uppers.device)
        about = uppers, found, counts
        self._run(programs.list_candidates, placed, *about, MOST=MOST_CANDIDATES)
        return found, counts

    def _run(self, program: Any, placed: Placed, *about: torch.Tensor, **more: int) -> None:
        """Run a program over all blocks of rows, with its own arguments behind the shared ones."""
        tile, rows, centers = self._tile, placed.rows, self._centers
        chunks = rows.packed.shape[1] // tile.columns
        program[(len(placed.slots.block_groups),)](
            *(rows.packed, placed.slots.order, rows.steps, rows.sizes, rows.errors),
            *(placed.slots.block_groups, placed.visits, centers.packed, centers.steps),
            *(self._lows, self._norms, self._names, self._thetas, *about),
            *(self._begins.shape[1], chunks),
            ROWS=tile.rows,
            CENTERS=tile.centers,
            COLUMNS=tile.columns,
            WHOLE=chunks == 1,
            num_warps=tile.warps,
            **more,
        )


def distances(references: torch.Tensor, centers: torch.Tensor) -> torch.Tensor:
    """Return about |c - g|^2, (groups, k): no label depends on them, but the time it takes."""
    squares = references.square().sum(dim=1)[:, None] + centers.square().sum(dim=1)
    return squares - 2 * references @ centers.T
