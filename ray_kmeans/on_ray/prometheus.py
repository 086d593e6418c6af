"""Metrics of a run for Prometheus, through Ray's own metrics."""

from __future__ import annotations

from ray.util.metrics import Counter, Gauge, Histogram

from ray_kmeans.observe import events as ev

BOUNDARIES = [base * 10.0**power for power in range(-3, 4) for base in (1, 2, 5)]
"""Upper bounds of the histogram's bins, in seconds: 1, 2, 5 ms to 1, 2, 5 thousand s."""


class RayMetrics:
    """Counts the events of the runs of this process; the Ray agent on its node serves the metrics.

    Notes
    -----
    Ray puts ``ray_`` before a name and ``_total`` behind that of a counter:

    =====================================  =====================================================
    `ray_kmeans_rows_total`                rows visited by steps
    `ray_kmeans_iterations_total`          steps
    `ray_kmeans_seconds_total`             seconds by `part`: reading, seeding, checkpoint, and of
                                           the steps compute, wait, reduce
    `ray_kmeans_iteration_seconds`         histogram of the seconds of a step; Ray knows its
                                           classes only, so its sum is an estimate
    `ray_kmeans_loaded_bytes_total`        size of the rows loaded, as float32
    `ray_kmeans_checkpoints_total`         checkpoints saved
    `ray_kmeans_replacements_total`        dead processes replaced, by `role`: worker, coordinator
    `ray_kmeans_rows_per_second`           of the last step
    `ray_kmeans_inertia`                   of the last step
    `ray_kmeans_empty_clusters`            of the last step
    =====================================  =====================================================

    Ray adds labels of its own: of the session, the node and the process. A counter appears with its
    first event. Steps that are made again after a loss count again: they are work. A gauge is
    served for two of Ray's reports (20 s) after each step, so there are gaps in long steps.

    A run without Ray (``num_workers=0``) has none of this. Nodes need the extra ``[jobs]``, whose
    Ray has the agent that serves.
    """

    def __init__(self) -> None:
        """Register all metrics with Ray."""
        self._rows = Counter("kmeans_rows", "Rows visited by steps.")
        self._iterations = Counter("kmeans_iterations", "Steps.")
        self._seconds = Counter("kmeans_seconds", "Seconds by part of a run.", ("part",))
        self._lengths = Histogram("kmeans_iteration_seconds", "Seconds of a step.", BOUNDARIES)
        self._bytes = Counter("kmeans_loaded_bytes", "Size of the rows loaded, as float32.")
        self._checkpoints = Counter("kmeans_checkpoints", "Checkpoints saved.")
        self._replaced = Counter("kmeans_replacements", "Dead processes replaced.", ("role",))
        self._speed = Gauge("kmeans_rows_per_second", "Rows for each second of the last step.")
        self._inertia = Gauge("kmeans_inertia", "Inertia of the last step.")
        self._empty = Gauge("kmeans_empty_clusters", "Clusters without a row in the last step.")

    def __call__(self, event: ev.Event) -> None:
        """Add what an event tells to the metrics."""
        match event:
            case ev.DataLoaded():
                self._bytes.inc(event.num_bytes)
                self._spent(reading=event.seconds)
            case ev.Seeded():
                self._spent(seeding=event.seconds)
            case ev.IterationDone():
                self._iteration(event)
            case ev.CheckpointSaved():
                self._checkpoints.inc()
                self._spent(checkpoint=event.seconds)
            case ev.WorkerReplaced():
                self._replaced.inc(tags={"role": "worker"})
            case ev.CoordinatorReplaced():
                self._replaced.inc(tags={"role": "coordinator"})

    def _iteration(self, event: ev.IterationDone) -> None:
        """Count a step."""
        self._iterations.inc()
        self._rows.inc(event.line.rows)
        self._lengths.observe(event.seconds)
        self._spent(compute=event.compute, wait=event.wait, reduce=event.reduce)
        self._speed.set(event.rows_per_s)
        self._inertia.set(event.line.inertia)
        self._empty.set(event.line.empty)

    def _spent(self, **seconds: float) -> None:
        """Count the seconds of these parts."""
        for part, value in seconds.items():
            if value > 0:  # what Ray's counters take
                self._seconds.inc(value, {"part": part})
