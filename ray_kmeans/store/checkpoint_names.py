"""The names of checkpoints, which tell the order in which they were saved.

00000002-00000007-iteration-12.json    a manifest: epoch of the lease, number, iteration
00000002-00000007-claim                created first: the number is the creator's alone
00000002-00000007-1a2b3c4d             the folder of its arrays

The order is by epoch, then by number. So what a run saves after another one has taken the lease
comes before all that the other one saves, whenever it happens: the sleeper's epoch is lower.

Older versions had no epochs in these names: such checkpoints are of epoch 0.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from ray_kmeans.io import publish

DIGITS = r"[0-9]{8}|[1-9][0-9]{8,14}"
"""Pattern of a number in a name: eight digits, or more without a leading zero."""
HIGHEST = 10**15 - 1
"""Largest number that a name can hold."""
MANIFEST = re.compile(rf"(?:({DIGITS})-)?({DIGITS})-iteration-[0-9]{{1,18}}\.json")
"""Name of a manifest; groups: epoch, number."""
DATA = re.compile(rf"(?:({DIGITS})-)?({DIGITS})-(?:claim|[0-9a-f]{{8}})")
"""Name of a claim or of a folder of arrays; groups: epoch, number."""


class Number(NamedTuple):
    """Position of a checkpoint in the order of all checkpoints of a model."""

    epoch: int
    """Epoch of the lease that the saving run holds."""
    number: int
    """Number of the checkpoint, counted from 0 over all epochs."""

    def __str__(self) -> str:
        return f"{self.epoch:08d}-{self.number:08d}"


def of_manifest(name: str) -> Number | None:
    """Return the number of a manifest; None for the name of anything else."""
    return _number(MANIFEST.fullmatch(name))


def of_data(name: str) -> Number | None:
    """Return the number of a claim or a folder of arrays; None for the name of anything else."""
    return _number(DATA.fullmatch(name))


def of_unpublished(name: str) -> Number | None:
    """Return the number of an unpublished manifest or claim; None for anything else."""
    if not publish.is_unpublished(name):
        return None
    target = publish.published_name(name)
    return of_manifest(target) or of_data(target)


def _number(found: re.Match[str] | None) -> Number | None:
    """Return the number in a match of `MANIFEST` or `DATA`."""
    return Number(int(found[1] or 0), int(found[2])) if found else None
