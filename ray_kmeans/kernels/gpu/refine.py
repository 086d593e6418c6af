"""Undecided rows: float64 on the device decides, and exact sums on the host where it cannot.

A float64 score is off by as much as that of `exact_order.score`; `exact_order.is_nearer` decides
what is left. docs/internals/exactness.md proves it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ray_kmeans.kernels import compiled
from ray_kmeans.kernels.gpu.device import cut_slices


def refine_pairs(
    rows: torch.Tensor,  # (m, d)  IN
    centers: torch.Tensor,  # (k, d)  IN, float32
    numbers: torch.Tensor,  # (pairs,)  IN, rows, each with one pair at least
    candidates: torch.Tensor,  # (pairs,)  IN, centers, of each row in ascending order
    cosine: bool,  # IN
    budget: int,  # IN, bytes of what is worked on at once
) -> torch.Tensor:
    """Return the nearest of the candidates of each row (m,), the lowest one of a tie."""
    scores, error = _score_pairs(rows, centers, numbers, candidates, cosine, budget)
    upper = torch.full((len(rows),), torch.inf, dtype=torch.float64, device=rows.device)
    upper.scatter_reduce_(0, numbers, scores + error, "amin")
    # The true nearest candidate is left, as its score is not above the least of the upper ends.
    is_left = scores - error <= upper[numbers]
    numbers, candidates = numbers[is_left], candidates[is_left]
    labels = torch.empty(len(rows), dtype=torch.int64, device=rows.device)
    labels[numbers] = candidates
    unresolved = torch.bincount(numbers, minlength=len(rows)) > 1
    if unresolved.any():
        pairs = unresolved[numbers]
        places = (unresolved.cumsum(0) - 1)[numbers[pairs]]
        labels[unresolved] = _compare_exactly(
            rows[unresolved], centers, places, candidates[pairs], cosine
        )
    return labels


def _score_pairs(
    rows: torch.Tensor,
    centers: torch.Tensor,
    numbers: torch.Tensor,
    candidates: torch.Tensor,
    cosine: bool,
    budget: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the scores of pairs of a row and a center, and by how much they are off at most.

    Both (pairs,) float64; the arguments are those of `refine_pairs`.
    """
    d = rows.shape[1]
    scores = torch.empty(len(numbers), dtype=torch.float64, device=rows.device)
    sizes = scores if not cosine else torch.empty_like(scores)
    for part in cut_slices(len(numbers), 3 * 8 * d, budget):
        x, c = rows[numbers[part]].double(), centers[candidates[part]].double()
        if cosine:
            products = x * c
            scores[part], sizes[part] = -products.sum(1), products.abs().sum(1)
        else:
            scores[part] = (x - c).square().sum(1)
    return scores, (d + 8) * 2.0**-53 * sizes


def _compare_exactly(
    rows: torch.Tensor,
    centers: torch.Tensor,
    numbers: torch.Tensor,
    candidates: torch.Tensor,
    cosine: bool,
) -> torch.Tensor:
    """Return the nearest candidates of some rows (m,), by `exact_order` on the host.

    The arguments are those of `refine_pairs`.
    """
    used, places = candidates.unique(return_inverse=True)  # in ascending order
    nearest = np.full(len(rows), -1, np.int32)
    compiled.refine_pairs(
        _to_host(rows.float()),
        _to_host(centers[used]),
        cosine,
        _to_host(numbers),
        _to_host(places),
        nearest,
        np.empty((len(rows), 2)),
    )
    return used[torch.from_numpy(nearest).to(used)]


def _to_host(tensor: torch.Tensor) -> NDArray[Any]:
    """Return a tensor as an array in the memory of the host."""
    return tensor.cpu().numpy()
