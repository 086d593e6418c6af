"""The model's directory: numbered checkpoints, each visible once its manifest is.

checkpoints/00000003-iteration-12.json         manifest: the commit point, written last
checkpoints/data/00000003-claim                whose number 3 is: only one can have created it
checkpoints/data/00000003-<id>/*.npy           the arrays of the state; names are never reused
lease/                                         which run may write (see `lease`)
"""

from __future__ import annotations

import logging
import re
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

from ray_kmeans.clustering.state import FitState
from ray_kmeans.config import RunConfig
from ray_kmeans.errors import (
    CheckpointError,
    DiskFullError,
    ModelMismatchError,
    NotFittedError,
    StoreError,
)
from ray_kmeans.remote import redacted
from ray_kmeans.store import checkpoint, publish
from ray_kmeans.store.lease import Lease, Times

log = logging.getLogger("ray_kmeans")

UNPUBLISHED = re.compile(r"\d{8}-.*\.partial")
"""A manifest under the name that it has on a disk until it is whole; a killed writer leaves it."""


@dataclass(frozen=True, repr=False)
class ModelDir(publish.Place):
    """Checkpoints under one URL."""

    keep: int = 5
    """Newest checkpoints that stay when one is saved."""

    skip_damaged: bool = False
    """Whether `latest` may pass over damaged checkpoints, with a warning."""
    owner: str = field(default_factory=lambda: uuid.uuid4().hex, compare=False)
    """Names the run that writes here; it stays the same in other processes of that run."""

    @classmethod
    def at(
        cls, url: str, storage_options: Mapping[str, Any], keep: int, skip_damaged: bool = False
    ) -> ModelDir:
        """Return the directory under a URL that means the same in every process."""
        return cls(publish.absolute(url), storage_options, keep, skip_damaged)

    @classmethod
    def of(cls, url: str, config: RunConfig) -> ModelDir:
        """Return the directory as a run configuration wants it."""
        kept, skip = config.keep_checkpoint_max, config.skip_damaged_checkpoints
        return cls.at(url, config.storage_options, kept, skip)

    @contextmanager
    def held(self, what: str, times: Times | None = None) -> Iterator[Held]:
        """Give the right to save here, to one run at a time; BusyError where another has it."""
        place = publish.Place(self.url, self.storage_options)
        with Lease(place, self.owner, what, times) as lease:
            yield Held(self, lease)

    def latest(self) -> FitState | None:
        """Return the newest state; None where there is none.

        Raises CheckpointError where the newest checkpoint is damaged, unless that may be skipped.
        """
        with self.said(f"model_dir={self.shown!r} cannot be read"):
            paths = self._manifests()
            while True:
                try:
                    return self._newest_of(paths)
                except (CheckpointError, FileNotFoundError):
                    before, paths = paths, self._manifests()
                    if paths == before:  # else a save has deleted it meanwhile
                        raise

    def save(self, state: FitState) -> str:
        """Publish a state and return the path of its manifest; delete what is older than `keep`."""
        with self.said(f"cannot save a checkpoint to {self.shown!r}"):
            number, data = self._claim()
            path = f"{self._root}/{number:08d}-iteration-{state.iteration}.json"
            blobs = checkpoint.blobs_of(state, data)
            manifest = checkpoint.manifest_of(state, blobs)
            try:
                for name, content in blobs.items():
                    publish.put(self.fs, f"{self._root}/{name}", content)
                created = publish.create(self.fs, path, publish.seal(manifest))
            except DiskFullError:
                with suppress(FileNotFoundError):
                    self.fs.rm(f"{self._root}/{data}", recursive=True)
                raise
            if not created:
                raise StoreError(
                    f"{path!r} was saved by another run. Give each run a model_dir of its own."
                )
            try:
                self._delete_old()
            except OSError as error:  # the checkpoint is there, and the next save tries again
                log.warning("old checkpoints cannot be deleted in %r: %s", self.shown, error)
        return path

    def fitted(self, checkpoint: str | None = None) -> FitState:
        """Return the newest state, or that of a checkpoint; NotFittedError where there is none."""
        state = self.latest() if checkpoint is None else self._of(checkpoint)
        if state is None:
            raise NotFittedError(f"there is no model in {self.shown!r}. Call fit first.")
        return state

    def checkpoints(self) -> list[str]:
        """Return the URLs of all checkpoints, the oldest first."""
        with self.said(f"model_dir={self.shown!r} cannot be read"):
            return [f"{self.url.rstrip('/')}/checkpoints/{_name(p)}" for p in self._manifests()]

    def records(self, folder: str) -> list[bytes]:
        """Return what the files of a folder hold, in the order of their names."""
        with self.said(f"model_dir={self.shown!r} cannot be read"):
            return [self.fs.cat_file(path) for path in self._listed(f"{self.path}/{folder}")]

    def matching(
        self, num_clusters: int, metric: str, num_features: int | None = None
    ) -> FitState | None:
        """Return the newest state, if any; `num_features` None: not known yet.

        Raises ModelMismatchError for a model of another kind.
        """
        found = self.latest()
        if found is not None:
            k, d = found.centers.shape
            asked = num_clusters, d if num_features is None else num_features, metric
            if (k, d, found.metric) != asked:
                sentence = "{} clusters of {} features by {} distance"
                raise ModelMismatchError(
                    self.shown, sentence.format(k, d, found.metric), sentence.format(*asked)
                )
        return found

    def check_writable(self) -> None:
        """Raise StoreError if nothing can be written."""
        probe = f"{self._root}/probe-{uuid.uuid4().hex[:8]}"
        with self.said(f"model_dir={self.shown!r} cannot be written"):
            publish.put(self.fs, probe, b"may I write here?")
            self.fs.rm_file(probe)

    @property
    def _root(self) -> str:
        return f"{super()._root}/checkpoints"

    def _manifests(self) -> list[str]:
        return [path for path in self._listed(self._root) if path.endswith(".json")]

    def _listed(self, folder: str) -> list[str]:
        self.fs.invalidate_cache()
        try:
            return sorted(self.fs.ls(folder, detail=False))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def _claim(self) -> tuple[int, str]:
        """Return a number that no other writer has, and a folder for data that is ours alone."""
        used = [*self._manifests(), *self._listed(f"{self._root}/data")]
        number = max(map(_number, used), default=-1) + 1
        mine = uuid.uuid4().hex[:8]
        while not publish.create(self.fs, f"{self._root}/data/{number:08d}-claim", mine.encode()):
            number += 1
        return number, f"data/{number:08d}-{mine}"

    def _of(self, checkpoint: str) -> FitState:
        """Return the state of a checkpoint: its file name here, or a path or URL anywhere."""
        home = checkpoint.rpartition("/checkpoints/")[0]
        if home and "://" not in home:
            home = str(self.fs.unstrip_protocol(home))
        place = replace(self, url=home) if home else self
        with self.said(f"checkpoint_path={checkpoint!r} cannot be read"):
            there = {_name(path): path for path in place._manifests()}
            if _name(checkpoint) not in there:
                raise NotFittedError(
                    f"checkpoint_path={redacted(checkpoint)!r} does not exist; {place.shown!r} has "
                    f"{list(there)}."
                )
            return place._load(there[_name(checkpoint)])

    def _newest_of(self, paths: list[str]) -> FitState | None:
        damaged: list[CheckpointError] = []
        for path in reversed(paths):
            try:
                return self._load(path)
            except CheckpointError as error:
                if not self.skip_damaged:
                    raise
                log.warning("skip_damaged_checkpoints: passed over %s: %s", path, error.problem)
                damaged.append(error)
        if damaged:  # none is whole: that is not to begin anew
            raise damaged[0]
        return None

    def _load(self, path: str) -> FitState:
        def fetch(name: str) -> bytes:
            return bytes(self.fs.cat_file(f"{self._root}/{name}"))

        return checkpoint.read(path, self.fs.cat_file(path), fetch)

    def _delete_old(self) -> None:
        """Delete manifests first, so that a reader never finds one without its data.

        Data without a manifest are what a killed save has left, or of one that is under way; they
        go once `keep` newer checkpoints are there.
        """
        manifests = self._manifests()
        for path in manifests[: -self.keep]:
            self.fs.rm_file(path)
        if len(manifests) < self.keep:
            return
        oldest = _number(manifests[-self.keep])
        for path in self._listed(f"{self._root}/data"):
            if _number(path) < oldest:
                self.fs.rm(path, recursive=True)
        for path in self._listed(self._root):
            if UNPUBLISHED.fullmatch(_name(path)) and _number(path) < oldest:
                self.fs.rm_file(path)


class Held:
    """A model's directory that one run alone may write to: each save makes sure of that first."""

    def __init__(self, store: ModelDir, lease: Lease) -> None:
        self._store = store
        self._lease = lease

    def latest(self) -> FitState | None:
        """Return the newest state; None where there is none."""
        return self._store.latest()

    def checkpoints(self) -> list[str]:
        """Return the URLs of all checkpoints, the oldest first."""
        return self._store.checkpoints()

    def save(self, state: FitState) -> str:
        """Publish a state and return the path of its manifest.

        Raises LeaseLostError where another run has taken over.
        """
        self._lease.check()
        return self._store.save(state)


def _name(path: str) -> str:
    return path.rstrip("/").rsplit("/", 1)[-1]


def _number(path: str) -> int:
    return int(_name(path)[:8])
