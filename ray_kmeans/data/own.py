"""What this product wrote below the data: outputs, exports and checkpoints, which are no data."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from typing import Any

MANIFEST = re.compile(r"_manifest\.json|_unfinished(-[0-9a-f]{12})?\.json")
"""Files of which one is in every output and export."""
OURS = (
    {"format", "of", "parts", "clusters"},
    {"of", "after"},
    {"kind", "files"},
)
"""Keys of a finished output, of an unfinished one, and of an export."""
SAVED = re.compile(r"(.*/|)checkpoints/(data/[0-9]{8,15}-|([0-9]{8,15}-)?[0-9]{8,15}-iteration-)")
"""How the names of what is saved begin in a model_dir."""
BESIDE = ("checkpoints", "lease", "runs")
"""Folders of a model_dir."""


def folders_of_ours(paths: Iterable[str], read: Callable[[str], bytes]) -> set[str]:
    """Return the folders below a place that this product wrote.

    `paths` are all names below the place, from there on; `read` returns the bytes of one. A place
    is what was asked for, so it is never among these itself.

    >>> saved = "m/checkpoints/00000001-00000000-iteration-1.json"
    >>> names = ["a.npy", saved, "m/lease/1", "m/b.npy"]
    >>> sorted(folders_of_ours(names, read=lambda name: b""))
    ['m/checkpoints', 'm/lease', 'm/runs']
    """
    ours: set[str] = set()
    for path in paths:
        folder, _, name = path.rpartition("/")
        if folder and MANIFEST.fullmatch(name) and _is_ours(read(path)):
            ours.add(folder)
        elif "checkpoints/" in path and (found := SAVED.match(path)):
            ours |= {f"{found[1]}{each}" for each in BESIDE}
    return ours


def folder_above(path: str, folders: set[str]) -> str:
    """Return which of some folders a path is below; '' where it is below none.

    >>> folder_above("m/checkpoints/data/1.npy", {"m/checkpoints"})
    'm/checkpoints'
    """
    parts = path.split("/") if folders else []
    above = ("/".join(parts[:end]) for end in range(1, len(parts)))
    return next((folder for folder in above if folder in folders), "")


def _is_ours(data: bytes) -> bool:
    try:
        found: Any = json.loads(data)
    except (ValueError, RecursionError):
        return False
    return (
        isinstance(found, dict) and "sha256" in found and any(keys <= set(found) for keys in OURS)
    )
