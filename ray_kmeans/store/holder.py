"""Who holds a lease, as it stands in its file, and whether that process can still be there."""

from __future__ import annotations

import json
import os
import socket
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from pathlib import Path

PROC = Path("/proc")
LONGEST_S = 1e10
"""Longer than any run: some hundred years."""
GONE = ("Z", "X")
"""States of a process that has ended and that nobody has asked about yet."""


@dataclass(frozen=True)
class Holder:
    """A process that writes to a place, at one beat of its life there."""

    owner: str
    """Names the run; a process that goes on with the same run has the same."""
    nonce: str
    """Tells apart two that take the same lease for the same run."""
    what: str = "run"
    host: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)
    machine: str = field(default_factory=lambda: this_machine())
    """Where `pid` means this process: a boot of a machine, and its space of numbers; '': unknown"""
    started: int = field(default_factory=lambda: (_stat_of(os.getpid()) or ("", 0))[1])
    """When the process began, in ticks of its machine: its number may be given again."""
    beat: int = 0
    runs_for_s: float = 0.0
    """Time since it took the lease, by its own clock."""
    released: bool = False

    @classmethod
    def parse(cls, data: bytes) -> Holder:
        """Return the holder in a file; a file that is not understood has one that is not known."""
        try:
            found = cls(**json.loads(data))
        except (ValueError, TypeError, RecursionError):
            found = None
        if found is None or not found._is_sane:
            return cls("", "", "run", "a host that its file does not tell", pid=0, machine="")
        return found

    def __bytes__(self) -> bytes:
        return json.dumps(asdict(self), indent=1).encode()

    def __str__(self) -> str:
        return f"{self.what} of process {self.pid} on {self.host}"

    @property
    def _is_sane(self) -> bool:
        """Whether all fields are of their kind: what a file holds may be anything."""
        texts = self.owner, self.nonce, self.what, self.host, self.machine
        numbers = self.pid, self.started, self.beat
        time = self.runs_for_s
        return (
            all(isinstance(text, str) and text.isprintable() for text in texts)
            and all(type(number) is int and 0 <= number < 2**63 for number in numbers)
            and 0 < self.pid < 2**31
            and type(time) in (int, float)
            and 0 <= time < LONGEST_S
            and isinstance(self.released, bool)
        )

    @property
    def is_known(self) -> bool:
        """Whether a file told it: what holds anything else may be somebody else's."""
        return self.pid > 0

    @property
    def runs_for(self) -> str:
        """Its time as people write it, in hours, minutes and seconds."""
        return str(timedelta(seconds=round(self.runs_for_s)))

    @property
    def is_gone(self) -> bool:
        """Whether its process is known to have ended; never so of another machine."""
        here = self.machine != "" and self.machine == this_machine()
        return here and has_ended(self.pid, self.started)

    def at(self, beat: int, runs_for_s: float, released: bool = False) -> Holder:
        """Return the holder at a later time."""
        return replace(self, beat=beat, runs_for_s=runs_for_s, released=released)


def this_machine() -> str:
    """Return a name for the boot of this machine and this container's space of process numbers."""
    try:
        boot = (PROC / "sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink(PROC / 'self/ns/pid')}"
    except OSError:
        return ""  # a system without /proc: nothing is said of its processes


def has_ended(pid: int, started: int) -> bool:
    """Tell whether the process that had this number and began then has ended."""
    try:
        os.kill(pid, 0)  # asks only
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # of another user
    found = _stat_of(pid)
    return found is not None and (found[0] in GONE or found[1] != started)


def _stat_of(pid: int) -> tuple[str, int] | None:
    """Return state and start of a process, in ticks; None where the system does not tell."""
    try:
        # The name of the program comes second and may hold anything, also ')'.
        state, *rest = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return state, int(rest[18])
