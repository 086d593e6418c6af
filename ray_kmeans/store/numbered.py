"""The names of checkpoints, which say in what order they were saved.

00000002-00000007-iteration-12.json    a manifest: epoch of the lease, number, iteration
00000002-00000007-claim                whose number 7 is
00000002-00000007-1a2b3c4d             the folder of its arrays

Versions before epochs were part of the names left them out: these checkpoints are of epoch 0.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from ray_kmeans.io import publish

DIGITS = r"[0-9]{8}|[1-9][0-9]{8,14}"
"""A whole number as it is written in names: at least eight digits, no zero before more of them."""
HIGHEST = 10**15 - 1

MANIFEST = re.compile(rf"(?:({DIGITS})-)?({DIGITS})-iteration-[0-9]{{1,18}}\.json")
DATA = re.compile(rf"(?:({DIGITS})-)?({DIGITS})-(?:claim|[0-9a-f]{{8}})")


class Number(NamedTuple):
    """A place in the order of all checkpoints of a model.

    What an older epoch saves comes before all that a newer one has saved, whenever that happens.
    """

    epoch: int
    """That of the lease which the saving run holds."""
    number: int

    def __str__(self) -> str:
        return f"{self.epoch:08d}-{self.number:08d}"


def of_manifest(name: str) -> Number | None:
    """Return the number of a manifest; None for the name of anything else."""
    return _number(MANIFEST.fullmatch(name))


def of_data(name: str) -> Number | None:
    """Return the number of a claim or a folder of arrays; None for the name of anything else."""
    return _number(DATA.fullmatch(name))


def of_unpublished(name: str) -> Number | None:
    """Return the number of a manifest or claim that is not whole; None for anything else."""
    if not publish.is_unpublished(name):
        return None
    target = name.rsplit(".", 2)[0]
    return of_manifest(target) or of_data(target)


def _number(found: re.Match[str] | None) -> Number | None:
    return Number(int(found[1] or 0), int(found[2])) if found else None
