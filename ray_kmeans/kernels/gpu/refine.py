"""Rows whose nearest center is not certain: float64 on the device, exact sums for the rest.

A float64 score is off by as much as that of `exact_order.score`; `exact_order.is_nearer` decides
what is left. docs/internals/exactness.md proves it.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from ray_kmeans.kernels import compiled
from ray_kmeans.kernels.gpu.device import steps


def settle(
    rows: torch.Tensor,  # (m, d)  IN
    centers: torch.Tensor,  # (k, d)  IN, float32
    numbers: torch.Tensor,  # (pairs,)  IN, rows, each with one pair at least
    columns: torch.Tensor,  # (pairs,)  IN, centers, of each row in ascending order
    cosine: bool,  # IN
    budget: int,  # IN, bytes of what is worked on at once
) -> torch.Tensor:
    """Return the nearest of the candidates of each row (m,), the lowest one of a tie."""
    found, error = _scores(rows, centers, numbers, columns, cosine, budget)
    upper = torch.full((len(rows),), torch.inf, dtype=torch.float64, device=rows.device)
    upper.scatter_reduce_(0, numbers, found + error, "amin")
    left = found - error <= upper[numbers]
    numbers, columns = numbers[left], columns[left]
    labels = torch.empty(len(rows), dtype=torch.int64, device=rows.device)
    labels[numbers] = columns
    hard = torch.bincount(numbers, minlength=len(rows)) > 1
    if hard.any():
        pairs = hard[numbers]
        places = (hard.cumsum(0) - 1)[numbers[pairs]]
        labels[hard] = _exactly(rows[hard], centers, places, columns[pairs], cosine)
    return labels


def _scores(
    rows: torch.Tensor,
    centers: torch.Tensor,
    numbers: torch.Tensor,
    columns: torch.Tensor,
    cosine: bool,
    budget: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the scores of pairs of a row and a center, and by how much they are off at most.

    Both (pairs,) float64; the arguments are those of `settle`.
    """
    d = rows.shape[1]
    found = torch.empty(len(numbers), dtype=torch.float64, device=rows.device)
    sizes = found if not cosine else torch.empty_like(found)
    for part in steps(len(numbers), 3 * 8 * d, budget):
        x, c = rows[numbers[part]].double(), centers[columns[part]].double()
        if cosine:
            products = x * c
            found[part], sizes[part] = -products.sum(1), products.abs().sum(1)
        else:
            found[part] = (x - c).square().sum(1)
    return found, (d + 8) * 2.0**-53 * sizes


def _exactly(
    rows: torch.Tensor,
    centers: torch.Tensor,
    numbers: torch.Tensor,
    columns: torch.Tensor,
    cosine: bool,
) -> torch.Tensor:
    """Return the nearest candidates of some rows (m,), by `exact_order` on the host.

    The arguments are those of `settle`.
    """
    used, candidates = columns.unique(return_inverse=True)  # in ascending order
    nearest = np.full(len(rows), -1, np.int32)
    compiled.refine_pairs(
        _host(rows.float()),
        _host(centers[used]),
        cosine,
        _host(numbers),
        _host(candidates),
        nearest,
        np.empty((len(rows), 2)),
    )
    return used[torch.from_numpy(nearest).to(used)]


def _host(tensor: torch.Tensor) -> NDArray[np.generic]:
    """Return a copy of a tensor in the memory of the host."""
    array: NDArray[np.generic] = tensor.cpu().numpy()
    return array
