"""What a user can choose: the names of all choices, and `RunConfig`.

Each choice has one list of its names, a `Literal` type here. Annotations, checks and flags take
them from it. Each field of a configuration says its unit, its default and when to change it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from typing import Any, Literal, TypeAlias, get_args

from ray_kmeans.errors import ConfigError
from ray_kmeans.text.secrets import redacted

DistanceMetric: TypeAlias = Literal["squared_euclidean", "cosine"]
"""How the distance of a row to a center is measured."""
InitialMethod: TypeAlias = Literal["random", "kmeans_plus_plus", "kmc2", "kmeans_parallel"]
"""How initial centers are chosen among the rows."""
EmptyClusters: TypeAlias = Literal["keep", "farthest", "split_largest"]
"""What becomes of the center of a cluster that has no row."""
LeafQuota: TypeAlias = Literal["loss", "rows"]
"""What the number of children of a node of a tree is in proportion to."""
NonFinite: TypeAlias = Literal["error", "drop"]
"""What becomes of rows with NaN, null or infinity."""
Backend: TypeAlias = Literal["auto", "cpu", "gpu"]
"""What labels rows and sums them up."""
Cache: TypeAlias = Literal["auto", "memory", "disk", "source"]
"""Where workers keep their rows between two sweeps."""
Output: TypeAlias = Literal["all_scores", "cluster_idx", "distance"]
"""What a model can say of a row."""
Mode: TypeAlias = Literal["train", "eval", "infer"]
"""What `KMeansClustering.model_fn` is called for."""
Work: TypeAlias = Literal["fit", "label", "evaluate"]
"""What `KMeansClustering.explain` can explain."""
CenterFormat: TypeAlias = Literal[
    "parquet",
    "npy",
    "npz",
    "safetensors",
    "faiss",
    "faiss-flat",
    "lance",
    "vectorchord",
    "vectorchord-parquet",
]
"""The formats that the centers of a model can be written in."""
ExportFormat: TypeAlias = Literal["onnx", "savedmodel", CenterFormat]
"""The formats that a model can be written in for others."""
Preset: TypeAlias = Literal["best"]
"""The settings of a fit that one word chooses."""
DatasetFormat: TypeAlias = Literal["parquet", "npy"]
"""The formats that a synthetic data set can be written in."""


def check_choice(name: str, value: Any, choices: Sequence[str], more: str = "") -> None:
    """Raise ConfigError unless the value is one of the choices.

    `name` is the argument that the message names; `more` says what else it may be.
    """
    if not isinstance(value, str) or value not in choices:
        listed = ", ".join(map(repr, choices))
        raise ConfigError(f"{name}={value!r} is unknown. Give one of {listed}{more}.")


@dataclass(frozen=True)
class MachineOptions:
    """The fields of RunConfig that are flags of every job that has workers."""

    num_workers: int | None = None
    """Number of worker processes. None: one for each node of the Ray cluster, or as many as
    cpus_per_worker leaves room for; at most one per block of the data. 0: this process alone,
    without Ray (small data, memory:// URLs, debugging)."""

    min_workers: int | None = None
    """Fewest workers with which a fit starts when worker_start_timeout_s is over, and with which it
    goes on. None: all must start; when some are lost, one that has room for their rows is
    enough."""

    max_workers: int | None = None
    """Most workers at the same time. Above the number at the start, a running fit uses the nodes
    that join the Ray cluster later. None: as many as at the start."""

    ray_address: str | None = None
    """Address of a running Ray cluster. None: RAY_ADDRESS where it is set (as in `ray job submit`),
    else a Ray on this machine that ends with this process."""

    cpus_per_worker: float | None = None
    """CPUs that Ray reserves for each worker, which computes in as many threads (in one, below 2).
    None: all that its node has, or 1 where num_workers is given. Lower it to leave CPUs to
    others."""

    backend: Backend = "auto"
    """Device that labels rows and sums them up: 'cpu', or 'gpu' (pip install '.[gpu]' in a clone).
    'auto' is 'cpu': GPUs are used only by those who ask for them. Either gives the same bits."""

    gpus_per_worker: float | None = None
    """With backend='gpu': GPUs, at most 1, that Ray reserves for each worker, which takes no larger
    share of its memory. None: 1. Lower it where several workers are to share a GPU."""

    worker_memory_bytes: int | None = None
    """Bytes of memory that one worker may hold. None: its share of its node's memory, as Ray counts
    it."""

    cache: Cache = "auto"
    """Place where workers keep their rows between two sweeps: 'memory'; 'disk' (cache_dir);
    'source': nowhere, they read the data again for every sweep. 'auto': in memory where that has
    room for them, else on disk. All give the same bits. A sweep from disk takes about as long as
    reading the rows once more; mini-batches, which read rows from everywhere, take far longer."""

    cache_dir: str | None = None
    """Directory for cache='disk', on every node. None: the one for temporary files. The files there
    have no name and are gone when their worker ends, however it ends."""

    worker_start_timeout_s: float = 300.0
    """Longest wait in seconds for the workers to start. Raise it where an autoscaler must add nodes
    first."""

    worker_replace_timeout_s: float = 30.0
    """Longest wait in seconds for another worker after one was lost; after it the others take over
    its rows, if they have room. Raise it where reading the rows takes long and lost nodes come
    back."""

    progress: bool = True
    """Whether each phase has a progress bar where standard error is a terminal, and a line at most
    every 10 seconds in the log of a submitted Ray job. Elsewhere nothing is shown."""

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
        check_choice("cache", self.cache, get_args(Cache))
        check_choice("backend", self.backend, get_args(Backend))
        if self.gpus_per_worker is not None:
            self._check_gpus(self.gpus_per_worker)

    def _check_gpus(self, gpus: float) -> None:
        """Raise ConfigError unless a worker can use this number of GPUs, or this share of one."""
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
        """Raise ConfigError unless the field is a whole number of at least `low`."""
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, Integral) or value < low:
            raise ConfigError(f"{name}={value!r} must be a whole number of at least {low}.")

    def _check_above_zero(self, name: str) -> None:
        """Raise ConfigError unless the field is a number above 0."""
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, Real) or not float(value) > 0:
            raise ConfigError(f"{name}={value!r} must be a number above 0.")


@dataclass(frozen=True)
class RunOptions(MachineOptions):
    """The fields of RunConfig that are flags of a fit: machines, saving and logging."""

    detached: bool = False
    """Whether a fit on Ray goes on when this process ends. The same call again, from anywhere,
    follows the fit that runs; SIGTERM ends it. Not with monitors, which run in this process."""

    save_checkpoints_steps: int | None = None
    """Iterations between two checkpoints. None: by time. 1 loses least when a fit is killed."""

    save_checkpoints_secs: float = 600.0
    """Seconds between two checkpoints if save_checkpoints_steps is None."""

    keep_checkpoint_max: int = 5
    """Number of the newest checkpoints to keep; older ones are deleted."""

    skip_damaged_checkpoints: bool = False
    """Whether a fit whose newest checkpoint is damaged goes on from the newest one that is whole,
    with a warning that names the others; this costs the steps between the two. False: a damaged
    checkpoint is an error."""

    save_summary_steps: int = 100
    """Steps between two entries of the TensorBoard file in model_dir (loss/raw, global_step/sec,
    rows/sec, shift, empty_clusters)."""

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
    """Choose machines, stores and checkpoints; nothing here changes the result of a fit.

    Parameters
    ----------
    num_workers : int or None, default=None
        Number of worker processes. None: one for each node of the Ray cluster. 0: no Ray, all in
        this process.
    min_workers : int or None, default=None
        Fewest workers with which a fit starts or goes on. None: all to start, one after a loss.
    max_workers : int or None, default=None
        Most workers at the same time, where nodes join later. None: as many as at the start.
    ray_address : str or None, default=None
        Address of a running Ray cluster. None: RAY_ADDRESS where it is set, else a Ray on this
        machine.
    cpus_per_worker : float or None, default=None
        CPUs, and threads, of each worker. None: all of its node, or 1 where `num_workers` is given.
    backend : {'auto', 'cpu', 'gpu'}, default='auto'
        Device that labels rows and sums them up. 'auto' is 'cpu'.
    gpus_per_worker : float or None, default=None
        GPUs of each worker, at most 1. None: 1 with ``backend='gpu'``.
    worker_memory_bytes : int or None, default=None
        Bytes of memory that one worker may hold. None: its share of its node's memory.
    cache : {'auto', 'memory', 'disk', 'source'}, default='auto'
        Place where workers keep their rows between two sweeps. 'source': they read them again.
    cache_dir : str or None, default=None
        Directory of every node for ``cache='disk'``. None: the one for temporary files.
    worker_start_timeout_s : float, default=300.0
        Longest wait in seconds for the workers to start.
    worker_replace_timeout_s : float, default=30.0
        Longest wait in seconds for another worker after one was lost.
    progress : bool, default=True
        Whether progress is shown on a terminal and in the log of a submitted job.
    detached : bool, default=False
        Whether a fit on Ray goes on when this process ends.
    save_checkpoints_steps : int or None, default=None
        Iterations between two checkpoints. None: by time.
    save_checkpoints_secs : float, default=600.0
        Seconds between two checkpoints where `save_checkpoints_steps` is None.
    keep_checkpoint_max : int, default=5
        Number of the newest checkpoints to keep.
    skip_damaged_checkpoints : bool, default=False
        Whether a fit goes on from an older checkpoint where the newest one is damaged.
    save_summary_steps : int, default=100
        Steps between two entries of the TensorBoard file.
    log_step_count_steps : int, default=100
        Steps between two log lines.
    model_dir : str or None, default=None
        Directory or fsspec URL of the model, where the estimator's own argument does not give it.
    storage_options : dict, default={}
        Options passed to fsspec unchanged, for the data and for `model_dir`. Never shown.

    Raises
    ------
    ConfigError
        If a value is one that no run can use.

    Examples
    --------
    >>> RunConfig(num_workers=0).keep_checkpoint_max
    5
    >>> RunConfig(cache="tape")
    Traceback (most recent call last):
    ray_kmeans.errors.ConfigError: cache='tape' is unknown. Give one of 'auto', 'memory', 'disk', \
'source'.
    """

    model_dir: str | None = None
    """Directory or fsspec URL of the model; the estimator's own argument may give it instead."""

    storage_options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """Options passed to fsspec unchanged, for the data and for model_dir (keys, endpoint, ...)."""

    def __post_init__(self) -> None:
        """Raise ConfigError for a value that no run can use."""
        super().__post_init__()
        options: object = self.storage_options
        if not isinstance(options, Mapping):
            kind = type(options).__name__  # the value may hold a secret
            raise ConfigError(f"storage_options is a {kind}; it must be a dict for fsspec.")

    def __repr__(self) -> str:
        """Return all fields but those that may hold secrets; secrets inside of URLs are hidden."""
        shown = (f"{each.name}={getattr(self, each.name)!r}" for each in fields(self) if each.repr)
        return redacted(f"RunConfig({', '.join(shown)})")
