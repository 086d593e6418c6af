"""The names of the files of labelled output, by which a run knows its own files.

_lease/                                        which run may write (see `lease`)
_unfinished-<run>.json                         a run's marker, its spec; deleted at its end
part-<run>-00000012.parquet                    the rows of some blocks of the data
cluster=00007/part-<run>-00000012.parquet      rows of one cluster, see `labelled_by_cluster`
_by_cluster-<run>/                             parts and notes until those are written
_manifest.json, _manifests/00000002.json       see `labelled_manifests`

<run> is the beginning of the run's stamp, the hash of its marker. Two runs that write the same rows
in the same place have one stamp and write the same bytes; any other two give different names.
"""

from __future__ import annotations

import re

from ray_kmeans.io import publish

MANIFEST = "_manifest.json"
"""Name of the manifest that readers open."""
RECORDS = "_manifests"
"""Folder of the manifests by generation."""
LEASE = "_lease"
"""Folder of the lease."""
OLD_MARKER = "_unfinished.json"
"""Name of the marker of any run, in formats 1 and 2."""
OLD_WORKING = "_by_cluster"
"""Folder of the parts of any run until they are in order of their clusters, in format 2."""
OLD_PREFIX = "part-"
"""Begin of the names of all parts, in formats 1 and 2."""

_FOLDER = r"cluster(?:_range)?=[\w-]+/"
"""Pattern of the folder of a cluster, or of several."""
_PART = r"part-([0-9a-f]{12})-[0-9]{8}\.parquet"
"""Pattern of a part's name; group: the run."""
_NOTE = r"(?:plan|[0-9]{8})\.json"
"""Pattern of a note in a folder of work: the plan, or that a bundle is done."""
MARKER = re.compile(r"_unfinished-([0-9a-f]{12})\.json")
"""Name of a marker; group: the run."""
FINAL = re.compile(rf"(?:{_FOLDER})?{_PART}")
"""Name of a part where readers find it; group: the run."""
PART_NAME = re.compile(rf"(?:{_FOLDER})?part-(?:[0-9a-f]{{12}}-)?[0-9]{{8}}\.parquet")
"""Name of a part in a manifest of any format."""
WORKING = re.compile(rf"_by_cluster-([0-9a-f]{{12}})/(?:{_NOTE}|part-(?:\1-)?[0-9]{{8}}\.parquet)")
"""Name of a part or note in a run's folder of work; group: the run."""
RECORD = re.compile(rf"{RECORDS}/([0-9]{{8}})\.json")
"""Name of a manifest by generation; group: the generation."""
OTHER = re.compile(rf"{MANIFEST}|{OLD_MARKER}")
"""Name of the manifest that readers open, or of an old marker."""
OLD_WORK = re.compile(
    rf"{OLD_WORKING}/(?:{_NOTE}|part-[0-9]{{8}}\.parquet)"
    rf"|(?:{OLD_WORKING}/|{_FOLDER})?part-[0-9]{{8}}\.parquet\.[0-9a-f]{{8}}\.partial"
)
"""Name of a file that a run of format 1 or 2 may leave. Other programs may give such names as well,
so these files are removed only beside the marker of such a run."""


def marker_of(stamp: str) -> str:
    """Return the name of a run's marker."""
    return f"_unfinished-{stamp[:12]}.json"


def working_of(stamp: str) -> str:
    """Return the folder of a run's parts until they are in order of their clusters."""
    return f"_by_cluster-{stamp[:12]}"


def prefix_of(stamp: str) -> str:
    """Return the begin of the names of a run's parts."""
    return f"part-{stamp[:12]}-"


def run_of(name: str) -> str:
    """Return the run in the name of a part or of a file of work; '' for any other name.

    >>> run_of("cluster=00007/part-0123456789ab-00000012.parquet"), run_of("part-0.parquet")
    ('0123456789ab', '')
    """
    found = FINAL.fullmatch(name) or WORKING.fullmatch(name)
    return found[1] if found else ""


def is_unpublished(name: str) -> bool:
    """Return whether a killed writer of this product has left this unpublished file.

    False for files of a lease: its holder writes there all the time.

    >>> is_unpublished("_manifest.json." + 32 * "0" + ".ray-kmeans-partial")
    True
    >>> is_unpublished("film.mkv.part.partial")
    False
    """
    target = publish.published_name(name)
    kinds = (FINAL, WORKING, MARKER, RECORD, OTHER)
    return target != name and any(kind.fullmatch(target) for kind in kinds)
