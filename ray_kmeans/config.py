"""What a user can choose, as frozen values. Every field: unit, default, when to change it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from typing import Any

from ray_kmeans.errors import ConfigError
from ray_kmeans.text.secrets import redacted


@dataclass(frozen=True)
class MachineOptions:
    """The fields of RunConfig that are flags of every job that has workers."""

    num_workers: int | None = None
    """Worker processes. None: one for each node of the Ray cluster, or as many as cpus_per_worker
    leaves room for; at most one per block of the data. 0: this process alone, without Ray (small
    data, memory:// URLs, debugging)."""

    min_workers: int | None = None
    """Fewest workers with which a fit starts, when worker_start_timeout_s is over, or goes on.
    None: all must start; when some are lost, one that has room for their rows is enough."""

    max_workers: int | None = None
    """Workers that may be there at once: where more than at the start, a running fit takes in what
    nodes come. None: as many as at the start."""

    ray_address: str | None = None
    """Address of a running Ray cluster. None: RAY_ADDRESS where it is set (as in `ray job submit`),
    else a Ray on this machine that ends with this process."""

    cpus_per_worker: float | None = None
    """CPUs that Ray keeps for a worker, which computes in as many threads (in one, below 2). None:
    all that its node has, or 1 where num_workers is given. Lower it to leave CPUs to others."""

    backend: str = "auto"
    """What labels rows and sums them up: 'cpu', or 'gpu' (pip install '.[gpu]' in a clone). 'auto'
    is 'cpu': GPUs are taken by who asks for them. Either gives the same bits."""

    gpus_per_worker: float | None = None
    """With backend='gpu': the GPU, or the share of one, that Ray keeps for a worker, which takes no
    more of its memory. None: 1. Lower it where several workers are to share a GPU."""

    worker_memory_bytes: int | None = None
    """What one worker may hold. None: its share of its node's memory, as Ray counts it."""

    cache: str = "auto"
    """Where workers keep their rows between two sweeps: 'memory'; 'disk' (cache_dir); 'source':
    nowhere, they read the data again for every sweep. 'auto': in memory where that has room for
    them, else on disk. The same bits either way; a sweep from disk takes about as long as reading
    the rows once more, and mini-batches, which want rows from everywhere, far longer."""

    cache_dir: str | None = None
    """Directory for cache='disk', on every node. None: that for temporary files. What is kept there
    has no name and is gone when its worker ends, however it ends."""

    worker_start_timeout_s: float = 300.0
    """Longest wait for the workers to start. Raise it where an autoscaler must add nodes first."""

    worker_replace_timeout_s: float = 30.0
    """Longest wait for another worker after one was lost; then the others take its rows over, as
    far as they have room. Raise it where reading the rows takes long and lost nodes come back."""

    progress: bool = True
    """Draw a progress bar for each phase where standard error is a terminal; in the log of a
    submitted Ray job, write a line at most every 10 seconds instead. Elsewhere nothing is shown."""

    def __post_init__(self) -> None:
        """Raise ConfigError for a value that no run can use."""
        optional = {"num_workers": 0, "min_workers": 1, "max_workers": 1, "worker_memory_bytes": 1}
        for name, low in optional.items():
            if getattr(self, name) is not None:
                self._check_whole(name, low)
        for name in ("worker_start_timeout_s", "worker_replace_timeout_s"):
            self._check_above_zero(name)
        for name in ("cpus_per_worker", "gpus_per_worker"):
            if getattr(self, name) is not None:
                self._check_above_zero(name)
        given = [self.min_workers, self.num_workers or None, self.max_workers]
        ordered = [value for value in given if value is not None]
        if ordered != sorted(ordered):
            raise ConfigError(
                f"min_workers={self.min_workers}, num_workers={self.num_workers} and max_workers="
                f"{self.max_workers} must be in ascending order, as far as they are given."
            )
        if self.cache not in ("auto", "memory", "disk", "source"):
            raise ConfigError(
                f"cache={self.cache!r} is unknown. Give 'auto', 'memory', 'disk' or 'source'."
            )
        if self.backend not in ("auto", "cpu", "gpu"):
            raise ConfigError(f"backend={self.backend!r} is unknown. Give 'auto', 'cpu' or 'gpu'.")
        if self.gpus_per_worker is not None:
            self._check_gpus(self.gpus_per_worker)

    def _check_gpus(self, gpus: float) -> None:
        if self.backend != "gpu":
            raise ConfigError(
                f"gpus_per_worker={gpus!r} needs backend='gpu'; it is {self.backend!r}."
            )
        if gpus > 1:
            raise ConfigError(
                f"gpus_per_worker={gpus!r} is more than a worker can use, which is one. Give 1, or "
                "a share of one, and more workers."
            )

    def _check_whole(self, name: str, low: int) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, Integral) or value < low:
            raise ConfigError(f"{name}={value!r} must be a whole number of at least {low}.")

    def _check_above_zero(self, name: str) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, Real) or not float(value) > 0:
            raise ConfigError(f"{name}={value!r} must be a number above 0.")


@dataclass(frozen=True)
class RunOptions(MachineOptions):
    """The fields of RunConfig that are flags of a fit: also what it saves, and how it goes on."""

    detached: bool = False
    """Let a fit on Ray go on when this process ends. The same call again, from anywhere, follows
    the one that runs; SIGTERM ends it. Not with monitors, which look on from this process."""

    save_checkpoints_steps: int | None = None
    """Iterations between two checkpoints. None: by time. 1 loses least when a fit is killed."""

    save_checkpoints_secs: float = 600.0
    """Seconds between two checkpoints where save_checkpoints_steps is None."""

    keep_checkpoint_max: int = 5
    """Newest checkpoints to keep; older ones are deleted."""

    skip_damaged_checkpoints: bool = False
    """Where the newest checkpoint is damaged, go on from the newest one that is whole, with a
    warning that names the others. False: that is an error. True costs the steps between the two."""

    save_summary_steps: int = 100
    """Steps between two entries of the TensorBoard file in model_dir (loss/raw, global_step/sec,
    rows/sec, shift, empty_clusters). Written where tensorboardX is installed:
    pip install '.[tensorboard]' in a clone."""

    log_step_count_steps: int = 100
    """Steps between two log lines; one comes anyway when 10 seconds have passed. 1 shows all."""

    def __post_init__(self) -> None:
        """Raise ConfigError for a value that no run can use."""
        super().__post_init__()
        if self.save_checkpoints_steps is not None:
            self._check_whole("save_checkpoints_steps", 1)
        self._check_above_zero("save_checkpoints_secs")
        for name in ("keep_checkpoint_max", "log_step_count_steps", "save_summary_steps"):
            self._check_whole(name, 1)
        if self.detached and self.num_workers == 0:
            raise ConfigError("detached=True needs Ray, and num_workers=0 runs without it.")


@dataclass(frozen=True)
class RunConfig(RunOptions):
    """Everything about machines and stores; nothing here changes the result of a fit."""

    model_dir: str | None = None
    """Directory or fsspec URL of the model; the estimator's own argument may give it instead."""

    storage_options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """Passed to fsspec unchanged, for the data and for model_dir (keys, endpoint, ...)."""

    def __post_init__(self) -> None:
        """Raise ConfigError for a value that no run can use."""
        super().__post_init__()
        options: object = self.storage_options
        if not isinstance(options, Mapping):
            kind = type(options).__name__  # the value may hold a secret
            raise ConfigError(f"storage_options is a {kind}; it must be a dict for fsspec.")

    def __repr__(self) -> str:
        shown = (f"{each.name}={getattr(self, each.name)!r}" for each in fields(self) if each.repr)
        return redacted(f"RunConfig({', '.join(shown)})")
