"""Labels by products of bytes around references, made by tensor cores; `ByFloats` for the rest."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from ray_kmeans.kernels.gpu import programs
from ray_kmeans.kernels.gpu.device import Device, steps
from ray_kmeans.kernels.gpu.floats import ByFloats

GROUP_ROWS = 4096
"""Rows for which a reference of their own pays."""
REFINEMENTS = 3
ROOM = 1.01
SMALL_E = 2.0**-30
"""Least norm of a center around its reference."""
ABSENT = 3e38
"""The score of a center that is not there."""


@dataclass(frozen=True)
class Tile:
    """What one program of `lowest_two` holds at once; speed alone depends on it."""

    rows: int = 128
    centers: int = 64
    columns: int = 128
    warps: int = 8

    @classmethod
    def of(cls, d: int) -> Tile:
        """Return one for so many columns."""
        return cls(columns=32 if d <= 32 else 64 if d <= 64 else 128)


@dataclass(frozen=True)
class Slots:
    """Rows in blocks, each of one group."""

    order: torch.Tensor
    """(slots,) number of the row, -1 where there is none."""
    block_groups: torch.Tensor
    """(blocks,)"""

    @classmethod
    def of(cls, group: torch.Tensor, groups: int, size: int) -> Slots:
        """Place rows of these groups (n,) in blocks of so many slots."""
        counts = torch.bincount(group, minlength=groups)
        blocks = (counts + size - 1) // size
        shift = (blocks.cumsum(0) - blocks) * size - (counts.cumsum(0) - counts)
        block_groups = torch.repeat_interleave(torch.arange(groups, device=group.device), blocks)
        order = torch.full((len(block_groups) * size,), -1, dtype=torch.int32, device=group.device)
        by_group = group.argsort()
        places = torch.arange(len(group), device=group.device) + shift[group[by_group]]
        order[places] = by_group.int()
        return cls(order, block_groups.int())


@dataclass(frozen=True)
class Bytes:
    """Rows as whole steps around their references."""

    packed: torch.Tensor
    steps: torch.Tensor
    sizes: torch.Tensor
    errors: torch.Tensor
    squares: torch.Tensor

    @classmethod
    def of(
        cls, x: torch.Tensor, slots: Slots, references: torch.Tensor, scale: float, tile: Tile
    ) -> Bytes:
        """Round rows; (slots, width) and (slots,)."""
        count, d = len(slots.order), x.shape[1]
        chunks = -(-d // tile.columns)
        packed = torch.empty(count, chunks * tile.columns, dtype=torch.int8, device=x.device)
        floats = torch.empty(4, count, device=x.device)
        rows = count // len(slots.block_groups)
        programs.round_rows[(len(slots.block_groups),)](
            *(x, slots.order, slots.block_groups, references, scale, packed, *floats, d, chunks),
            ROWS=rows,
            COLUMNS=tile.columns,
        )
        return cls(packed, *floats)


class Around:
    """All centers in bytes around each of some references (groups, d)."""

    def __init__(self, labeller: ByBytes, references: torch.Tensor) -> None:
        self._owner, self._references = labeller, references
        self._tile = tile = labeller.tile
        k, d = labeller.scaled.shape
        groups, padded = len(references), -(-k // tile.centers) * tile.centers
        order = torch.full((groups, padded), -1, dtype=torch.int32, device=references.device)
        order[:, :k] = torch.arange(k, device=references.device)
        block_groups = torch.arange(groups, device=references.device, dtype=torch.int32)
        slots = Slots(order.flatten(), block_groups.repeat_interleave(padded // tile.centers))
        self._centers = Bytes.of(labeller.scaled, slots, references, 1.0, tile)
        self._bound(self._centers, groups, k, d)

    def _bound(self, centers: Bytes, groups: int, k: int, d: int) -> None:
        """Find q - a, E, 2 a and theta, as in `kernels.rounding`."""
        squares = centers.squares.view(groups, -1)
        self._norms = squares.sqrt() * ROOM + SMALL_E
        off = centers.errors.view(groups, -1) + 2.0**-21 * self._norms
        shares = off / self._norms * (1 + 2.0**-20)
        self._thetas = shares[:, :k].amax(dim=1)  # not a number if one is not: no row is certain
        slack = torch.full_like(squares, d * 2.0**-100)
        if self._owner.cosine:
            squares, more = self._products(k)
            slack += more
        slack += ROOM * (2.0**-15 + (d + 16) * 2.0**-24) * squares.abs()
        self._lows, self._slacks = squares - slack, 2 * slack
        self._lows[:, k:] = ABSENT
        for each in (self._norms, self._slacks):
            each[:, k:] = 0

    def _products(self, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return q for 'cosine' and how far it may be off, but for its own share; (groups, slots).

        q = -2 g.e - (|g|^2 - s^2) = |g|^2 + s^2 - 2 g.c, in float64: off by (d + 8) 2^-52 of what
        is added up, and by 2^-23 |g| E as e is rounded.
        """
        g, c = self._references.double(), self._owner.scaled.double()
        square = g.square().sum(dim=1, keepdim=True)
        shift = square + self._owner.scale**2
        q = torch.zeros(self._norms.shape, dtype=torch.float64, device=g.device)
        q[:, :k] = shift - 2 * g @ c.T
        size = shift + 2 * square.sqrt() * c.square().sum(dim=1).max().sqrt()
        more = 2.0**-22 * square.sqrt() * self._norms + (c.shape[1] + 8) * 2.0**-52 * size
        return q.float(), more.float()

    def nearest(self, x: torch.Tensor, group: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return labels (n,) of rows (n, d) of these groups (n,), and which of them are certain."""
        tile = self._tile
        labels = torch.empty(len(x), dtype=torch.int32, device=x.device)
        certain = torch.empty(len(x), dtype=torch.bool, device=x.device)
        slots = Slots.of(group, len(self._references), tile.rows)
        rows = Bytes.of(x, slots, self._references, self._owner.scale, tile)
        chunks = rows.packed.shape[1] // tile.columns
        programs.lowest_two[(len(slots.block_groups),)](
            *(rows.packed, slots.order, rows.steps, rows.sizes, rows.errors, slots.block_groups),
            *(self._centers.packed, self._centers.steps, self._lows, self._norms, self._slacks),
            *(self._thetas, labels, certain, len(self._owner.scaled), chunks),
            ROWS=tile.rows,
            CENTERS=tile.centers,
            COLUMNS=tile.columns,
            WHOLE=chunks == 1,
            num_warps=tile.warps,
        )
        return labels, certain


class ByBytes:
    """Centers that label rows."""

    def __init__(self, rest: ByFloats, rows: int, device: Device, tile: Tile) -> None:
        self._rest = rest
        self._device = device
        self.tile = tile
        self.cosine = rest.cosine
        self.scale = rest.scale
        self.scaled = rest.centers * self.scale
        k, d = self.scaled.shape
        self._groups = min(max(rows // GROUP_ROWS, 1), max(device.piece // (k * (d + 32)), 1), k)

    @np.errstate(over="ignore", invalid="ignore")  # NumPy computes in Triton's interpreter
    def label(self, rows: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
        """Return the labels (n,) of rows (n, d), given those from before, -1 for none."""
        labels = torch.empty_like(before)
        for part in steps(len(rows), 2 * self.scaled.shape[1] + 64, self._device.piece):
            labels[part] = self._label(rows[part], before[part])
        return labels

    def _label(self, rows: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
        around, group_of = self._near
        if self._groups == 1:
            before = torch.zeros_like(before)
        elif (before < 0).any():  # what is found around the mean is a guess, and tells the group
            before, _ = self._far.nearest(rows, torch.zeros_like(before))
        labels, certain = around.nearest(rows, group_of[before])
        some = (~certain).nonzero().flatten()
        if len(some):
            labels[some] = self._rest.label(rows[some])
        return labels

    @cached_property
    def _far(self) -> Around:
        return Around(self, self.scaled.mean(dim=0, keepdim=True))

    @cached_property
    def _near(self) -> tuple[Around, torch.Tensor]:
        references, group_of = references_for(self.scaled, self._groups)
        return Around(self, references), group_of


def references_for(centers: torch.Tensor, groups: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return so many references, and the group of each center (k,).

    The centers themselves or means of some that are near to each other, by Lloyd's algorithm. Only
    speed depends on them, so that sums in any order will do.
    """
    k = len(centers)
    if groups >= k:
        return centers, torch.arange(k, device=centers.device)
    references = centers[:: -(-k // groups)].clone()
    for _ in range(REFINEMENTS):
        nearest = (references.square().sum(dim=1) - 2 * centers @ references.T).argmin(dim=1)
        counts = torch.bincount(nearest, minlength=len(references))
        sums = torch.zeros_like(references).index_add_(0, nearest, centers)
        used = counts > 0
        references[used] = sums[used] / counts[used, None]
    return references, nearest
