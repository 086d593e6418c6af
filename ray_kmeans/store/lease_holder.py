"""The holder of a lease, as the lease's file describes it, and whether its process may be alive.

A process id alone does not tell: the number may be given again to another process, and a number of
another machine or container means nothing here. So the file also has the boot of the machine with
its space of process ids, and when the process started. A holder on another machine is never taken
for gone by these; its beat decides (see `lease`).
"""

from __future__ import annotations

import json
import os
import socket
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from pathlib import Path

PROC = Path("/proc")
"""File system in which Linux tells about processes."""
LONGEST_S = 1e10
"""Upper bound of the seconds of a run, some hundred years; a file that tells more is damaged."""
GONE = ("Z", "X")
"""States of a process that has ended and whose parent has not yet asked for its exit code."""


@dataclass(frozen=True)
class Holder:
    """A process that holds a lease, at one beat."""

    owner: str
    """Name of the run; a process that goes on with the run has the same owner."""
    nonce: str
    """A random name of this one lease: two processes of a run have different ones."""
    what: str = "run"
    """Work of the run, in words for people."""
    host: str = field(default_factory=socket.gethostname)
    """Host name of the machine, for people."""
    pid: int = field(default_factory=os.getpid)
    """Process id; 0 for a file that tells no holder."""
    machine: str = field(default_factory=lambda: this_machine())
    """Boot of the machine and its space of process ids, in which `pid` holds; '' if unknown."""
    started: int = field(default_factory=lambda: (_stat_of(os.getpid()) or ("", 0))[1])
    """Start of the process in clock ticks since the boot: a process id may be given again."""
    beat: int = 0
    """Number of the beat."""
    runs_for_s: float = 0.0
    """Seconds since it took the lease, by its own clock."""
    released: bool = False
    """Whether it has released the lease."""

    @classmethod
    def parse(cls, data: bytes) -> Holder:
        """Return the holder in a file; an unknown one (`is_known`) where the file tells none."""
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
        """Whether all fields have their types and ranges; a file may hold anything."""
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
        """Whether the file tells a holder; any other file may be somebody else's."""
        return self.pid > 0

    @property
    def runs_for(self) -> str:
        """Time since it took the lease, as hours:minutes:seconds."""
        return str(timedelta(seconds=round(self.runs_for_s)))

    @property
    def is_gone(self) -> bool:
        """Whether its process has ended for sure; False for one on another machine."""
        here = self.machine != "" and self.machine == this_machine()
        return here and has_ended(self.pid, self.started)

    def at(self, beat: int, runs_for_s: float, released: bool = False) -> Holder:
        """Return the holder at a later beat."""
        return replace(self, beat=beat, runs_for_s=runs_for_s, released=released)


def this_machine(proc: Path = PROC) -> str:
    """Return a name for the boot of this machine and this container's space of process numbers."""
    try:
        boot = (proc / "sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink(proc / 'self/ns/pid')}"
    except OSError:
        return ""  # a system without /proc does not tell which processes live


def has_ended(pid: int, started: int, proc: Path = PROC) -> bool:
    """Return whether the process with this id that started then has ended."""
    try:
        os.kill(pid, 0)  # sends nothing, asks only
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # it lives, and is of another user
    found = _stat_of(pid, proc)
    return found is not None and (found[0] in GONE or found[1] != started)


def _stat_of(pid: int, proc: Path = PROC) -> tuple[str, int] | None:
    """Return state and start (in ticks) of a process; None if the system tells neither."""
    try:
        # The name of the program comes second and may hold anything, also ')'.
        state, *rest = (proc / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return state, int(rest[18])
