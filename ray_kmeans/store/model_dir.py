"""The model's directory: numbered checkpoints, each visible once its manifest is.

checkpoints/00000002-00000003-iteration-12.json    manifest: the commit point, written last
checkpoints/data/00000002-00000003-claim           number 3 is taken: only one can create this
checkpoints/data/00000002-00000003-<id>/*.npy      the arrays of the state; names are never reused
lease/                                             which run may write (see `lease`)
restarts/<plan>/<seed>/checkpoints/                the same, of restarts until the best one is saved
restarts/<plan>/top, level-<l>-<node>/checkpoints/ the same, of parts of a tree until it is whole

The first number is the epoch of the lease that the saving run holds. The newest checkpoint is the
highest by epoch, then by number. Files of other names are passed over, and stay.

What could happen to a checkpoint, and why readers always find a whole one:

- *A save is killed on the way.* Without its manifest nobody reads its arrays. They go once `keep`
  newer checkpoints are there: until then they may be of a save that is under way.
- *Two saves at once.* Each claims a number by creating a file, so no two write to one folder; and
  the folder's name has a random part, so nothing that a dead save has left is taken over.
- *A reader opens a checkpoint while a save deletes it.* Manifests go before arrays, so the reader
  fails; it lists again, and raises only where the list has not changed.
- *A run saves after another one has taken the lease* (it slept). Its epoch is lower, so its
  checkpoint is older than any of the other run's. It looks after its manifest is there: where the
  other run has saved meanwhile, nobody needs the sleeper's checkpoint and it deletes that; where it
  has not, the checkpoint stays, for the other run may have begun from it.
- *A run deletes old checkpoints after another one has taken the lease.* It deletes from a list that
  it made before, and all that the other run saves is newer.
- *The whole directory is deleted under a sleeper, and another run begins there.* Its epoch may be
  the same or lower, so epochs tell nothing; but `known` names all data that the sleeper has seen or
  made, and any other folder with a manifest is the other run's. It looks for one before it claims
  a number as well as after its manifest is there: killed between, it could not take that away.
"""

from __future__ import annotations

import logging
import re
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

from ray_kmeans.algorithm.state import FitState
from ray_kmeans.config import RunConfig
from ray_kmeans.errors import (
    CheckpointError,
    DiskFullError,
    LeaseLostError,
    ModelMismatchError,
    NotFittedError,
    StoreError,
)
from ray_kmeans.io import publish
from ray_kmeans.store import checkpoint, checkpoint_names
from ray_kmeans.store.checkpoint_names import Number
from ray_kmeans.store.lease import Lease, Times
from ray_kmeans.text.secrets import redacted

log = logging.getLogger("ray_kmeans")

RESTARTS = "restarts"
"""Folder of a model's directory with the checkpoints of restarts that are under way."""
RESTART = re.compile(r"-?[0-9]+|top|level-[0-9]+-[0-9]{8}")
"""Name of a directory of a restart, which is its random seed; or of a part of a tree."""


@dataclass(frozen=True, repr=False)
class ModelDir(publish.Place):
    """The checkpoints of a model under one URL; to save there takes `take_lease`."""

    keep: int = 5
    """Number of newest checkpoints that stay when one is saved."""
    skip_damaged: bool = False
    """Whether `latest` may pass over damaged checkpoints, with a warning."""
    owner: str = field(default_factory=lambda: uuid.uuid4().hex, compare=False)
    """Name of the run that writes here; other processes of the run have the same."""
    lease: Lease | None = field(default=None, compare=False)
    """The lease by which this run may save here; None for a reader. See `take_lease`."""
    known: set[str] = field(default_factory=set, compare=False)
    """Names of the claims and array folders that were there at the start, or are this run's."""

    @classmethod
    def at(
        cls, url: str, storage_options: Mapping[str, Any], keep: int, skip_damaged: bool = False
    ) -> ModelDir:
        """Return the directory under a URL that means the same in every process."""
        return cls(publish.absolute(url), storage_options, keep, skip_damaged)

    @classmethod
    def of(cls, url: str, config: RunConfig) -> ModelDir:
        """Return the directory under a URL with the options of a run configuration."""
        return cls.at(
            url,
            config.storage_options,
            keep=config.keep_checkpoint_max,
            skip_damaged=config.skip_damaged_checkpoints,
        )

    @contextmanager
    def take_lease(self, what: str, times: Times | None = None) -> Iterator[LeasedModelDir]:
        """Give the right to save here, to one run at a time; BusyError if another has it.

        `what`: what the run does, for the message to others.
        """
        lease = Lease(publish.Place(self.url, self.storage_options), self.owner, what, times)
        with ExitStack() as stack:
            lease.take(floor=self._highest_epoch())
            stack.push(lease)
            with self.raise_store_errors(f"model_dir={self.shown!r} cannot be read"):
                known = set(self._data())
            yield LeasedModelDir(replace(self, lease=lease, known=known))

    def latest(self) -> FitState | None:
        """Return the newest state; None if there is none.

        Raises CheckpointError if the newest checkpoint is damaged, unless that may be skipped.
        """
        with self.raise_store_errors(f"model_dir={self.shown!r} cannot be read"):
            paths = self._manifests()
            while True:
                try:
                    return self._newest_of(paths)
                except (CheckpointError, FileNotFoundError):
                    before, paths = paths, self._manifests()
                    if paths == before:  # else a save has deleted it meanwhile
                        raise

    def save(self, state: FitState) -> str:
        """Publish a state and return the path of its manifest; keep the `keep` newest checkpoints.

        Raises LeaseLostError if another run has taken over, also while this one saved.
        """
        self.check_lease()
        with self.raise_store_errors(f"cannot save a checkpoint to {self.shown!r}"):
            number, data = self._claim()
            path = f"{self._checkpoint_folder}/{number}-iteration-{state.iteration}.json"
            blobs = checkpoint.blobs_of(state, data)
            manifest = checkpoint.manifest_of(state, blobs)
            try:
                for name, content in blobs.items():
                    publish.put(self.fs, f"{self._checkpoint_folder}/{name}", content)
                created = publish.create(self.fs, path, publish.seal(manifest))
            except DiskFullError:
                self._delete_data(data)
                raise
            if not created:
                raise StoreError(
                    f"{self.told(path)!r} was saved by another run. Give each run a model_dir of "
                    "its own."
                )
            manifests = self._manifests()
            self._check_newest(manifests, path, data)
            self.check_lease()
            try:
                self._delete_old(manifests)
            except OSError as error:  # the checkpoint is there, and the next save tries again
                log.warning("old checkpoints cannot be deleted in %r: %s", self.shown, error)
        return path

    def told(self, path: str) -> str:
        """Return the path of a checkpoint for people, without a password that the URL may hold."""
        hidden = self.shown != self.url
        return f"{self.shown.rstrip('/')}/checkpoints/{_name(path)}" if hidden else path

    def fitted(self, checkpoint: str | None = None) -> FitState:
        """Return the newest state, or the one of `checkpoint`; NotFittedError for none."""
        state = self.latest() if checkpoint is None else self._of(checkpoint)
        if state is None:
            raise NotFittedError(f"there is no model in {self.shown!r}. Call fit first.")
        return state

    def checkpoints(self) -> list[str]:
        """Return the URLs of all checkpoints, the oldest first."""
        with self.raise_store_errors(f"model_dir={self.shown!r} cannot be read"):
            return [f"{self.url.rstrip('/')}/checkpoints/{_name(p)}" for p in self._manifests()]

    def newest_checkpoint(self) -> list[str]:
        """Return the URL of the newest checkpoint as a list of none or one.

        While the model has none, it is the newest one of the restarts that are under way.
        """
        found = self.checkpoints()[-1:]
        for place in self._restarts() if not found else ():
            found = place.checkpoints()[-1:] or found
        return found

    def restart(self, name: str) -> ModelDir:
        """Return the directory of a restart, below this one, that the same run holds."""
        place = self._restart_at(name)
        place.known.update(place._data())
        return place

    def _restart_at(self, name: str) -> ModelDir:
        """Return the directory of a restart; nothing in it is listed."""
        return replace(self, url=f"{self.url.rstrip('/')}/{RESTARTS}/{name}", known=set())

    def delete_restarts(self) -> None:
        """Delete the checkpoints of all restarts, and nothing else that may be there."""
        for place in self._restarts():
            place.delete_restarts()
            place._delete_all()

    def _restarts(self) -> Iterator[ModelDir]:
        """Yield the directories of restarts in the order of their seeds, then of parts of a
        tree."""
        root = f"{self.path}/{RESTARTS}"
        for folder, is_folder in self._listed(root):
            seeds = self._listed(f"{root}/{folder}") if is_folder else []
            names = [name for name, _ in seeds if RESTART.fullmatch(name)]
            numbers = sorted((name for name in names if name.lstrip("-").isdigit()), key=int)
            for name in [*numbers, *sorted(set(names) - set(numbers), reverse=True)]:
                yield self._restart_at(f"{folder}/{name}")

    def records(self, folder: str) -> list[bytes]:
        """Return the contents of the JSON files of a folder, in the order of their names."""
        with self.raise_store_errors(f"model_dir={self.shown!r} cannot be read"):
            root = f"{self.path}/{folder}"
            names = [name for name in self._files(root) if name.endswith(".json")]
            return [self.fs.cat_file(f"{root}/{name}") for name in names if name[0] != "."]

    def matching(
        self, num_clusters: int, metric: str, num_features: int | None = None
    ) -> FitState | None:
        """Return the newest state, None if there is none.

        Raises ModelMismatchError for a model of another number of clusters, metric or number of
        features; `num_features` None is not compared.
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
        probe = f"{self._checkpoint_folder}/probe-{uuid.uuid4().hex[:8]}"
        with self.raise_store_errors(f"model_dir={self.shown!r} cannot be written"):
            publish.put(self.fs, probe, b"may I write here?")
            self.fs.rm_file(probe)

    @property
    def _checkpoint_folder(self) -> str:
        """Path of the folder that holds manifests, claims and arrays."""
        return f"{self.path}/checkpoints"

    def _manifests(self) -> list[str]:
        """Return the paths of all manifests, the oldest first."""
        found = [
            (number, name)
            for name in self._files(self._checkpoint_folder)
            if (number := checkpoint_names.of_manifest(name))
        ]
        return [f"{self._checkpoint_folder}/{name}" for _, name in sorted(found)]

    def _files(self, folder: str) -> list[str]:
        """Return the names of the files in a folder, sorted."""
        return [name for name, is_folder in self._listed(folder) if not is_folder]

    def _listed(self, folder: str) -> list[tuple[str, bool]]:
        """Return (name, whether it is a folder) of all that is in a folder, sorted."""
        self.fs.invalidate_cache()
        try:
            found = self.fs.ls(folder, detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted((_name(each["name"]), each["type"] == "directory") for each in found)

    def _used(self) -> list[Number]:
        """Return the numbers of all checkpoints, including those that were only begun."""
        return [*map(_number_at, self._manifests()), *self._data().values()]

    def _data(self) -> dict[str, Number]:
        """Return the numbers of the claims and array folders, by name."""
        return {
            name: number
            for name, is_folder in self._listed(f"{self._checkpoint_folder}/data")
            if (number := checkpoint_names.of_data(name)) and is_folder != name.endswith("-claim")
        }

    def _highest_epoch(self) -> int:
        """Return the highest epoch of all checkpoints, 0 if there are none."""
        with self.raise_store_errors(f"model_dir={self.shown!r} cannot be read"):
            return max((number.epoch for number in self._used()), default=0)

    def _claim(self) -> tuple[Number, str]:
        """Return a number that no other writer has, and a new folder for its arrays."""
        self._check_known(self._manifests())
        last = max((number.number for number in self._used()), default=-1)
        number, mine = Number(self._epoch, last + 1), uuid.uuid4().hex[:8]
        folder = f"{self._checkpoint_folder}/data"
        while not publish.create(self.fs, f"{folder}/{number}-claim", mine.encode()):
            number = Number(self._epoch, number.number + 1)
        self.known.update((f"{number}-claim", f"{number}-{mine}"))
        return number, f"data/{number}-{mine}"

    def _check_known(self, manifests: list[str]) -> None:
        """Raise LeaseLostError if another run has saved here since this one took the lease.

        - A higher epoch is a run that has taken the lease after this one.
        - The same epoch, or a lower one after the lease's file was missing, is a run that began
          anew where the whole directory was deleted under this one (see the head of this module).
        - A lower epoch beside a lease that was there all the time is a run that slept itself: its
          checkpoint is older than ours and does no harm.
        """
        saved = set(map(_number_at, manifests))
        if max(saved, default=Number(0, 0)).epoch > self._epoch:
            self.check_lease()  # its error names the other run, where it still can
            raise LeaseLostError(self.shown, "run that has saved since then")
        if self.lease is None:
            return
        others = {n for name, n in self._data().items() if name not in self.known and n in saved}
        if others:
            self.check_lease()  # its error names the other run; it also sets `was_deleted`
        if any(n.epoch >= self._epoch or self.lease.was_deleted for n in others):
            raise LeaseLostError(self.shown, "run that has saved since then")

    def _of(self, checkpoint: str) -> FitState:
        """Return the state of a checkpoint, by its file name here or a path or URL anywhere."""
        home = checkpoint.rpartition("/checkpoints/")[0]
        if home and "://" not in home:
            home = str(self.fs.unstrip_protocol(home))
        place = replace(self, url=home) if home else self
        with self.raise_store_errors(f"checkpoint_path={checkpoint!r} cannot be read"):
            there = {_name(path): path for path in place._manifests()}
            if _name(checkpoint) not in there:
                raise NotFittedError(
                    f"checkpoint_path={redacted(checkpoint)!r} does not exist; {place.shown!r} has "
                    f"{list(there)}."
                )
            return place._load(there[_name(checkpoint)])

    def _newest_of(self, paths: list[str]) -> FitState | None:
        """Return the state of the last of these manifests, None if there are none.

        With `skip_damaged` it passes over damaged ones, but raises where all are damaged: else a
        fit would begin anew as if there were no model.
        """
        damaged: list[CheckpointError] = []
        for path in reversed(paths):
            try:
                return self._load(path)
            except CheckpointError as error:
                if not self.skip_damaged:
                    raise
                log.warning("skip_damaged_checkpoints: passed over %s: %s", path, error.problem)
                damaged.append(error)
        if damaged:
            raise damaged[0]
        return None

    def _load(self, path: str) -> FitState:
        """Return the state of a manifest."""

        def fetch(name: str) -> bytes:
            return bytes(self.fs.cat_file(f"{self._checkpoint_folder}/{name}"))

        return checkpoint.read(self.told(path), self.fs.cat_file(path), fetch)

    @property
    def _epoch(self) -> int:
        """Epoch of this run's lease; 0 if it has none."""
        return self.lease.epoch if self.lease else 0

    def check_lease(self) -> None:
        """Raise LeaseLostError if another run has taken over."""
        if self.lease is not None:
            self.lease.check()

    def _check_newest(self, manifests: list[str], path: str, data: str) -> None:
        """Raise LeaseLostError, and delete this checkpoint, where another run has saved one."""
        try:
            self._check_known(manifests)
        except LeaseLostError:
            with suppress(OSError):
                self.fs.rm_file(path)
                self._delete_data(data)
            raise

    def _delete_old(self, manifests: list[str]) -> None:
        """Delete all but the `keep` newest of these manifests, and all arrays that are older.

        Manifests go first, so that a reader never finds one without its arrays. What a save that
        was killed has left goes too, once `keep` newer checkpoints are there.
        """
        for path in manifests[: -self.keep]:
            self.fs.rm_file(path)
        if len(manifests) < self.keep:
            return
        self._delete_before(_number_at(manifests[-self.keep]))

    def _delete_before(self, oldest: Number | None) -> None:
        """Delete all arrays, claims and unpublished files of a lower number; None: of any."""
        for name, is_folder in self._listed(f"{self._checkpoint_folder}/data"):
            number = checkpoint_names.of_data(name) or checkpoint_names.of_unpublished(name)
            if number is None or (oldest is not None and number >= oldest):
                continue
            if is_folder:
                self._delete_data(f"data/{name}")
            elif name.endswith("-claim") or publish.is_unpublished(name):
                self.fs.rm_file(f"{self._checkpoint_folder}/data/{name}")
        for name in self._files(self._checkpoint_folder):
            number = checkpoint_names.of_unpublished(name)
            if number is not None and (oldest is None or number < oldest):
                self.fs.rm_file(f"{self._checkpoint_folder}/{name}")

    def _delete_all(self) -> None:
        """Delete all checkpoints, and the folders that are empty then; manifests go first."""
        with self.raise_store_errors(f"cannot delete the restarts in {self.shown!r}"):
            for path in self._manifests():
                self.fs.rm_file(path)
            self._delete_before(None)
        folders = [f"{self._checkpoint_folder}/data", self._checkpoint_folder, self.path]
        parent = self.path.rpartition("/")[0]
        for folder in [*folders, parent, parent.rpartition("/")[0]]:
            with suppress(OSError, NotImplementedError):  # not empty; or a store without folders
                self.fs.rmdir(folder)

    def _delete_data(self, folder: str) -> None:
        """Delete the arrays of a checkpoint, and their folder where nothing else is in it."""
        path = f"{self._checkpoint_folder}/{folder}"
        ours = [f"{path}/{name}" for name in self._files(path) if checkpoint.is_array(name)]
        with suppress(FileNotFoundError):
            if ours:
                self.fs.rm(ours)
        with suppress(OSError, NotImplementedError):  # not empty; or a store without folders
            self.fs.rmdir(path)


class LeasedModelDir:
    """A model's directory that one run alone may save to; each save checks the lease."""

    def __init__(self, store: ModelDir) -> None:
        self._store = store

    def latest(self) -> FitState | None:
        """Return the newest state; None if there is none."""
        return self._store.latest()

    def checkpoints(self) -> list[str]:
        """Return the URLs of all checkpoints, the oldest first."""
        return self._store.checkpoints()

    def restart(self, name: str) -> LeasedModelDir:
        """Return the directory of a restart, which this run alone may save to."""
        return LeasedModelDir(self._store.restart(name))

    def delete_restarts(self) -> None:
        """Delete the checkpoints of all restarts."""
        self._store.delete_restarts()

    def save(self, state: FitState) -> str:
        """Publish a state and return the path of its manifest.

        Raises LeaseLostError if another run has taken over.
        """
        try:
            return self._store.told(self._store.save(state))
        except StoreError:
            self._store.check_lease()  # a run that took over may have deleted this one's files
            raise


def _name(path: str) -> str:
    """Return the last name of a path."""
    return path.rstrip("/").rsplit("/", 1)[-1]


def _number_at(path: str) -> Number:
    """Return the number of the manifest at a path."""
    number = checkpoint_names.of_manifest(_name(path))
    assert number is not None
    return number
