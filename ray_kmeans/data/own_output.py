"""Recognize what ray_kmeans itself wrote among data: outputs, exports and checkpoints.

A labelled output may stand below the directory that was labelled. Read as data, it would make each
fit see more rows than the one before.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from typing import Any

MANIFEST = re.compile(r"_manifest\.json|_unfinished(-[0-9a-f]{12})?\.json")
"""Pattern of the manifest files, one of which every output and every export has."""
OURS = (
    {"format", "of", "parts", "clusters"},
    {"of", "after"},
    {"kind", "files"},
)
"""Keys of the manifests of a finished output, of an unfinished one, and of an export."""
SAVED = re.compile(r"(.*/|)checkpoints/(data/[0-9]{8,15}-|([0-9]{8,15}-)?[0-9]{8,15}-iteration-)")
"""Pattern of the paths of checkpoint files, up to the name of the file."""
BESIDE = ("checkpoints", "lease", "runs")
"""Folders in every model_dir."""


def folders_of_ours(paths: Iterable[str], read: Callable[[str], bytes]) -> set[str]:
    """Return the folders below a place that ray_kmeans wrote.

    The place itself is never one of them: the user asked for it.

    Parameters
    ----------
    paths : iterable of str
        Paths of all files below the place, relative to it.
    read : function str -> bytes
        Returns the content of one of them.

    Returns
    -------
    set of str
        Paths relative to the place.

    Examples
    --------

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
    """Return the outermost of some folders that a path is in; '' if it is in none.

    >>> folder_above("m/checkpoints/data/1.npy", {"m/checkpoints"})
    'm/checkpoints'
    """
    parts = path.split("/") if folders else []
    above = ("/".join(parts[:end]) for end in range(1, len(parts)))
    return next((folder for folder in above if folder in folders), "")


def _is_ours(data: bytes) -> bool:
    """Tell whether bytes are a manifest of ray_kmeans."""
    try:
        found: Any = json.loads(data)
    except (ValueError, RecursionError):
        return False
    return (
        isinstance(found, dict) and "sha256" in found and any(keys <= set(found) for keys in OURS)
    )
