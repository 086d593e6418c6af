"""`ray-kmeans compile`: what it has compiled is found by all later runs, which compile nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from ray_kmeans.kernels import cpu_units
from tests.support.commands import refused

LIMIT_S = 1200
RUNS = """
import sys, tempfile, warnings
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numba.core import event
from ray_kmeans import KMeansClustering, Predictor, RunConfig

compiled = []

class Compiled(event.Listener):
    def on_start(self, told):
        loop = told.data["dispatcher"].py_func
        compiled.append(f"{loop.__module__}.{loop.__name__}{told.data['args']}")
    def on_end(self, told):
        pass

event.register("numba:compile", Compiled())
warnings.simplefilter("ignore")
folder = tempfile.mkdtemp()
many = np.random.default_rng(0).normal(size=(12_000, 64)).astype(np.float32)
few = np.ascontiguousarray(many.reshape(-1, 8)[:60_000])
column = pa.FixedSizeListArray.from_arrays(pa.array(many.ravel()), 64)
halves = pa.FixedSizeListArray.from_arrays(pa.array(many.astype(np.float16).ravel()), 64)
pq.write_table(pa.table({"v": column}), f"{folder}/many.parquet")
pq.write_table(pa.table({"v": halves}), f"{folder}/halves.parquet")
weights = np.arange(len(many)) % 3 + 0.5
lloyd, cosine = {"use_mini_batch": False}, {"distance_metric": "cosine"}
kinds = {
    "Lloyd": (many, 160, lloyd),
    "cosine": (many, 160, {**lloyd, **cosine}),
    "few columns": (few, 128, lloyd),
    "few columns, cosine": (few, 128, {**lloyd, **cosine}),
    "more centers of few columns": (few, 1000, lloyd),
    "two columns": (few[:, :2].copy(), 700, lloyd),
    "Parquet": (f"{folder}/many.parquet", 160, lloyd),
    "float16": (f"{folder}/halves.parquet", 160, lloyd),
    "float64": (many[:3000].astype(np.float64), 10, lloyd),
    "on disk": (f"{folder}/many.parquet", 160, {**lloyd, "cache": "disk"}),
    "at the source": (f"{folder}/many.parquet", 160, {**lloyd, "cache": "source"}),
    "weights": (many, 160, {**lloyd, "sample_weight": weights}),
    "mini-batch": (many, 160, {"batch_size": 4000}),
    "mini-batch, weights": (many, 160, {**cosine, "batch_size": 4000, "sample_weight": weights}),
    "small": (many[:500], 5, {}),
    "farthest": (many, 160, {**lloyd, "empty_clusters": "farthest"}),
    **{
        method: (many[:2000], 20, {**lloyd, "initial_clusters": method})
        for method in ("kmeans_plus_plus", "kmc2", "kmeans_parallel")
    },
}

def tell(name):
    print(name, *compiled, sep="|")
    compiled.clear()

for number, (name, (x, k, how)) in enumerate(kinds.items()):
    of_fit = {key: how[key] for key in ("sample_weight", "batch_size") if key in how}
    of_run = {key: how[key] for key in ("cache",) if key in how}
    of_class = {key: how[key] for key in set(how) - set(of_fit) - set(of_run)}
    config = RunConfig(num_workers=0, progress=False, **of_run)
    km = KMeansClustering(k, f"{folder}/{number}", config=config, **of_class)
    km.fit(x, max_steps=4, **of_fit)
    tell(name)
    if name in ("Lloyd", "cosine", "few columns"):
        km.label(x, f"{folder}/labelled-{number}", second=True)
        next(iter(km.predict(x[:3000])))
        km.transform(x[:300])
        km.evaluation(x)
        tell(f"labels of {name}")
Predictor(f"{folder}/0", columns=["v"])(pq.read_table(f"{folder}/many.parquet").slice(0, 999))
tell("Predictor")
"""


def ran(*command, **environment):
    """Run Python in a process of its own; return its output."""
    environment = {**os.environ, **{k: str(v) for k, v in environment.items()}}
    done = subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True, timeout=LIMIT_S
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """Compile to an empty folder; return that, and what the command prints."""
    folder = tmp_path_factory.mktemp("compiled") / "cache"
    command = "from ray_kmeans import cli; cli.main()"
    return folder, ran("-c", command, "compile", "--cache-dir", str(folder))


@pytest.mark.long
def test_it_prints_what_labels_here_how_long_it_took_and_where_the_code_is(compiled):
    folder, printed = compiled
    *checked, seconds, place = printed.splitlines()

    assert checked[0] == "checked: float32 BLAS"
    assert checked[1].removeprefix("checked: ") in {u.name for u in cpu_units.units().values()}
    assert re.fullmatch(r"seconds: \d+\.\d", seconds)
    assert place == f"machine code: {folder}"
    assert len(list(folder.glob("kernels_*/passed-*.txt"))) == 3


@pytest.mark.long
def test_no_run_compiles_anything_afterwards(compiled):
    printed = ran("-c", RUNS, NUMBA_CACHE_DIR=compiled[0])

    lines = [line.split("|") for line in printed.splitlines()]
    assert {name: loops for name, *loops in lines if loops} == {}
    assert len(lines) == 23


def test_a_folder_that_cannot_be_written_is_an_error_in_one_line(tmp_path):
    (tmp_path / "file").touch()

    code, line = refused(["compile", "--cache-dir", str(tmp_path / "file" / "cache")])

    assert code == 1
    assert "cannot be written" in line


def test_it_takes_no_words(tmp_path):
    assert refused(["compile", str(tmp_path)])[0] == 2
