"""Labels and sums on a GPU: by torch, and by Triton where that runs. Imported when asked for."""

from __future__ import annotations

from ray_kmeans.errors import ConfigError, install_hint
from ray_kmeans.kernels import Kernel
from ray_kmeans.process import forks

STAGED_BYTES = 2**29
"""Largest number of bytes of rows on their way to a GPU at once, but for their last block."""


def load(name: str, threads: int, share: float) -> Kernel:
    """Return the kernel of a name, as `kernels.load` has it."""
    if name == "gpu":
        check()
    from ray_kmeans.kernels.gpu import kernel  # torch may be missing

    return kernel.load(name, threads, share)


def check() -> None:
    """Raise ConfigError where this process cannot compute on a GPU."""
    try:
        import torch
    except ImportError as error:
        raise ConfigError(
            f"backend='gpu' needs torch, which cannot be imported here ({error}). "
            f"{install_hint('gpu')}"
        ) from error
    forks.check("cuda")
    if not torch.cuda.is_available():
        raise ConfigError(
            f"backend='gpu' needs a GPU, and torch {torch.__version__} sees none here. Install a "
            "torch for the GPU of this machine (pytorch.org/get-started), or give backend='cpu'."
        )
