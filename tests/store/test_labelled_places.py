"""Places of labelled output: no file of the user's is lost, and what was damaged is found."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from ray_kmeans.algorithm.state import FitState
from ray_kmeans.errors import NonFiniteError, StoreError
from ray_kmeans.io import publish
from ray_kmeans.store.labelled_by_cluster import FileSizes
from ray_kmeans.store.labelled_names import MANIFEST
from tests.support import labelled_files
from tests.support.labelled_files import (
    CENTERS,
    OPTIONS,
    STATE,
    Cut,
    K,
    N,
    X,
    check_complete,
    cut_after,
    files_of,
    manifest_of,
    put_rows,
)
from tests.support.sleepers import QUICK

OTHER = FitState(CENTERS[::-1].copy(), np.zeros(K, np.int64))
HEX = 32 * "a"
USERS = [
    "part-00000001.parquet.0123abcd.partial",
    "cluster=00001/part-00000003.parquet.0123abcd.partial",
    "_by_cluster/plan.json",
    "_manifests/00000001.json",
    "_manifests/00000002.json",
    "_manifests/notes.txt",
    "film.mkv.abc.partial",
    "x.0123abcd.partial",
    "deep/er/part-3.npy.0123abcd.partial",
    "deep/part-00000001.parquet.0123abcd.partial",
    "_lease/notes.txt",
    "_by_cluster-0123456789ab/notes.partial",
    "cluster=00001/notes.txt",
    f"mine.{HEX}.ray-kmeans-partial",
    f"deep/_manifest.json.{HEX}.ray-kmeans-partial",
]
"""Files of others, in an output and below it."""


write = partial(labelled_files.write, times=QUICK)


@pytest.fixture
def data(tmp_path):
    put_rows(tmp_path / "data", "0.parquet", X[:31])
    put_rows(tmp_path / "data", "1.parquet", X[31:], first=31)
    return str(tmp_path / "data")


def plant(url, names=USERS):
    for name in names:
        path = Path(url, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")


def check_planted(url, names=USERS):
    assert [name for name in names if not Path(url, name).exists()] == []
    assert {Path(url, name).read_text() for name in names} == {"mine"}


def everything_in(url):
    """Return all names, of folders too, with what is in the files."""
    found = {}
    for path in sorted(Path(url).rglob("*")):
        found[str(path.relative_to(url))] = path.read_bytes() if path.is_file() else None
    return found


def cut_off(data, url, monkeypatch, **options):
    with monkeypatch.context() as patch:
        cut_after(patch, 5)
        with pytest.raises(Cut):
            write(data, url, **options)


# --- files of others -----------------------------------------------------------------------------


@pytest.mark.parametrize("by_cluster", [False, True])
def test_files_of_others_stay_through_every_way_to_write(data, tmp_path, by_cluster, monkeypatch):
    url, more = str(tmp_path / "out"), str(tmp_path / "more")
    put_rows(more, "0.parquet", X)
    theirs = [*USERS, "_lease/00000001.json", "_lease/00000003.json"]
    plant(url, theirs)
    Path(url, "_manifests/00000003.json").mkdir()

    cut_off(data, url, monkeypatch, by_cluster=by_cluster)
    check_planted(url, theirs)
    for _ in range(2):
        write(data, url, by_cluster=by_cluster)
        check_planted(url, theirs)
    for _ in range(2):
        write(more, url, by_cluster=by_cluster, append=True)
        check_planted(url, theirs)
    assert manifest_of(url)["generation"] == 4


@pytest.mark.parametrize("place", ["of others", "finished", "unfinished", "with old names"])
def test_a_place_that_is_refused_is_only_looked_at(data, tmp_path, place, monkeypatch):
    url = str(tmp_path / "out")
    if place == "of others":
        put_rows(url, "theirs.parquet", X)
    elif place == "with old names":
        put_rows(url, "part-00000000.parquet", X)
    elif place == "finished":
        write(data, url)
    else:
        cut_off(data, url, monkeypatch)
    ours = [
        f"_manifest.json.{HEX}.ray-kmeans-partial",
        f"part-0123456789ab-00000001.parquet.{HEX}.ray-kmeans-partial",
        "part-00000001.parquet.0123abcd.partial",
    ]
    plant(url, [*USERS, *ours])
    before = everything_in(url)

    with pytest.raises(StoreError):
        write(data, url, state=OTHER)

    assert everything_in(url) == before


def test_a_place_of_others_does_not_even_get_a_lease(data, tmp_path):
    put_rows(tmp_path / "out", "theirs.parquet", X)

    with pytest.raises(StoreError, match="holds files of another origin"):
        write(data, str(tmp_path / "out"))

    assert os.listdir(tmp_path / "out") == ["theirs.parquet"]


@pytest.mark.parametrize("when", ["unfinished", "finished"])
def test_what_a_killed_writer_of_ours_left_is_removed(data, tmp_path, when, monkeypatch):
    url = str(tmp_path / "out")
    if when == "finished":
        write(data, url)
    else:
        cut_off(data, url, monkeypatch)
    plant(
        url,
        [
            f"_manifest.json.{HEX}.ray-kmeans-partial",
            f"_by_cluster-0123456789ab/plan.json.{HEX}.ray-kmeans-partial",
            f"cluster=00007/part-0123456789ab-00000001.parquet.{HEX}.ray-kmeans-partial",
            f"part-0123456789ab-00000001.parquet.{HEX}.ray-kmeans-partial",
        ],
    )

    write(data, url)

    check_complete(url)


def test_a_sign_of_life_that_is_being_written_is_left_alone(data, tmp_path):
    url = str(tmp_path / "out")
    name = f"_lease/00000001.json.{HEX}.ray-kmeans-partial"
    plant(url, [name])

    for _ in range(2):
        write(data, url)
        check_planted(url, [name])


# --- what is not as it was written ---------------------------------------------------------------


def damage(url, kind):
    """Do this to some parts; return how many."""
    parts = sorted(part["name"] for part in manifest_of(url)["parts"])
    chosen = parts if kind == "all removed" else parts[1::4]
    for name in chosen:
        path = Path(url, name)
        data = bytearray(path.read_bytes())
        if "removed" in kind:
            path.unlink()
        elif kind == "cut":
            path.write_bytes(data[:-10])
        else:
            data[{"flipped": len(data) // 4, "in the footer": -40}[kind]] ^= 64
            path.write_bytes(data)
    return len(chosen)


@pytest.mark.long(kind="damaged part")
@pytest.mark.parametrize("kind", ["removed", "all removed", "cut", "flipped", "in the footer"])
@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("append", [False, True])
def test_parts_that_are_damaged_after_the_end_are_found_and_written_again(
    data, tmp_path, kind, name, append, caplog
):
    options = OPTIONS[name] | {"sizes": FileSizes(bundle_rows=40)}
    url, more = str(tmp_path / "out"), str(tmp_path / "more")
    write(data, url, **options)
    if append:
        put_rows(more, "0.parquet", X)
        first = files_of(url)
        write(more, url, append=True, **options)
    expected = files_of(url)
    bad = damage(url, kind)
    if append:  # the parts of the first run are not of this call
        ours = {part["name"] for part in manifest_of(url)["parts"]}
        for each in first.keys() & ours:
            Path(url, each).write_bytes(first[each])

    x = more if append else data
    if append:
        bad = sum(not Path(url, n).exists() or files_of(url)[n] != expected[n] for n in ours)
    assert write(x, url, append=append, **options) == N

    assert files_of(url) == expected
    assert f"but {bad} of its parts are missing or not as they were written" in caplog.text
    caplog.clear()
    write(x, url, append=append, **options)
    assert "are missing" not in caplog.text


def test_only_the_damaged_parts_are_read_and_written_again(data, tmp_path, monkeypatch):
    url = str(tmp_path / "out")
    write(data, url)
    names = sorted(n for n in files_of(url) if n.startswith("part"))
    Path(url, names[3]).unlink()
    written, put = [], publish.put
    monkeypatch.setattr(
        publish, "put", lambda fs, path, content: written.append(path) or put(fs, path, content)
    )

    write(data, url)

    assert [Path(path).name for path in written if path.endswith(".parquet")] == [names[3]]


def test_a_repair_that_was_cut_off_is_made_again(data, tmp_path, monkeypatch):
    url = str(tmp_path / "out")
    write(data, url, by_cluster=True)
    expected = files_of(url)
    for puts in range(1, 20, 3):
        damage(url, "all removed")
        with monkeypatch.context() as patch:
            cut_after(patch, puts)
            with pytest.raises(Cut):
                write(data, url, by_cluster=True)

        write(data, url, by_cluster=True)

        assert files_of(url) == expected


# --- outputs of earlier versions -----------------------------------------------------------------


def make_old(url):
    """Turn an output into one of format 2, whose names tell no run."""
    manifest = manifest_of(url)
    for part in manifest["parts"]:
        before = part["name"]
        folder = before[: before.rfind("/") + 1]
        part["name"] = f"{folder}part-{before[-16:]}"
        os.rename(Path(url, before), Path(url, part["name"]))
    for key in ("runs", "generation"):
        del manifest[key]
    Path(url, MANIFEST).write_bytes(publish.seal({**manifest, "format": 2}))


@pytest.mark.parametrize("by_cluster", [False, True])
def test_an_output_of_format_2_is_complete_is_repaired_and_is_added_to(
    data, tmp_path, by_cluster, caplog
):
    url, more = str(tmp_path / "out"), str(tmp_path / "more")
    put_rows(more, "0.parquet", X)
    write(data, url, by_cluster=by_cluster)
    make_old(url)
    before = files_of(url)

    assert write(data, url, by_cluster=by_cluster) == N
    assert files_of(url) == before

    Path(url, max(n for n in before if n.endswith(".parquet"))).unlink()
    assert write(data, url, by_cluster=by_cluster) == N
    check_complete(url)
    assert files_of(url) == before

    assert write(more, url, by_cluster=by_cluster, append=True) == N
    check_complete(url, 2 * N)
    assert write(more, url, by_cluster=by_cluster, append=True) == N
    check_complete(url, 2 * N)


def test_an_unfinished_output_of_an_earlier_version_is_refused_and_stays(data, tmp_path):
    url = str(tmp_path / "out")
    put_rows(url, "part-00000000.parquet", X)
    Path(url, "_unfinished.json").write_bytes(publish.seal({"of": {}, "after": ""}))
    before = everything_in(url)

    with pytest.raises(StoreError, match=r"delete _unfinished\.json and 1 parts"):
        write(data, url)

    assert {n: d for n, d in everything_in(url).items() if n != "_lease"} == before


# --- rows that are there -------------------------------------------------------------------------


def test_to_add_what_is_there_already_is_done(data, tmp_path, caplog):
    caplog.set_level("INFO")
    url, more = str(tmp_path / "out"), str(tmp_path / "more")
    put_rows(more, "0.parquet", X)
    write(data, url)
    write(more, url, append=True)
    before = files_of(url)

    for x, rows in ((data, N), (more, N), ([data, more], 2 * N), (f"{data}/1.parquet", N - 31)):
        caplog.clear()
        assert write(x, url, append=True) == rows
        assert "is complete already" in caplog.text

    assert files_of(url) == before
    Path(url, max(n for n in before if n.startswith("part"))).unlink()
    with pytest.raises(StoreError, match=r"1 of \d+ parts are missing or damaged"):
        write([data, more], url, append=True)


def test_rows_that_are_refused_leave_a_place_to_others(tmp_path):
    url = str(tmp_path / "out")
    holes = np.vstack([X, np.full((1, 3), np.nan, np.float32)])
    with pytest.raises(NonFiniteError):
        write(holes, url)

    assert write(X, url, state=STATE) == N
    check_complete(url)


NO_OUTPUTS = {
    "of no output": {},
    "of a checkpoint": {"format": 2, "files": {}, "iteration": 0},
    "without runs": {"runs": []},
    "with runs that are text": {"runs": "x"},
    "with a run of nothing": {"runs": [{}]},
    "with parts elsewhere": {"parts": [{"name": "../part-00000000.parquet"}]},
    "with a number as a part": {"parts": [7]},
    "of a huge generation": {"generation": 10**30},
    "of a generation that is text": {"generation": "3"},
    "with more rows than a number": {"rows": "many"},
}


@pytest.mark.parametrize("case", [*NO_OUTPUTS, "that is deep"])
def test_a_sealed_manifest_that_is_no_output_is_refused_and_stays(data, tmp_path, case):
    url = tmp_path / "out"
    write(data, str(url))
    found = publish.unseal((url / MANIFEST).read_bytes())
    changed = NO_OUTPUTS.get(case, {})
    whole = {} if "of no" in case or "checkpoint" in case else found
    crafted = publish.seal({**whole, "format": 3, **changed})
    (url / MANIFEST).write_bytes(b"[" * 100_000 if case == "that is deep" else crafted)
    before = everything_in(url)

    for append, said in [(False, "already holds a finished"), (True, "holds no finished output")]:
        with pytest.raises(StoreError, match=said):
            write(data, str(url), append=append)
        assert everything_in(url) == before
