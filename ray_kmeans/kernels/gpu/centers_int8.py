"""Centers, quantized around references, and the calls of the Triton programs that score rows."""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple

import torch

from ray_kmeans.kernels.gpu import programs
from ray_kmeans.kernels.gpu.packing import QuantizedVectors, Slots, Tile

ROOM = 1.01
"""A factor that rounds a norm up: it covers the rounding of a float32 sum."""
SMALL_E = 2.0**-30
"""Least norm of a center around its reference."""
MOST_CANDIDATES = 16
"""Candidates of an undecided row that float64 compares; a row with more is deferred."""
NEVER = 3e38
"""Where the score of a padding center begins: above that of any real one."""


class ScaledCenters(NamedTuple):
    """Centers, times a power of two that rows are multiplied by, too."""

    centers: torch.Tensor
    """(k, d) float32, times the scale."""
    scale: float
    """The power of two, which brings the spread of the centers near 1."""
    cosine: bool
    """Whether the score is -2 x.c, and not |x - c|^2."""


class PlacedRows(NamedTuple):
    """Rows in blocks, quantized, and pruned for each block, as the programs take them."""

    slots: Slots
    """The order of the rows in blocks of one group each."""
    rows: QuantizedVectors
    """The rows in bytes, slot by slot."""
    n_kept: torch.Tensor
    """(blocks,) how many tiles of centers pruning keeps: those nearest to the reference."""


class CenterPanels:
    """All centers, quantized around each of some references (groups, d), the nearest ones first."""

    def __init__(
        self, scaled: ScaledCenters, tile: Tile, references: torch.Tensor, group_of: torch.Tensor
    ) -> None:
        self._scaled, self._tile = scaled, tile
        self._references, self._group_of = references, group_of
        k, d = scaled.centers.shape
        groups, padded = len(references), -(-k // tile.centers) * tile.centers
        # In the order of their distance, so that pruning cuts off the last tiles of a group.
        order = torch.full((groups, padded), -1, dtype=torch.int32, device=references.device)
        order[:, :k] = rough_distances(references, scaled.centers).argsort(dim=1)
        block_groups = torch.arange(groups, device=references.device, dtype=torch.int32)
        slots = Slots(order.flatten(), block_groups.repeat_interleave(padded // tile.centers))
        self._numbers = order.clamp(min=0)
        self._centers = QuantizedVectors.of(scaled.centers, slots, references, 1.0, tile)
        self._compute_terms(self._centers, groups, k, d)

    def _compute_terms(self, centers: QuantizedVectors, groups: int, k: int, d: int) -> None:
        """Compute q - a, E, 2 a and theta, which docs/internals/exactness.md derives."""
        squares = centers.squares.view(groups, -1)
        self._norms = squares.sqrt() * ROOM + SMALL_E
        off = centers.errors.view(groups, -1) + 2.0**-21 * self._norms
        shares = off / self._norms * (1 + 2.0**-20)
        self._thetas = shares[:, :k].amax(dim=1)  # not a number if one is not: no row is certain
        self._tile_distances = self._compute_tile_distances(squares, k)
        slack = torch.full_like(squares, d * 2.0**-100)
        if self._scaled.cosine:
            squares, more = self._compute_cosine_constants(k)
            slack += more
        slack += ROOM * (2.0**-15 + (d + 16) * 2.0**-24) * squares.abs()
        self._lows, self._slacks = squares - slack, 2 * slack
        self._lows[:, k:] = NEVER
        for each in (self._norms, self._slacks):
            each[:, k:] = 0

    def _compute_tile_distances(self, squares: torch.Tensor, k: int) -> torch.Tensor:
        """Return how near a center of a tile, or of one after it, may be to the reference.

        (groups, tiles), in ascending order.
        """
        norms = squares.sqrt() / ROOM
        norms[:, k:] = torch.inf
        of_tiles = norms.view(len(norms), -1, self._tile.centers).amin(dim=2)
        return of_tiles.flip(1).cummin(dim=1).values.flip(1)

    def _compute_cosine_constants(self, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return q for 'cosine' and how far it may be off, but for its own share; (groups, slots).

        q = -2 g.e - (|g|^2 - s^2) = |g|^2 + s^2 - 2 g.c, in float64: off by (d + 8) 2^-52 of what
        is added up, and by 2^-23 |g| E as e is rounded.
        """
        g, c = self._references.double(), self._scaled.centers.double()
        square = g.square().sum(dim=1, keepdim=True)
        shift = square + self._scaled.scale**2
        q = torch.zeros(self._norms.shape, dtype=torch.float64, device=g.device)
        q[:, :k] = (shift - 2 * g @ c.T).gather(1, self._numbers[:, :k].long())
        size = shift + 2 * square.sqrt() * c.square().sum(dim=1).max().sqrt()
        more = 2.0**-22 * square.sqrt() * self._norms + (c.shape[1] + 8) * 2.0**-52 * size
        return q.float(), more.float()

    @cached_property
    def _radii(self) -> torch.Tensor:
        """(k,) how far each center is from the reference of its group, rounded up."""
        k = len(self._group_of)
        by_number = torch.empty(len(self._numbers), k, device=self._norms.device)
        by_number.scatter_(1, self._numbers[:, :k].long(), self._norms[:, :k])
        return by_number[self._group_of, torch.arange(k, device=by_number.device)]

    def place_rows(self, x: torch.Tensor, before: torch.Tensor) -> PlacedRows:
        """Put rows (n, d) into blocks by the group of the label that each had before (n,).

        Rows that had none, which is -1, belong to the first group.
        """
        before = before.long()
        group = self._group_of[before.clamp(min=0)]
        slots = Slots.of(group, len(self._references), self._tile.rows)
        rows = QuantizedVectors.of(x, slots, self._references, self._scaled.scale, self._tile)
        radii = torch.where(before < 0, torch.inf, self._radii[before.clamp(min=0)])
        return PlacedRows(slots, rows, self._prune_tiles(slots, rows, radii))

    def _prune_tiles(
        self, slots: Slots, rows: QuantizedVectors, radii: torch.Tensor
    ) -> torch.Tensor:
        """Return how many tiles of centers each block keeps, (blocks,) int32.

        The other tiles hold no center that is as near to a row as the one that it had before: for a
        center |x - c| >= |e| - |r|, and for the one from before |x - c_b| <= |r| + |e_b|.
        """
        if self._scaled.cosine:  # centers are of about one length, but not quite
            return torch.full_like(slots.block_groups, self._tile_distances.shape[1])
        reach = ROOM * (2 * (rows.sizes + rows.errors) + radii[slots.order.clamp(min=0).long()])
        furthest = reach.masked_fill(slots.order < 0, 0).view(len(slots.block_groups), -1).amax(1)
        distances = self._tile_distances[slots.block_groups.long()]
        return (~(distances > furthest[:, None])).sum(dim=1, dtype=torch.int32)

    def find_nearest(
        self, placed: PlacedRows, n: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return labels (n,) of rows, where their scores end, and which labels are certified."""
        labels = torch.empty(n, dtype=torch.int32, device=self._norms.device)
        uppers = torch.empty(n, device=labels.device)
        certified = torch.empty(n, dtype=torch.bool, device=labels.device)
        self._run(
            programs.find_lowest_two,
            placed,
            slacks=self._slacks,
            labels=labels,
            uppers=uppers,
            certified=certified,
        )
        return labels, uppers, certified

    def list_candidates(
        self, placed: PlacedRows, uppers: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the centers whose scores begin below the upper bounds (n,), and their counts (n,).

        The centers are (n, MOST_CANDIDATES) int32, filled up with k. A count may be larger.
        """
        n, k = len(uppers), len(self._group_of)
        found = torch.full((n, MOST_CANDIDATES), k, dtype=torch.int32, device=uppers.device)
        counts = torch.empty(n, dtype=torch.int32, device=uppers.device)
        self._run(
            programs.list_candidates,
            placed,
            uppers=uppers,
            found=found,
            counts=counts,
            MOST=MOST_CANDIDATES,
        )
        return found, counts

    def _run(self, program: Any, placed: PlacedRows, **own: torch.Tensor | int) -> None:
        """Run a program over all blocks of rows, with the arguments that both share and its own."""
        tile, rows, centers = self._tile, placed.rows, self._centers
        chunks = rows.packed.shape[1] // tile.columns
        program[(len(placed.slots.block_groups),)](
            packed=rows.packed,
            order=placed.slots.order,
            steps=rows.steps,
            sizes=rows.sizes,
            errors=rows.errors,
            block_groups=placed.slots.block_groups,
            n_kept=placed.n_kept,
            panels=centers.packed,
            center_steps=centers.steps,
            lows=self._lows,
            norms=self._norms,
            numbers=self._numbers,
            thetas=self._thetas,
            tiles=self._tile_distances.shape[1],
            chunks=chunks,
            ROWS=tile.rows,
            CENTERS=tile.centers,
            COLUMNS=tile.columns,
            WHOLE=chunks == 1,
            num_warps=tile.warps,
            **own,
        )


def rough_distances(references: torch.Tensor, centers: torch.Tensor) -> torch.Tensor:
    """Return |c - g|^2, (groups, k), but for rounding: speed depends on them, and no label does."""
    squares = references.square().sum(dim=1)[:, None] + centers.square().sum(dim=1)
    return squares - 2 * references @ centers.T
