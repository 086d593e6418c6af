"""One writer at a time: a lease on a place of a store.

lease/00000001.json                  an epoch and who holds it; the highest epoch holds the place

A run takes the lease by creating the file of the next epoch, which a store lets only one of many
do. Its holder writes a higher number, its beat, into the file again and again. A run that wants the
lease watches the beat: while it moves, the holder is alive, wherever it runs and whatever its clock
says; once it has stood still for long enough, by the watcher's own clock, the next epoch is free.

No store can make a writer stop, so a holder that only slept goes on beside the next one. What could
happen then, and why it does no harm:

- *The sleeper wakes before it saves.* `check` stands before every save: it finds the higher epoch
  and raises LeaseLostError.
- *It sleeps between `check` and its save.* What it saves bears its own epoch, which is lower, so it
  is older than all that the next run saves (see `numbered`). Labelled output has no epochs and
  looks for its marker instead (see `labelled_writer`).
- *It sleeps in `_create`, before it writes.* It may then create an epoch that was deleted long ago,
  below the highest one. So who has created a file looks whether it is the highest, and else tries
  again.
- *Two processes create the same file at once.* One is refused. Where a store is found not to refuse
  (some servers of S3 ignore the condition), both wait a moment and read: the last one to write
  holds the lease, and a warning tells that this is no guarantee.
- *A list of the store is late and does not show the newest file.* Then the next `create` is
  refused, and the refused epoch is watched, shown or not. Who has created a file waits until a list
  shows it, for an older list would not show a rival either.
- *The whole place is deleted under a sleeper.* Epochs begin at 1 again, so another run may have the
  same epoch or a lower one. Each holder's file has a nonce: the sleeper finds a foreign one.
- *The lease's file alone is deleted.* The next beat writes it again.
- *The holder's process forks.* The child has the lease as a value but no thread that beats; it is
  told apart by its process id, and may neither save nor release.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import time
import uuid
from contextlib import AbstractContextManager
from dataclasses import dataclass
from threading import Event, Thread
from types import TracebackType

from ray_kmeans.errors import BusyError, LeaseLostError, StoreError
from ray_kmeans.io import publish
from ray_kmeans.store.checkpoint_names import DIGITS, HIGHEST
from ray_kmeans.store.lease_holder import Holder

log = logging.getLogger("ray_kmeans")

NAME = re.compile(rf"({DIGITS})\.json")
"""Name of the file of an epoch."""
PATH = "{}/{:08d}.json"
"""Path of the file of an epoch below the place, by folder and epoch."""
ATTEMPTS = 20
"""Attempts to create the file of the next epoch while other runs are quicker."""
EPOCHS_WAITED = 4
"""Largest number of holders to wait for, one after the other; the store's lists are not believed
where even more come."""
LATE_LISTS = 10
"""Looks at a list of the store until it must show a file that was written."""
LONGEST_PAUSE_S = 1.0
"""Longest pause between two of these looks, in seconds."""


@dataclass(frozen=True)
class Times:
    """The times of a lease, in seconds."""

    beat_s: float = 10.0
    """Seconds between two beats of a holder."""
    lease_s: float = 30.0
    """Seconds without a new beat after which another run may take the lease."""
    poll_s: float = 1.0
    """Seconds between two looks at a holder's file."""


class Lease:
    """The right to write to a place, held from `take` to `release`, or for a `with` block.

    Parameters
    ----------
    place : Place
        The place to write to.
    owner : str
        Names the run. A process with the same owner goes on with the run, so it takes the lease
        without waiting.
    what : str
        What the run does, for the message to others: 'fit of 8 clusters'.
    times : Times, optional
    folder : str, default 'lease'
        Folder of the place that holds the files of the lease.
    """

    def __init__(
        self,
        place: publish.Place,
        owner: str,
        what: str,
        times: Times | None = None,
        folder: str = "lease",
    ) -> None:
        self._place = place
        self._folder = folder
        self._times = times or Times()
        self._holder = Holder(owner, uuid.uuid4().hex, what)
        self._epoch = 0
        self.was_deleted = False
        """Whether the lease's file was missing once, perhaps with the whole place."""
        self._began = 0.0
        """Time at which the lease was taken, in seconds of the monotonic clock."""
        self._ended = Event()
        """Set when the thread shall stop beating."""
        self._heart: Thread | None = None
        """The thread that beats."""

    def __enter__(self) -> Lease:
        self.take()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Release the lease; a store that fails only delays the next run, and gets a warning."""
        try:
            self.release()
        except StoreError as failed:  # raised, it would hide the error of the block
            log.warning("the next run here will wait for %.0f s: %s", self._times.lease_s, failed)

    @property
    def epoch(self) -> int:
        """Number of this lease, higher than the numbers of all leases before it."""
        return self._epoch

    def take(self, floor: int = 0) -> None:
        """Take the lease, with an epoch above `floor`.

        Raises BusyError, after some seconds, where another holder is alive, and StoreError where
        the store does not tell. `floor`: the highest epoch that is known from other files, since
        the lease's own files may have been deleted.
        """
        with self._store_errors("cannot be leased"):
            self._take(floor)
            self._remove_older()
        self._began = time.monotonic()
        self._heart = Thread(target=self._beat, name="lease", daemon=True)
        self._heart.start()

    def _remove_older(self) -> None:
        """Remove the files of older epochs, and the unpublished files that dead holders have left.

        An unpublished file of our own epoch stays: a rival may be writing it. A file that does not
        tell its holder stays, for it may be somebody else's.
        """
        names = self._names()
        epochs = [int(name[1]) for name in map(NAME.fullmatch, names) if name]
        older = [each for each in epochs if each < self._epoch]
        known = [each for each in older if Holder.parse(self._read(each)).is_known]
        paths = [self._path(each) for each in known]
        for name in filter(publish.is_unpublished, names):
            target = NAME.fullmatch(publish.published_name(name))
            if target and int(target[1]) < self._epoch:
                paths.append(f"{self._place.path}/{self._folder}/{name}")
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                self._place.fs.rm_file(path)

    def check(self) -> None:
        """Raise LeaseLostError if another run has taken the lease; call it before each save."""
        if not self._is_held_here:
            raise StoreError(
                f"{self._place.shown!r} is written to by process {self._holder.pid}, from which "
                "this one was forked: only that one goes on with it. Give this one another place."
            )
        with self._store_errors("cannot be checked for other runs"):
            other = self._other()
            if other is not None:
                raise LeaseLostError(self._place.shown, str(other))

    def release(self) -> None:
        """Release the lease, so that the next run need not wait.

        - The file of the first epoch is removed: nobody held the lease before, so there is no
          sleeper who must find a follower here. The next run takes an epoch above all that are
          known from other files (`floor`): the second one where this run has saved something. Where
          it has saved nothing, no file bears the first epoch, which may be given again.
        - The file of a later epoch stays, marked as released: there was a holder before, which may
          only sleep.
        """
        if not self._is_held_here:
            return
        self._ended.set()
        if self._heart is not None:
            self._heart.join()
        with self._store_errors("cannot be released"):
            if max(self._epochs(), default=0) != self._epoch or self._other() is not None:
                return  # another run holds it
            if self._epoch == 1:
                self._place.fs.rm_file(self._path(1))
            else:
                self._write(released=True)

    @property
    def _is_held_here(self) -> bool:
        """Whether this process took the lease; a forked child has a copy without its thread."""
        return self._holder.pid == os.getpid()

    def _other(self) -> Holder | None:
        """Return who holds the place instead of this run; None if nobody does.

        Where the whole place was deleted under a sleeper, epochs began at 1 again: another run may
        have the same epoch or a lower one, so the nonce decides. Where only the lease's own file
        was deleted, nobody holds the place instead.
        """
        newest = max(self._epochs(), default=0)
        if newest > self._epoch:
            return Holder.parse(self._read(newest))
        own = self._read(self._epoch)
        if not own:
            self.was_deleted = True
        found = Holder.parse(own or (self._read(newest) if newest else b""))
        return found if found.is_known and found.nonce != self._holder.nonce else None

    def _take(self, floor: int) -> None:
        """Create the file of the next epoch, once the holder of the highest one is gone."""
        # The last epoch that another run was quicker to create; late lists may not show it yet.
        refused = 0
        for _ in range(ATTEMPTS):
            epoch = max(self._wait_until_free(refused), refused, floor) + 1
            if epoch > HIGHEST:
                raise StoreError(
                    f"a file there has the number {epoch - 1}, which no run gives. Delete the file."
                )
            if self._create(epoch):
                return
            refused = epoch  # another run was quicker: wait for that one now
        raise StoreError(
            f"in {ATTEMPTS} attempts another run was always quicker. Start one at a time; and "
            f"where none is alive, delete the folder {self._folder!r} there."
        )

    def _wait_until_free(self, refused: int) -> int:
        """Return the highest epoch once its holder is gone; 0 if there is no epoch.

        Looks at an unchanged file are counted, not the seconds between them: in these, this process
        or the store may have stood still itself, and the holder's beats with them.
        """
        looks = max(round(self._times.lease_s / self._times.poll_s), 1)
        epoch, seen, same = 0, b"", 0
        for _ in range(EPOCHS_WAITED * (looks + 2)):
            newest, found = self._newest(refused)
            holder = Holder.parse(found)
            if not newest or holder.released or self._is_mine(holder) or holder.is_gone:
                return newest
            if newest != epoch:
                epoch, seen, same = newest, found, 0
                log.warning("%r is held by a %s; is it alive?", self._place.shown, holder)
            elif found not in (seen, b""):
                raise BusyError(self._place.shown, str(holder), holder.runs_for)
            elif (same := same + 1) > looks:
                return newest
            time.sleep(self._times.poll_s)
        raise StoreError(
            f"{EPOCHS_WAITED} holders came one after the other, or the lists of this store are not "
            f"those of now. Start one run at a time; and where none is alive, delete the folder "
            f"{self._folder!r} there."
        )

    def _newest(self, refused: int) -> tuple[int, bytes]:
        """Return the highest epoch that has a file, and the file's content; 0 if none has."""
        newest = max(self._epochs(), default=0)
        if refused > newest and (found := self._look(refused)):  # the lists are late
            return refused, found
        return newest, self._look(newest) if newest else b""

    def _look(self, epoch: int) -> bytes:
        """Return the file of an epoch; raise StoreError that tells what to do where it fails."""
        try:
            return self._read(epoch)
        except Exception as error:
            raise StoreError(
                f"{PATH.format(self._folder, epoch)} cannot be read ({type(error).__name__}: "
                f"{error}). Let this user read it; or, where no run is alive, delete it."
            ) from None

    def _is_mine(self, holder: Holder) -> bool:
        """Return whether a holder belongs to this run: an earlier process of it."""
        return holder.owner == self._holder.owner

    def _create(self, epoch: int) -> bool:
        """Create the file of an epoch; return whether the epoch is ours."""
        fs, path, data = self._place.fs, self._path(epoch), bytes(self._holder)
        try:
            created = publish.create(fs, path, data)
        except IsADirectoryError:  # somebody's folder: the next number is free
            return False
        if not created:
            return False
        if not publish.is_exclusive(fs, path, data):
            log.warning(
                "%r lets two processes create the same file, so two runs that start there within "
                "a second may both go on. Start one at a time.",
                self._place.shown,
            )
            time.sleep(self._times.poll_s)
            if self._read(epoch) != data:
                return False
        self._epoch = epoch
        return self._is_highest(epoch)

    def _is_highest(self, epoch: int) -> bool:
        """Return whether no list shows a higher epoch than this one, which was created just now.

        A process that slept before it wrote may have created an epoch that was deleted long ago. A
        list that does not show the new file is older than it, and may not show rivals either.
        """
        for _ in range(LATE_LISTS):
            newest = max(self._epochs(), default=0)
            if newest >= epoch:
                return newest == epoch
            time.sleep(min(self._times.poll_s, LONGEST_PAUSE_S))
        with contextlib.suppress(FileNotFoundError):
            self._place.fs.rm_file(self._path(epoch))
        raise StoreError(
            f"{PATH.format(self._folder, epoch)} was written and no list shows it, so a second "
            "run would not be noticed. Give a store whose lists show what was written before (a "
            "cache between, as of listings, may have to be turned off)."
        )

    def _beat(self) -> None:
        """Write a higher number into the lease's file again and again, until the lease ends."""
        beat, failed = 0, False
        while not self._ended.wait(self._times.beat_s):
            beat += 1
            try:
                if self._other() is None:  # else the file of this epoch may be the other run's
                    self._write(beat)
                failed = False
            except Exception as error:
                if not failed:  # once; `check` decides what that means
                    log.warning("cannot give a sign of life to %r: %s", self._place.shown, error)
                failed = True

    def _write(self, beat: int = 0, released: bool = False) -> None:
        """Put the lease's file with the holder as it is now."""
        holder = self._holder.at(beat, time.monotonic() - self._began, released)
        publish.put(self._place.fs, self._path(self._epoch), bytes(holder))

    def _epochs(self) -> list[int]:
        """Return the epochs that have a file; files of other names are somebody else's."""
        return [int(name[1]) for name in map(NAME.fullmatch, self._names()) if name]

    def _names(self) -> list[str]:
        """Return the names of all files in the folder of the lease."""
        self._place.fs.invalidate_cache()
        try:
            found = self._place.fs.ls(f"{self._place.path}/{self._folder}", detail=True)
        except FileNotFoundError:
            return []
        return [each["name"].rsplit("/", 1)[-1] for each in found if each["type"] != "directory"]

    def _path(self, epoch: int) -> str:
        """Return the path of the file of an epoch."""
        return f"{self._place.path}/{PATH.format(self._folder, epoch)}"

    def _read(self, epoch: int) -> bytes:
        """Return the content of the file of an epoch; empty if it was deleted meanwhile."""
        try:
            return bytes(self._place.fs.cat_file(self._path(epoch)))
        except (FileNotFoundError, IsADirectoryError):
            return b""

    def _store_errors(self, what: str) -> AbstractContextManager[None]:
        """Turn what the store raises into StoreError that begins with the place and `what`."""
        return self._place.raise_store_errors(f"{self._place.shown!r} {what}")
