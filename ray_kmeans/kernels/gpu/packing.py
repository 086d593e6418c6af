"""Rows in blocks for Triton's programs, as whole steps around references."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ray_kmeans.kernels.gpu import rounding


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
        rounding.round_rows[(len(slots.block_groups),)](
            *(x, slots.order, slots.block_groups, references, scale, packed, *floats, d, chunks),
            ROWS=rows,
            COLUMNS=tile.columns,
        )
        return cls(packed, *floats)
