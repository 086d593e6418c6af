"""Lloyd iterations on the GPU of one machine, beside the fastest libraries there are for it.

    pip install '.[gpu]' flash-kmeans fastkmeans  # and cuVS and cuML from NVIDIA
    python benchmarks/gpu.py

Every contender has the same rows on the GPU, a mixture around k overlapping centers, and the same
initial centers; fastkmeans sends them anew for each sweep, as it does for its users. What is not
installed, or fails, is left out and named.

- assign, update: milliseconds to label all rows, and to add all of them up by their labels; medians
  over the turns. Ours is in its second sweep, when rows have labels from before.
- iteration: a fit of some iterations less a fit of one, shared out. Ours adds up only the rows that
  moved, and copies sums to the host, which divides them.
- wrong: rows of a sample that are not labelled with the nearest center, as float64 sees it.
- of peak: 2 n k d over the time of assign, as a share of the operations on int8 that the chip's
  maker states (dense); empty for a chip that is not in the table.

Ours labels by int8 products and certifies every label; flash-kmeans multiplies float32 as TF32,
and "flash-kmeans fp16" has rows that are float16 already. Without a GPU the command runs on the
CPU, which shows that it works and nothing else.
"""

from __future__ import annotations

import importlib
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import tyro
from lloyd import Matrix, mixture
from peers import compare

from ray_kmeans import kernels
from ray_kmeans.algorithm.metric import Metric
from ray_kmeans.kernels.gpu.kernel import GpuKernel
from ray_kmeans.kernels.gpu.summing import Sums

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
OURS = "gpu" if torch.cuda.is_available() else "gpu-torch"
SHAPES = (
    *((10_500_000, 128, k) for k in (256, 1024, 4096, 65_536)),
    (1_050_000, 512, 16_384),
    (10_000_000, 768, 10_000),
    (1_000_000, 1536, 65_536),
)
INT8_PEAKS = {
    "B200": 4.5e15,
    "H200": 1.979e15,
    "H100 PCIe": 1.513e15,
    "H100": 1.979e15,
    "A100": 6.24e14,
    "L40S": 7.33e14,
    "L4": 2.42e14,
}
"""Dense int8 operations per second, from the data sheets; the first name that a chip's contains."""
SAMPLE = 20_000
CHECKED = 2e10
"""Columns x centers x rows of the sample at most."""


@dataclass(frozen=True)
class Ready:
    """A contender that has the rows."""

    iterate: Callable[[Matrix, int], Any]
    """Do so many iterations from these centers."""
    assign: Callable[[Matrix], Any] | None = None
    """Return labels, on the GPU or the host."""
    update: Callable[[Matrix, Any], Any] | None = None
    """Add the rows up by their labels."""


def ours(rows: Matrix, k: int, name: str) -> Ready:
    kernel: GpuKernel = kernels.load(name)  # type: ignore[assignment]
    scale = np.full(rows.shape[1], 2.0**24)
    held: Any = kernel.hold(
        np.array_split(rows, max(len(rows) // 2**16, 1)), Metric.SQUARED_EUCLIDEAN, k
    )

    def assign(centers: Matrix) -> Any:
        held.label(centers)
        return torch.cat(held._known)

    def update(centers: Matrix, labels: Any) -> None:
        sums = Sums(k, scale, kernel._device)
        for chunk, after in zip(held._chunks, held._known, strict=True):
            sums.move(chunk, torch.full_like(after, -1), after, None)

    def iterate(centers: Matrix, count: int) -> None:
        for _ in range(count):
            sums, counts = held.sums(centers, scale)
            used = counts > 0
            centers = centers.copy()
            centers[used] = sums[used] / (counts[used, None] * scale)

    return Ready(iterate, assign, update)


def plain_torch(rows: Matrix, k: int) -> Ready:
    """One product per chunk with all its float32 bits, and an arg-min."""
    x = torch.from_numpy(rows).to(DEVICE)

    def assign(centers: Matrix) -> Any:
        c = torch.from_numpy(centers).to(DEVICE)
        squares = c.square().sum(dim=1)
        step = max(2**27 // len(c), 1)
        return torch.cat([(squares - 2 * part @ c.T).argmin(dim=1) for part in x.split(step)])

    def update(centers: Matrix, labels: Any) -> Any:
        sums = torch.zeros(centers.shape, device=DEVICE).index_add_(0, labels, x)
        counts = torch.bincount(labels, minlength=len(centers)).clamp(min=1)
        return sums / counts[:, None]

    def iterate(centers: Matrix, count: int) -> None:
        for _ in range(count):
            centers = update(centers, assign(centers)).cpu().numpy()

    return Ready(iterate, assign, update)


def flash(rows: Matrix, k: int, dtype: torch.dtype) -> Ready:
    assigning = importlib.import_module("flash_kmeans.assign_euclid_triton")
    updating = importlib.import_module("flash_kmeans.centroid_update_triton")
    library = importlib.import_module("flash_kmeans")
    x = torch.from_numpy(rows).to(DEVICE).to(dtype)[None]
    squares = x.square().sum(dim=-1)

    def centers_of(centers: Matrix) -> Any:
        return torch.from_numpy(centers).to(DEVICE).to(dtype)[None]

    def assign(centers: Matrix) -> Any:
        return assigning.euclid_assign_triton(x, centers_of(centers), squares)[0]

    def update(centers: Matrix, labels: Any) -> Any:
        given = centers_of(centers)
        return updating.triton_centroid_update_sorted_euclid(x, labels[None], given)

    def iterate(centers: Matrix, count: int) -> None:
        given = centers_of(centers)
        library.batch_kmeans_Euclid(x, k, max_iters=count, tol=-1.0, init_centroids=given)

    return Ready(iterate, assign, update)


def fast(rows: Matrix, k: int) -> Ready:
    """Its own initial centers: it takes none."""
    library = importlib.import_module("fastkmeans")

    def iterate(centers: Matrix, count: int) -> None:
        library.FastKMeans(rows.shape[1], k, niter=count, tol=-1.0).train(rows)

    return Ready(iterate)


def cuvs(rows: Matrix, k: int) -> Ready:
    library = importlib.import_module("cuvs.cluster.kmeans")
    x = torch.from_numpy(rows).to(DEVICE)

    def about(count: int) -> Any:
        return library.KMeansParams(n_clusters=k, init_method="Array", max_iter=count, tol=0.0)

    def assign(centers: Matrix) -> Any:
        labels, _ = library.predict(about(1), x, torch.from_numpy(centers).to(DEVICE))
        return torch.as_tensor(labels, device=DEVICE)

    def iterate(centers: Matrix, count: int) -> None:
        library.fit(about(count), x, centroids=torch.from_numpy(centers).to(DEVICE))

    return Ready(iterate, assign)


def cuml(rows: Matrix, k: int) -> Ready:
    library = importlib.import_module("cuml.cluster")
    x = torch.from_numpy(rows).to(DEVICE)

    def iterate(centers: Matrix, count: int) -> None:
        library.KMeans(n_clusters=k, init=centers, n_init=1, max_iter=count, tol=0.0).fit(x)

    return Ready(iterate)


CONTENDERS: Mapping[str, tuple[str, Callable[[Matrix, int], Ready]]] = {
    "ours": ("ray_kmeans", partial(ours, name=OURS)),
    "ours, torch": ("ray_kmeans", partial(ours, name="gpu-torch")),
    "flash-kmeans": ("flash_kmeans", partial(flash, dtype=torch.float32)),
    "flash-kmeans fp16": ("flash_kmeans", partial(flash, dtype=torch.float16)),
    "fastkmeans": ("fastkmeans", fast),
    "cuVS": ("cuvs", cuvs),
    "cuML": ("cuml", cuml),
    "torch": ("torch", plain_torch),
}
"""Name: (module that must be there, how it gets the rows)."""


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds that a call takes on the GPU, and what it returns."""
    _wait()
    begin = time.perf_counter()
    result = call()
    _wait()
    return time.perf_counter() - begin, result


def _wait() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def figures(ready: Ready, rows: Matrix, centers: Matrix, turns: int, iterations: int) -> list[str]:
    """Return the cells of a contender's line."""
    peak = next((top for name, top in INT8_PEAKS.items() if name in _chip()), None)
    assign = update = wrong = share = ""
    ready.iterate(centers, 1)  # compiles
    if ready.assign is not None:
        ready.assign(centers)
        times = [timed(partial(ready.assign, centers)) for _ in range(turns)]
        seconds = statistics.median(each for each, _ in times)
        labels = times[-1][1]
        assign, wrong = f"{1e3 * seconds:.2f}", _wrong(rows, centers, labels)
        share = f"{2 * rows.size * len(centers) / seconds / peak:.0%}" if peak else ""
        if ready.update is not None:
            each = [timed(partial(ready.update, centers, labels))[0] for _ in range(turns)]
            update = f"{1e3 * statistics.median(each):.2f}"
    wholes = [
        timed(partial(ready.iterate, centers, iterations))[0]
        - timed(partial(ready.iterate, centers, 1))[0]
        for _ in range(turns)
    ]
    whole = 1e3 * statistics.median(wholes) / (iterations - 1)
    return [assign, update, f"{whole:.2f}", wrong, share]


def _wrong(rows: Matrix, centers: Matrix, labels: Any) -> str:
    size = max(min(len(rows), SAMPLE, int(CHECKED / centers.size)), 1)
    here = np.linspace(0, len(rows) - 1, size).astype(np.int64)
    found = labels[torch.from_numpy(here).to(labels.device)].cpu().numpy()
    return f"{compare(rows[here], centers, found)[1]:,} of {size:,}"


def _chip() -> str:
    return torch.cuda.get_device_name() if DEVICE.type == "cuda" else "no GPU"


def main(
    shapes: tuple[tuple[int, int, int], ...] = SHAPES,
    contenders: tuple[str, ...] = tuple(CONTENDERS),
    turns: int = 5,
    iterations: int = 10,
) -> None:
    """Compare; a shape is rows, columns and centers."""
    print(f"{_chip()}, torch {torch.__version__}, ours: {kernels.load(OURS).ready(1, 1, 1)}")
    print("\n| rows | by | assign ms | update ms | iteration ms | wrong | of peak |")
    print("|---|---|---|---|---|---|---|")
    for n, d, k in shapes:
        rows = mixture(n, d, k)
        centers = rows[:: n // k][:k].copy()
        for name in contenders:
            cells = _line(name, rows, centers, turns, iterations)
            print(f"| {n:,} x {d}, k={k:,} | {name} | {' | '.join(cells)} |", flush=True)


def _line(name: str, rows: Matrix, centers: Matrix, turns: int, iterations: int) -> list[str]:
    module, prepare = CONTENDERS[name]
    try:
        importlib.import_module(module)
    except ImportError:
        return ["not installed", *[""] * 4]
    try:
        return figures(prepare(rows, len(centers)), rows, centers, turns, iterations)
    except Exception as error:  # the others go on
        return [f"failed: {type(error).__name__}: {str(error)[:80]!r}", *[""] * 4]
    finally:
        torch.cuda.empty_cache()


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
