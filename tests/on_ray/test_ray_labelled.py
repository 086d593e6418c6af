"""Drivers and workers that write labelled output are killed; the files are those of no kill."""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import sys
import tempfile
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pytest

from ray_kmeans import KMeansClustering, RunConfig
from ray_kmeans.data.opening import open_source
from ray_kmeans.store.labelled import MANIFEST, LabelledOutput
from ray_kmeans.store.labelled_by_cluster import FileSizes
from ray_kmeans.store.model_dir import ModelDir
from ray_kmeans.workflows import label as labelling
from tests.support.killing import processes_in, wait_until
from tests.support.labelled_files import files_of, put_rows, read

pytestmark = pytest.mark.ray

ROOT = Path(__file__).parents[2]
N, K = 3000, 40
X = np.random.default_rng(1).integers(-50, 50, size=(N, 3)).astype(np.float32)
MODES = {
    "plain": {"keep_columns": ("id",)},
    "second and by cluster": {"keep_columns": ("id",), "second": True, "by_cluster": True},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with data in some 240 blocks, a model, and the output of each mode."""
    folder = tmp_path_factory.mktemp("labelled")
    for part in range(4):
        rows = slice(part * N // 4, (part + 1) * N // 4)
        put_rows(folder / "data", f"{part}.parquet", X[rows], first=rows.start)
    here = RunConfig(num_workers=0, progress=False)
    km = KMeansClustering(K, str(folder / "model"), use_mini_batch=False, config=here)
    km.fit(str(folder / "data"), max_steps=3)
    for name, options in MODES.items():
        label(folder, folder / name, 0, **options)
    return folder


def label(folder, output, num_workers, source=None, **options):
    return labelling.write_labels(
        ModelDir.at(str(folder / "model"), {}, 5).fitted(),
        source or open_source(str(folder / "data")),
        LabelledOutput.at(str(output), {}),
        RunConfig(num_workers=num_workers, progress=False),
        model_dir=str(folder / "model"),
        **options,
    )


def check_same(output, expected):
    """Hold the output against one that was not disturbed, bit for bit; it has every row once."""
    found = files_of(str(output))
    lease = {name for name in found if name.startswith("_lease/")}  # who has held it
    assert {n: found[n] for n in found.keys() - lease} == files_of(str(expected))
    assert read(str(output))["row"].to_pylist() == list(range(N))


def parts_in(output):
    """Return how many are there; folders may vanish meanwhile."""
    names = itertools.chain.from_iterable(names for _, _, names in os.walk(output))
    return sum(fnmatch(name, "part-*.parquet") for name in names)


@pytest.mark.long(kind="resume")
@pytest.mark.parametrize(("mode", "seed"), [("plain", 0), (list(MODES)[1], 2)])
def test_a_killed_driver_that_is_run_again_writes_the_rest(place, tmp_path, mode, seed):
    output = tmp_path / "out"
    folders = len(list((place / mode).glob("cluster=*")))
    most = parts_in(place / mode) - 20 if not folders else N // 13 + folders - 5
    stop_at = random.Random(seed).randint(N // 13 + 3 if folders else 5, most)
    flags = ["--keep-columns", "id", *(["--second", "--by-cluster"] if folders else [])]
    paths = [str(place / "data"), str(place / "model"), str(output)]
    command = [sys.executable, "jobs/predict.py", *paths, *flags, "--num-workers", "2"]
    with tempfile.TemporaryDirectory(prefix="rk", dir="/tmp") as temporary:
        environment = {**os.environ, "RAY_TMPDIR": temporary}
        job = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        wait_until(lambda: job.poll() is not None or parts_in(output) >= stop_at)
        job.kill()
        said, _ = job.communicate()
        wait_until(lambda: not processes_in(temporary), seconds=60)
    assert job.returncode == -signal.SIGKILL, said
    assert not (output / MANIFEST).exists()
    before = {p: p.stat().st_mtime_ns for p in output.rglob("part-*.parquet")}

    label(place, output, 0, **MODES[mode])

    check_same(output, place / mode)
    if not folders:
        assert {p: p.stat().st_mtime_ns for p in before} == before


class DeadlySource:
    """Kills the worker that first asks for a column of some blocks, once for each."""

    only_here = False

    def __init__(self, uri, blocks, flags):
        self.inner = open_source(uri)
        self.files, self.columns = self.inner.files, self.inner.columns
        self.blocks, self.flags, self.driver = blocks, flags, os.getpid()

    def describe(self):
        return self.inner.describe()

    def read(self, blocks):
        return self.inner.read(blocks)

    def columns_of(self, block, names):
        flag = Path(self.flags) / str(block.index)
        if block.index in self.blocks and os.getpid() != self.driver and not flag.exists():
            flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.inner.columns_of(block, names)


@pytest.mark.long(kind="labels on Ray")
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("mode", MODES)
def test_killed_workers_are_replaced_and_every_row_is_written_once(place, tmp_path, mode):
    draw = random.Random(mode)
    # The first block of a row group is the one whose columns are asked for.
    whole = [b.index for b in open_source(str(place / "data")).describe().blocks if b.skip == 0]
    deaths = draw.sample(whole, 2)
    source = DeadlySource(str(place / "data"), deaths, str(tmp_path))

    label(place, tmp_path / "out", 3, source, **MODES[mode])

    assert {int(path.name) for path in tmp_path.glob("[0-9]*")} == set(deaths)
    check_same(tmp_path / "out", place / mode)


@pytest.mark.long(kind="labels on Ray")
@pytest.mark.usefixtures("ray_cluster")
def test_any_number_of_workers_goes_on_where_another_one_was_cut_off(place, tmp_path):
    output = tmp_path / "out"
    source = DeadlySource(str(place / "data"), (), str(tmp_path))
    columns_of, asked = source.inner.columns_of, []

    def fail(block, names):
        asked.append(block)
        if len(asked) > 60:
            raise KeyboardInterrupt
        return columns_of(block, names)

    object.__setattr__(source.inner, "columns_of", fail)
    with pytest.raises(KeyboardInterrupt):
        label(place, output, 0, source, keep_columns=("id",))

    label(place, output, 5, keep_columns=("id",))

    check_same(output, place / "plain")


@pytest.mark.long(kind="labels on Ray")
@pytest.mark.usefixtures("ray_cluster")
def test_files_of_several_blocks_are_the_same_for_any_number_of_workers(place, tmp_path):
    sizes = FileSizes(few_files=60)
    options = {"keep_columns": ("id",), "by_cluster": True, "sizes": sizes}
    label(place, tmp_path / "here", 0, **options)

    label(place, tmp_path / "out", 5, **options)

    check_same(tmp_path / "out", tmp_path / "here")
    plain = tmp_path / "plain"
    label(place, plain, 3, keep_columns=("id",), sizes=sizes)
    assert parts_in(plain) == -(-parts_in(place / "plain") // 3)
    assert read(str(plain)).equals(read(str(place / "plain")))
