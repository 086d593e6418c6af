"""A session: data that are read once, for any number of fits, evaluations and labelled outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from threading import TIMEOUT_MAX, Lock, Timer
from types import TracebackType
from typing import Any, Protocol, TypeVar, get_args

from ray_kmeans.algorithm.metric import Metric
from ray_kmeans.config import DistanceMetric, RunConfig, check_choice
from ray_kmeans.data.opening import open_source
from ray_kmeans.data.session_source import HoldsRows, SessionSource
from ray_kmeans.data.source import Source
from ray_kmeans.data.stream import is_stream
from ray_kmeans.data.worker_memory import quality_bytes
from ray_kmeans.engine.pool import Pool
from ray_kmeans.engine.shared_pool import SharedPool
from ray_kmeans.errors import ConfigError, WorkersLostError
from ray_kmeans.observe import events as ev
from ray_kmeans.observe.log import LogLines, tell_all, warn
from ray_kmeans.observe.progress import Progress
from ray_kmeans.text.quantities import format_bytes
from ray_kmeans.workflows.evaluate import Evaluation
from ray_kmeans.workflows.label import LabelCounts, blocks_of_a_part
from ray_kmeans.workflows.validation import check_count
from ray_kmeans.workflows.worker_plan import check_reachable, open_pool

MAX_CLUSTERS = 1_000
"""Default of the largest number of clusters for which a session plans its memory."""
MAX_BATCH_SIZE = 65_536
"""Default of the most rows of a mini-batch for which a session plans its memory."""
IDLE_TIMEOUT_S = 3600.0
"""Default of the seconds without a call after which a session ends."""

F = TypeVar("F", bound="Fitter")


class Fitter(Protocol):
    """An estimator or a model, as far as a session calls it."""

    @property
    def fit(self) -> Callable[..., Any]:
        """Method that trains on the rows of a session."""

    @property
    def evaluation(self) -> Callable[..., Evaluation]:
        """Method that measures the model on the rows of a session."""

    @property
    def label(self) -> Callable[..., LabelCounts]:
        """Method that writes labelled output for the rows of a session."""


class Session(HoldsRows):
    """Rows that are read once, and held by workers for any number of calls; see `open_session`.

    The methods of `KMeansClustering` that take data take a session, too: ``km.fit(session)`` is
    ``session.fit(km)``. One call at a time may use it. `open_session` makes it.

    Parameters
    ----------
    source : Source
        The rows.
    config : RunConfig
        Machines and stores.
    metric : Metric
        Distance metric of all fits.
    max_clusters : int
        Largest number of clusters of a fit.
    max_batch_size : int
        Most rows of a mini-batch.
    idle_timeout_s : float
        Seconds without a call after which the workers end.

    Examples
    --------
    >>> import numpy as np
    >>> from ray_kmeans import RunConfig, open_session
    >>> with open_session(np.eye(3), config=RunConfig(num_workers=0, progress=False)) as session:
    ...     session
    <Session of 3 rows x 3, squared_euclidean, open>
    """

    def __init__(
        self,
        source: Source,
        config: RunConfig,
        metric: Metric,
        *,
        max_clusters: int,
        max_batch_size: int,
        idle_timeout_s: float,
    ) -> None:
        """Start the workers and let them read; see `open_session` for the arguments."""
        self.source = SessionSource.of(source, config=config, lend=self._lend, check=self._check)
        self.config = config
        """Machines of the session; the calls of a session have no others."""
        self.metric = metric
        """Distance metric of all fits of the session."""
        self._max_clusters = max_clusters
        self._max_batch_size = max_batch_size
        self._idle_timeout_s = idle_timeout_s
        self._in_use = Lock()
        """Held by the call that uses the workers, or by whoever ends them."""
        self._is_ending = False
        """Whether the workers end as soon as no call uses them."""
        self._uses = 0
        """Number of calls so far, by which a timer that went off too late tells that it did."""
        self._timer: Timer | None = None
        """Ends the session when nobody has used it for the time given."""
        self._stack = ExitStack()
        self._emit: ev.Emit = LogLines()
        """Hears what the pool tells: the listener of the call that runs now."""
        self._shared: SharedPool | None = self._open(source)
        self._wait_for_use()

    def _open(self, source: Source) -> SharedPool:
        """Start the workers, let them read the rows, and return their pool."""
        layout = source.describe()
        check_reachable(self.config, {"the data": source})
        drawn = min(self._max_batch_size, layout.rows - 1)  # a larger batch is all rows
        self._planned_bytes = quality_bytes(layout, self._max_clusters, pairs=0)
        with closing(Progress(self.config.progress)) as progress, self._stack as stack:
            pool = open_pool(
                source,
                layout,
                self._max_clusters,
                self.metric,
                self.config,
                self._tell,
                batch_size=drawn,
                together=blocks_of_a_part(len(layout.blocks)),
                or_fewer=True,
                is_tree=True,
                other_bytes=self._planned_bytes,
            )
            with self._heard_by(tell_all([self._emit, warn, progress])):
                shared = SharedPool(stack.enter_context(pool))
                shared.summarize(ev.begin(self._tell, ev.Phase.READING, layout.rows, "rows"))
            self._stack = stack.pop_all()
        return shared

    def _tell(self, event: ev.Event) -> None:
        """Pass an event of the pool on to whoever listens now."""
        self._emit(event)

    @contextmanager
    def _heard_by(self, emit: ev.Emit) -> Iterator[None]:
        """Let another listener hear what the pool tells meanwhile."""
        before, self._emit = self._emit, emit
        try:
            yield
        finally:
            self._emit = before

    # --- what a user calls

    def fit(self, km: F, **kwargs: Any) -> F:
        """Fit an estimator on the rows; return it.

        Parameters
        ----------
        km : KMeansClustering
            The estimator; its `distance_metric` must be the session's.
        **kwargs : object
            Other arguments of `KMeansClustering.fit`, as `steps`.

        Returns
        -------
        KMeansClustering
            The estimator, with the bits that ``km.fit(data)`` gives.

        Raises
        ------
        ConfigError
            If the session has ended, or was not planned for this fit.
        """
        km.fit(self, **kwargs)
        return km

    def evaluate(self, km: Fitter) -> Evaluation:
        """Return the `Evaluation` of a model on the rows, as ``km.evaluation(data)`` does.

        Parameters
        ----------
        km : KMeansClustering
            A fitted model.

        Returns
        -------
        Evaluation
            Loss, sizes and all other figures.
        """
        return km.evaluation(self)

    def label(self, km: Fitter, output: str, **kwargs: Any) -> LabelCounts:
        """Write labelled output for the rows, as ``km.label(data, output)`` does.

        Parameters
        ----------
        km : KMeansClustering
            A fitted model.
        output : str
            Directory or fsspec URL for the labelled rows.
        **kwargs : object
            Other arguments of `KMeansClustering.label`, as `keep_columns`.

        Returns
        -------
        LabelCounts
            The number of rows, and of those without a cluster.
        """
        return km.label(self, output, **kwargs)

    def close(self) -> None:
        """End the workers, or let the call that uses them now end them. May be called twice."""
        self._is_ending = True
        if self._in_use.acquire(blocking=False):
            try:
                self._end()
            finally:
                self._in_use.release()

    def __enter__(self) -> Session:
        """Return the session, which ends with the block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the workers."""
        self.close()

    def __repr__(self) -> str:
        """Return the rows, the workers' state and the metric in one line."""
        layout = self.source.describe()
        state = "open" if self._is_open else "ended"
        return f"<Session of {layout.rows:,} rows x {layout.features}, {self.metric}, {state}>"

    # --- what the workflows call

    def check_open(self) -> None:
        """Raise ConfigError if the workers have ended."""
        if not self._is_open:
            raise ConfigError(
                "this session has ended (it was closed, lost its workers, or nobody used it for "
                f"session_idle_timeout_s={self._idle_timeout_s:g}). Open another one."
            )

    @contextmanager
    def _lend(
        self,
        num_clusters: int,
        metric: Metric,
        batch_size: int | None,
        emit: ev.Emit | None,
        other_bytes: int,
    ) -> Iterator[Pool]:
        """Give the pool to one call; ConfigError if the session cannot serve it.

        `emit` hears meanwhile what the pool tells, as of workers that are lost; None: the log.
        """
        self._check(num_clusters, metric, batch_size)
        if other_bytes > self._planned_bytes:
            raise ConfigError(
                f"the call takes {format_bytes(other_bytes)} of memory in each worker beside the "
                f"rows, and the session plans {format_bytes(self._planned_bytes)}. Make the call "
                "with the data."
            )
        if not self._in_use.acquire(blocking=False):
            raise ConfigError("another call uses this session now. Let it end, or open another.")
        try:
            self._stop_waiting()
            self.check_open()
            assert self._shared is not None
            with self._heard_by(emit or self._emit), closing(self._shared.lend()) as pool:
                yield pool
        except WorkersLostError:
            self._is_ending = True
            raise
        finally:
            self._wait_for_use()
            self._in_use.release()
            if self._is_ending:  # looked at last: who is told to end it later finds no call
                self.close()

    def _check(self, num_clusters: int, metric: Metric, batch_size: int | None) -> None:
        """Raise ConfigError for a call that the session has no plan for."""
        if metric != self.metric:
            raise ConfigError(
                f"the session holds rows for {str(self.metric)!r} distance, and the model has "
                f"distance_metric={str(metric)!r}. Open a session with that distance_metric."
            )
        for name, value, most in (
            ("clusters", num_clusters, self._max_clusters),
            ("batch_size", batch_size or 0, self._max_batch_size),
        ):
            if value > most:
                raise ConfigError(
                    f"the session has planned memory for max_{name}={most:,}, and the call needs "
                    f"{value:,}. Open it with max_{name}={value}."
                )

    @property
    def _is_open(self) -> bool:
        """Whether there are workers, and nobody has asked to end them."""
        return self._shared is not None and not self._is_ending

    def _wait_for_use(self) -> None:
        """Begin to count the seconds without a call."""
        if self._is_open:
            seconds = min(self._idle_timeout_s, TIMEOUT_MAX)  # a thread cannot wait longer
            self._timer = Timer(seconds, self._end_if_idle, (self._uses,))
            self._timer.daemon = True
            self._timer.start()

    def _stop_waiting(self) -> None:
        """Stop counting: a call begins."""
        self._uses += 1
        if self._timer is not None:
            self._timer.cancel()

    def _end_if_idle(self, uses: int) -> None:
        """End the workers, unless a call has begun since there were this many."""
        if self._in_use.acquire(blocking=False):
            try:
                if uses == self._uses:
                    self._end()
            finally:
                self._in_use.release()

    def _end(self) -> None:
        """End the workers; whoever calls this holds the lock."""
        self._stop_waiting()
        shared, self._shared = self._shared, None
        if shared is not None:
            self._stack.close()


def open_session(
    data: Any,
    *,
    config: RunConfig | None = None,
    distance_metric: DistanceMetric = "squared_euclidean",
    sample_weight: Any = None,
    max_clusters: int = MAX_CLUSTERS,
    max_batch_size: int = MAX_BATCH_SIZE,
    session_idle_timeout_s: float = IDLE_TIMEOUT_S,
) -> Session:
    """Read data once, for any number of fits, evaluations and labelled outputs.

    Parameters
    ----------
    data : array, table, URI or source
        Rows (n, d), as `KMeansClustering.fit` takes them; not an iterator.
    config : RunConfig, default=None
        Machines and stores. None: all defaults. The calls of the session run on these machines;
        the estimators' own `config` decides checkpoints, logs and stores.
    distance_metric : {'squared_euclidean', 'cosine'}, default='squared_euclidean'
        Distance of all fits of the session.
    sample_weight : str or array of shape (n,), default=None
        How often each row counts, as in `KMeansClustering.fit`. A row of weight 0 gets no label.
    max_clusters : int, default=1000
        Largest number of clusters of a fit. The plan counts the memory for it.
    max_batch_size : int, default=65536
        Most rows of a mini-batch. The plan counts the memory for it.
    session_idle_timeout_s : float, default=3600.0
        Seconds without a call after which the workers end.

    Returns
    -------
    Session
        A context manager. Its workers belong to this process and end with it, however it ends.

    Raises
    ------
    ConfigError
        If an argument cannot be used.
    DataError
        If the data cannot be read, or are no table of finite numbers.
    BudgetError
        If a worker would hold more than it may.

    Notes
    -----
    This process coordinates the fits. A worker or node that is lost is replaced, and only its rows
    are read again. Each call gives the bits that it gives without a session. Methods that return
    an answer for each row to this process, `predict` and `transform`, read the rows here.

    Examples
    --------
    >>> import numpy as np, tempfile
    >>> from ray_kmeans import KMeansClustering, RunConfig
    >>> x = np.array([[0, 0], [2, 0], [10, 0], [12, 0]], np.float32)
    >>> here = RunConfig(num_workers=0, progress=False)
    >>> with tempfile.TemporaryDirectory() as place, open_session(x, config=here) as session:
    ...     models = [
    ...         KMeansClustering(k, f"{place}/{k}", x[:k], use_mini_batch=False) for k in (1, 2)
    ...     ]
    ...     [session.evaluate(session.fit(km)).loss for km in models]
    [104.0, 4.0]
    """
    check_choice("distance_metric", distance_metric, get_args(DistanceMetric))
    check_count("max_clusters", max_clusters)
    check_count("max_batch_size", max_batch_size)
    _check_seconds(session_idle_timeout_s)
    config = config or RunConfig()
    if config.detached:
        raise ConfigError("detached=True and a session: its workers belong to this process.")
    if isinstance(data, Session):
        raise ConfigError("the data are a session already. Use it, or give its data.")
    if is_stream(data):
        raise ConfigError(
            f"data of type {type(data).__name__} gives batches once, and a session reads rows "
            "where they are. Give an array, a table, a URI or a source."
        )
    options = config.storage_options
    source = open_source(data, storage_options=options, sample_weight=sample_weight)
    return Session(
        source,
        config,
        Metric(distance_metric),
        max_clusters=max_clusters,
        max_batch_size=max_batch_size,
        idle_timeout_s=session_idle_timeout_s,
    )


def _check_seconds(value: Any) -> None:
    """Raise ConfigError unless the value is a number above 0."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise ConfigError(f"session_idle_timeout_s={value!r} must be a number above 0.")
