"""One writer at a time: a lease on a place of a store.

lease/00000001.json                  an epoch and who holds it; the highest epoch holds the place

To take the lease is to create the file of the next epoch, which a store lets only one of many do.
Its holder writes a higher number into the file again and again. Who wants it next watches that
number: where it moves the holder is alive, wherever it is and whatever its clock says; where it
stands still for long enough, by the watcher's own clock, the next epoch may be taken. A holder that
was paused finds the higher epoch before it saves anything; and where it was paused after that look,
what it saves bears its own epoch, and so is older than what the next one saves (see `numbered`).
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
from ray_kmeans.store.holder import Holder
from ray_kmeans.store.numbered import DIGITS, HIGHEST

log = logging.getLogger("ray_kmeans")

NAME = re.compile(rf"({DIGITS})\.json")
NAMED = "{}/{:08d}.json"
ATTEMPTS = 20
"""To create the file of the next epoch, while others are quicker."""
EPOCHS_WAITED = 4
"""Holders that one waits for, one after the other; beyond, the lists cannot be true."""
LATE_LISTS = 10
"""Looks until a list must show a file that was written."""
LONGEST_PAUSE_S = 1.0
"""Between two of these."""


@dataclass(frozen=True)
class Times:
    """How long things take, in seconds."""

    beat_s: float = 10.0
    """Between two signs of life of a holder."""
    lease_s: float = 30.0
    """Without a sign of life, until the next one may take the lease."""
    poll_s: float = 1.0
    """Between two looks at a holder's file."""


class Lease:
    """The right to write to a place, held from `take` to `release`, or while `with` lasts."""

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
        """Whether its file was gone once, perhaps with all of the place."""
        self._began = 0.0
        self._ended = Event()
        self._heart: Thread | None = None

    def __enter__(self) -> Lease:
        self.take()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.release()
        except StoreError as failed:  # what went wrong before is what to hear of
            log.warning("the next run here will wait for %.0f s: %s", self._times.lease_s, failed)

    @property
    def epoch(self) -> int:
        """The number of this holding: each one has a higher one than all before."""
        return self._epoch

    def take(self, floor: int = 0) -> None:
        """Hold the lease, with an epoch above `floor`.

        Raises BusyError, after some seconds, where another one is alive, and StoreError where the
        store does not tell. `floor` is the highest epoch that is known from elsewhere: the lease's
        own files may have been deleted.
        """
        with self._said("cannot be leased"):
            self._take(floor)
            self._remove_older()
        self._began = time.monotonic()
        self._heart = Thread(target=self._beat, name="lease", daemon=True)
        self._heart.start()

    def _remove_older(self) -> None:
        """Remove the files of epochs before ours, and what was left of those when a holder died.

        An unpublished file of our own epoch is left alone: a rival may be writing it.
        """
        names = self._names()
        mine = [int(name[1]) for name in map(NAME.fullmatch, names) if name]
        older = [each for each in mine if each < self._epoch]
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
        """Raise LeaseLostError where another one has taken the lease; called before each save."""
        if not self._is_held_here:
            raise StoreError(
                f"{self._place.shown!r} is written to by process {self._holder.pid}, from which "
                "this one was forked: only that one goes on with it. Give this one another place."
            )
        with self._said("cannot be checked for other runs"):
            other = self._other()
            if other is not None:
                raise LeaseLostError(self._place.shown, str(other))

    def release(self) -> None:
        """Let go, so that the next one need not wait.

        The first epoch leaves nothing behind: nobody held the lease before, so nobody sleeps who
        must find that it was followed. Who takes the lease next begins above the epochs that are
        known from elsewhere (`floor`), so with a second epoch where this one has saved something;
        and where it has not, nothing bears the number that is given again. The file of a later
        epoch stays: there was a holder before, which may only sleep.
        """
        if not self._is_held_here:
            return
        self._ended.set()
        if self._heart is not None:
            self._heart.join()
        with self._said("cannot be released"):
            if max(self._epochs(), default=0) != self._epoch or self._other() is not None:
                return  # it is another one's
            if self._epoch == 1:
                self._place.fs.rm_file(self._path(1))
            else:
                self._write(released=True)

    @property
    def _is_held_here(self) -> bool:
        """Whether this process took it: a forked child has a copy of it, without a heart."""
        return self._holder.pid == os.getpid()

    def _other(self) -> Holder | None:
        """Return who holds the place instead of this one; None where nobody does.

        The numbers begin anew where all of the place was deleted under a run that slept, so another
        one may have the same epoch, or a lower one. A file that was deleted alone comes back.
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
        refused = 0
        """The last epoch whose file another one has, though no list may show it."""
        for _ in range(ATTEMPTS):
            epoch = max(self._wait_until_free(refused), refused, floor) + 1
            if epoch > HIGHEST:
                raise StoreError(
                    f"a file there has the number {epoch - 1}, which no run gives. Delete the file."
                )
            if self._create(epoch):
                return
            refused = epoch  # another one was quicker: it is the one to wait for now
        raise StoreError(
            f"in {ATTEMPTS} attempts another run was always quicker. Start one at a time; and "
            f"where none is alive, delete the folder {self._folder!r} there."
        )

    def _wait_until_free(self, refused: int) -> int:
        """Return the highest epoch, 0 where there is none, once its holder is gone.

        What counts is the number of looks at a file that stays the same, not the time between them:
        in that, this process or the store may have stood still itself.
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
        """Return the highest epoch that has a file, and what is in it; 0 where there is none."""
        newest = max(self._epochs(), default=0)
        if refused > newest and (found := self._look(refused)):  # the lists are late
            return refused, found
        return newest, self._look(newest) if newest else b""

    def _look(self, epoch: int) -> bytes:
        """Read the file of an epoch, or say what to do where that cannot be."""
        try:
            return self._read(epoch)
        except Exception as error:
            raise StoreError(
                f"{NAMED.format(self._folder, epoch)} cannot be read ({type(error).__name__}: "
                f"{error}). Let this user read it; or, where no run is alive, delete it."
            ) from None

    def _is_mine(self, holder: Holder) -> bool:
        return holder.owner == self._holder.owner

    def _create(self, epoch: int) -> bool:
        """Tell whether this epoch is ours."""
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
        """Tell whether no list shows a higher epoch than this one, which was created just now.

        Who was paused before it wrote may have taken an epoch that is long gone. A list that does
        not show the file is older than it, and does not show others either.
        """
        for _ in range(LATE_LISTS):
            newest = max(self._epochs(), default=0)
            if newest >= epoch:
                return newest == epoch
            time.sleep(min(self._times.poll_s, LONGEST_PAUSE_S))
        with contextlib.suppress(FileNotFoundError):
            self._place.fs.rm_file(self._path(epoch))
        raise StoreError(
            f"{NAMED.format(self._folder, epoch)} was written and no list shows it, so a second "
            "run would not be noticed. Give a store whose lists show what was written before (a "
            "cache between, as of listings, may have to be turned off)."
        )

    def _beat(self) -> None:
        beat, failed = 0, False
        while not self._ended.wait(self._times.beat_s):
            beat += 1
            try:
                if self._other() is None:  # else this may be the number of that one's file
                    self._write(beat)
                failed = False
            except Exception as error:
                if not failed:  # `check` decides what that means
                    log.warning("cannot give a sign of life to %r: %s", self._place.shown, error)
                failed = True

    def _write(self, beat: int = 0, released: bool = False) -> None:
        holder = self._holder.at(beat, time.monotonic() - self._began, released)
        publish.put(self._place.fs, self._path(self._epoch), bytes(holder))

    def _epochs(self) -> list[int]:
        """Return the epochs that have a file; what else lies there is somebody else's."""
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
        return f"{self._place.path}/{NAMED.format(self._folder, epoch)}"

    def _read(self, epoch: int) -> bytes:
        """Return what is in the file of an epoch; nothing where it was deleted meanwhile."""
        try:
            return bytes(self._place.fs.cat_file(self._path(epoch)))
        except (FileNotFoundError, IsADirectoryError):
            return b""

    def _said(self, what: str) -> AbstractContextManager[None]:
        return self._place.raise_store_errors(f"{self._place.shown!r} {what}")
