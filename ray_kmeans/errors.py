"""Every error that this package raises on purpose.

The built-in classes in brackets are their bases, too::

    RayKMeansError
        ConfigError (ValueError)
            ClusterError
            ModelMismatchError
            BudgetError
        DataError (ValueError)
            NoDataError (FileNotFoundError)
            NoColumnError
            NonFiniteError
            TooFewRowsError
        NotFittedError (ValueError, AttributeError)
        StoreError (OSError)
            BusyError
            LeaseLostError
            CheckpointError
            DiskFullError
            RequestError
        WorkersLostError (RuntimeError)
        NoRoomError (MemoryError)
        RunStoppedError (RuntimeError)

A class that has fields gives them to ``Exception.__init__`` and makes the message of them in
``sentence``: pickle rebuilds an exception from ``args``, so it crosses Ray unchanged.
"""

from __future__ import annotations

from ray_kmeans.text.one_line import in_one_line


def install_hint(extra: str) -> str:
    """Return the sentence that says how to install the packages of an extra.

    >>> install_hint("s3")
    "Run in a clone of ray-kmeans: pip install '.[s3]'."
    """
    return f"Run in a clone of ray-kmeans: pip install '.[{extra}]'."


class RayKMeansError(Exception):
    """Base class of all errors here: ``except RayKMeansError`` catches them and nothing else."""

    def __str__(self) -> str:
        return in_one_line(self.sentence())

    def sentence(self) -> str:
        """Return the message with names as they are; `str` puts it into one line."""
        return super().__str__()


class ConfigError(RayKMeansError, ValueError):
    """An argument cannot be used; raised before any worker starts."""


class ClusterError(ConfigError):
    """The Ray cluster is not there, or can never hold the workers that are asked for."""


class ModelMismatchError(ConfigError):
    """``model_dir`` holds a model of another kind than the call asks for."""

    def __init__(self, model_dir: str, found: str, asked: str) -> None:
        super().__init__(model_dir, found, asked)
        self.model_dir = model_dir
        self.found = found
        self.asked = asked

    def sentence(self) -> str:
        return (
            f"model_dir={self.model_dir!r} holds a model with {self.found}, but this call asks for "
            f"{self.asked}. Give another model_dir, or ask for what the model has."
        )


class BudgetError(ConfigError):
    """A worker would hold more than its memory allows."""

    def __init__(self, needed_bytes: int, allowed_bytes: int, detail: str) -> None:
        super().__init__(needed_bytes, allowed_bytes, detail)
        self.needed_bytes = needed_bytes
        self.allowed_bytes = allowed_bytes
        self.detail = detail

    def sentence(self) -> str:
        return (
            f"a worker would hold {self.needed_bytes:,} bytes and may hold {self.allowed_bytes:,} "
            f"({self.detail}). Give more workers on more nodes (num_workers), lower num_clusters, "
            "or raise worker_memory_bytes."
        )


class DataError(RayKMeansError, ValueError):
    """The data cannot be clustered as they are; never retried."""


class NoDataError(DataError, FileNotFoundError):
    """There is nothing to read at a place."""

    def sentence(self) -> str:
        return str(self.args[0])


class NoColumnError(DataError):
    """A column that is to be passed through is not in a file."""


class NonFiniteError(DataError):
    """The data hold rows with NaN, null or infinity.

    ``places`` holds (where, rows, first row) for every file and row group that has some; the first
    row is its number in the file, from 0. ``columns`` names for each place the column of that first
    row, as "column 'x'".
    """

    def __init__(
        self, places: tuple[tuple[str, int, int], ...], columns: tuple[str, ...] = ()
    ) -> None:
        super().__init__(places, columns)
        self.places = places
        self.columns = columns

    def sentence(self) -> str:
        total = sum(rows for _, rows, _ in self.places)
        columns = [f", {column}" for column in self.columns] or [""] * len(self.places)
        shown = ", ".join(
            f"{rows:,} in {where} (the first is row {first:,}{column})"
            for (where, rows, first), column in zip(self.places[:5], columns, strict=False)
        )
        more = f" and {len(self.places) - 5} more places" if len(self.places) > 5 else ""
        return (
            f"{total:,} rows hold NaN, null or infinity: {shown}{more}. "
            "Remove or fill these rows, or leave them out with nonfinite='drop' "
            "(--nonfinite drop); distances to them mean nothing."
        )


class TooFewRowsError(DataError):
    """The data have fewer rows than clusters are asked for."""

    def __init__(self, rows: int, num_clusters: int) -> None:
        super().__init__(rows, num_clusters)
        self.rows = rows
        self.num_clusters = num_clusters

    def sentence(self) -> str:
        return (
            f"num_clusters={self.num_clusters:,} is more than the {self.rows:,} rows of the data. "
            "Lower num_clusters, or give more rows."
        )


class NotFittedError(RayKMeansError, ValueError, AttributeError):
    """There is no model yet where one is needed."""


class StoreError(RayKMeansError, OSError):
    """A file or directory cannot be written or read."""


class BusyError(StoreError):
    """Another run writes to the place that this one was given."""

    def __init__(self, place: str, holder: str, runs_for: str) -> None:
        super().__init__(place, holder, runs_for)
        self.place = place
        self.holder = holder
        self.runs_for = runs_for

    def sentence(self) -> str:
        return (
            f"{self.place!r} is in use by a {self.holder}, which has run for {self.runs_for}. "
            "Wait until it ends, or end it; or give another place."
        )


class LeaseLostError(StoreError):
    """Another run has taken over the place that this one was writing to."""

    def __init__(self, place: str, holder: str) -> None:
        super().__init__(place, holder)
        self.place = place
        self.holder = holder

    def sentence(self) -> str:
        return (
            f"{self.place!r} was taken over by a {self.holder} while this run gave no sign of life "
            "(it was paused, or cut off from the store), so nothing more is saved there. Let the "
            "other one go on; or run this again when that has ended."
        )


class CheckpointError(StoreError):
    """A checkpoint exists and cannot be used; it is never skipped in silence."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(path, problem)
        self.path = path
        self.problem = problem

    def sentence(self) -> str:
        return (
            f"{self.path}: {self.problem}. Delete this file, or give "
            "RunConfig(skip_damaged_checkpoints=True), to continue from the checkpoint before."
        )


class DiskFullError(StoreError):
    """A file system has no room for a file."""

    def __init__(self, path: str, needed_bytes: int, free_bytes: int) -> None:
        super().__init__(path, needed_bytes, free_bytes)
        self.path = path
        self.needed_bytes = needed_bytes
        self.free_bytes = free_bytes

    def sentence(self) -> str:
        return (
            f"there is no room for {self.path!r}: it needs {self.needed_bytes:,} bytes, and "
            f"{self.free_bytes:,} are free there (a quota, or a limit of files, may allow less). "
            "Make room and run the same again: it continues from what was saved before."
        )


class RequestError(StoreError):
    """A request to a store failed, also when it was made again where that could help."""


class WorkersLostError(RayKMeansError, RuntimeError):
    """Workers died, or never started, more often than a fit can bear."""


class NoRoomError(RayKMeansError, MemoryError):
    """An object that goes from one process to another finds no room on its way."""


class RunStoppedError(RayKMeansError, RuntimeError):
    """The process was asked to end (SIGTERM, Ctrl-C) while a fit ran; what it reached is saved."""

    def __init__(self, by: str = "SIGTERM") -> None:
        super().__init__(by)
        self.by = by

    def sentence(self) -> str:
        return (
            f"stopped by {self.by}. All finished iterations are saved; run the same again and it "
            "goes on from there."
        )
