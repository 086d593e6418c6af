"""Rows and centers in blocks for Triton's programs, quantized around references."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ray_kmeans.kernels.gpu import quantize


@dataclass(frozen=True)
class Tile:
    """The sizes that one program of `find_lowest_two` works with; speed alone depends on them."""

    rows: int = 128
    """Rows of a block."""
    centers: int = 64
    """Centers that a block of rows is multiplied by at once."""
    columns: int = 128
    """Columns of one product."""
    warps: int = 8
    """Warps of the GPU that run one program."""

    @classmethod
    def of(cls, d: int) -> Tile:
        """Return the sizes for rows of d columns."""
        return cls(columns=32 if d <= 32 else 64 if d <= 64 else 128)


@dataclass(frozen=True)
class Slots:
    """Rows in blocks, each of one group."""

    order: torch.Tensor
    """(slots,) number of the row, -1 where there is none."""
    block_groups: torch.Tensor
    """(blocks,) the group of each block."""

    @classmethod
    def of(cls, group: torch.Tensor, groups: int, size: int) -> Slots:
        """Place rows of these groups (n,) in blocks of `size` slots; no block mixes groups."""
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
class QuantizedVectors:
    """Rows or centers, quantized to one byte a column around their references, slot by slot."""

    packed: torch.Tensor
    """(slots, width) int8, the bytes; width is d up to whole chunks of columns."""
    steps: torch.Tensor
    """(slots,) what one unit of a byte of the row stands for."""
    sizes: torch.Tensor
    """(slots,) |r'|, the length of the quantized row, rounded up."""
    errors: torch.Tensor
    """(slots,) an upper bound of |r - r'|; infinite for a row too far away."""
    squares: torch.Tensor
    """(slots,) |r|^2."""

    @classmethod
    def of(
        cls, x: torch.Tensor, slots: Slots, references: torch.Tensor, scale: float, tile: Tile
    ) -> QuantizedVectors:
        """Quantize rows x (n, d) around references (groups, d), times a scale."""
        count, d = len(slots.order), x.shape[1]
        chunks = -(-d // tile.columns)
        packed = torch.empty(count, chunks * tile.columns, dtype=torch.int8, device=x.device)
        steps, sizes, errors, squares = torch.empty(4, count, device=x.device)
        rows = count // len(slots.block_groups)
        quantize.quantize_rows[(len(slots.block_groups),)](
            x=x,
            order=slots.order,
            block_groups=slots.block_groups,
            references=references,
            scale=scale,
            packed=packed,
            steps=steps,
            sizes=sizes,
            errors=errors,
            squares=squares,
            d=d,
            chunks=chunks,
            ROWS=rows,
            COLUMNS=tile.columns,
        )
        return cls(packed=packed, steps=steps, sizes=sizes, errors=errors, squares=squares)
