"""Names of the files of labelled output, by which a run knows what is its own.

_lease/                                        which run may write (see `lease`)
_unfinished-<run>.json                         a run's marker: what it writes; deleted at its end
part-<run>-00000012.parquet                    the rows of some blocks of the data
cluster=00007/part-<run>-00000012.parquet      rows of one cluster, see `by_cluster`
_by_cluster-<run>/                             parts and notes until these are written
_manifest.json, _manifests/00000002.json       see `manifests`

<run> is the beginning of the run's stamp, the hash of its marker. Two runs that write the same rows
in the same place have one stamp and write the same bytes; all others have other names.
"""

from __future__ import annotations

import re

from ray_kmeans.io import publish

MANIFEST = "_manifest.json"
RECORDS = "_manifests"
LEASE = "_lease"
OLD_MARKER, OLD_WORKING = "_unfinished.json", "_by_cluster"
"""What formats 1 and 2 had instead, for all runs alike."""
OLD_PREFIX = "part-"

_FOLDER = r"cluster(?:_range)?=[\w-]+/"
_PART = r"part-([0-9a-f]{12})-[0-9]{8}\.parquet"
_NOTE = r"(?:plan|[0-9]{8})\.json"
MARKER = re.compile(r"_unfinished-([0-9a-f]{12})\.json")
FINAL = re.compile(rf"(?:{_FOLDER})?{_PART}")
PART_NAME = re.compile(rf"(?:{_FOLDER})?part-(?:[0-9a-f]{{12}}-)?[0-9]{{8}}\.parquet")
"""The names that parts have in manifests of all formats."""
WORKING = re.compile(rf"_by_cluster-([0-9a-f]{{12}})/(?:{_NOTE}|part-(?:\1-)?[0-9]{{8}}\.parquet)")
RECORD = re.compile(rf"{RECORDS}/([0-9]{{8}})\.json")
OTHER = re.compile(rf"{MANIFEST}|{OLD_MARKER}")
OLD_WORK = re.compile(
    rf"{OLD_WORKING}/(?:{_NOTE}|part-[0-9]{{8}}\.parquet)"
    rf"|(?:{OLD_WORKING}/|{_FOLDER})?part-[0-9]{{8}}\.parquet\.[0-9a-f]{{8}}\.partial"
)
"""What a run of these versions may leave. Others may give such names as well, so it is removed
beside the marker of such a run alone."""


def marker_of(stamp: str) -> str:
    """Return the name of a run's marker."""
    return f"_unfinished-{stamp[:12]}.json"


def working_of(stamp: str) -> str:
    """Return the folder of a run's parts until they are put in order of their clusters."""
    return f"_by_cluster-{stamp[:12]}"


def prefix_of(stamp: str) -> str:
    """Return how the names of a run's parts begin."""
    return f"part-{stamp[:12]}-"


def run_of(name: str) -> str:
    """Return the beginning of the stamp in the name of a part or of a working file; '' elsewhere.

    >>> run_of("cluster=00007/part-0123456789ab-00000012.parquet"), run_of("part-0.parquet")
    ('0123456789ab', '')
    """
    found = FINAL.fullmatch(name) or WORKING.fullmatch(name)
    return found[1] if found else ""


def is_unpublished(name: str) -> bool:
    """Tell whether a killed writer of this product has left this file.

    Those of a lease are left alone: its holder writes there all the time.

    >>> is_unpublished("_manifest.json." + 32 * "0" + ".ray-kmeans-partial")
    True
    >>> is_unpublished("film.mkv.part.partial")
    False
    """
    target = publish.published_name(name)
    kinds = (FINAL, WORKING, MARKER, RECORD, OTHER)
    return target != name and any(kind.fullmatch(target) for kind in kinds)
