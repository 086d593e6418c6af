"""What every test needs. The environment comes first: Ray reads it when it is imported."""

import fcntl
import os
import secrets
import sys
import tempfile
import uuid
from pathlib import Path

os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_TQDM", "0")
if not any(map(os.path.exists, ("/dev/nvidia0", "/dev/kfd"))):
    os.environ["TRITON_INTERPRET"] = "1"  # there is no GPU; Triton reads it when it is imported
os.environ["NUMBA_CACHE_DIR"] = f"{tempfile.gettempdir()}/ray-kmeans-tests"
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # it would ask by gRPC
os.environ.pop("RAY_ADDRESS", None)  # a test must never join a cluster that happens to run

import hypothesis
import numpy as np
import pytest

from ray_kmeans import kernels
from ray_kmeans.algorithm.grid import (
    Extent,
    Grid,
    Squares,
    Summary,
)
from ray_kmeans.algorithm.metric import Metric
from ray_kmeans.algorithm.partial_sums import Partials
from ray_kmeans.io import retry
from tests.support import stores
from tests.support.share import SHARES, share_of

SQUARED_EUCLIDEAN = Metric.SQUARED_EUCLIDEAN

pytest.register_assert_rewrite("ray_kmeans.testing", "tests.support.foreign_data")

# The same examples every time, so that a failure is the change's; no deadline, as numba compiles.
hypothesis.settings.register_profile("tests", deadline=None, derandomize=True, max_examples=60)
hypothesis.settings.load_profile("tests")


def pytest_addoption(parser):
    parser.addoption("--all", action="store_true", help="run every long test, not a share of them")
    parser.addoption("--share-seed", type=int, help="draws the long tests and calls that are run")


def pytest_configure(config):
    """Draw one seed for this process and for those of pytest-xdist, which it starts later."""
    drawn = os.environ.setdefault("RAY_KMEANS_SHARE_SEED", str(secrets.randbelow(1_000_000)))
    if config.option.share_seed is None:
        config.option.share_seed = int(drawn)


def pytest_report_header(config):
    """Tell which long tests run, so that a failure can be met again."""
    if config.option.all:
        return "long tests: all"
    share = f"one in {SHARES}, one of each kind, and a share of a sleeper's calls"
    return f"long tests: {share}, by --share-seed={config.option.share_seed}"


def kind_of(item):
    """Return what a long test is one of, as its mark tells: a kind of which each run has a test."""
    return item.get_closest_marker("long").kwargs.get("kind")


def pytest_collection_modifyitems(config, items):
    """Fast laws first, then Ray, and servers that others run last; of long tests a share."""
    long = [item for item in items if item.get_closest_marker("long")]
    named = any("::" in each for each in config.args)
    if long and not config.option.all and not named:
        left_out = set(long).difference(share_of(long, config.option.share_seed, kind_of))
        config.hook.pytest_deselected(items=[item for item in long if item in left_out])
        items[:] = [item for item in items if item not in left_out]
    last = ("test_kill", "test_kill_points", "test_node_loss", "test_soak", "test_job_submit")
    items.sort(
        key=lambda item: (item.get_closest_marker("ray") is not None, item.path.stem in last)
    )


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item):
    """Let no other test of Ray run beside one that is marked `alone`, in whichever process.

    Each holds a lock of this file meanwhile: `alone` for itself, others together. A child that was
    forked has the lock too, so it is given back, not closed.
    """
    if not item.get_closest_marker("ray"):
        yield
        return
    with open(__file__) as file:
        fcntl.flock(file, fcntl.LOCK_EX if item.get_closest_marker("alone") else fcntl.LOCK_SH)
        yield
        fcntl.flock(file, fcntl.LOCK_UN)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item):
    """Let no test but those marked `ray` leave a Ray behind, which later tests would join."""
    started = sys.modules.get("ray")
    if not item.get_closest_marker("ray") and started and started.is_initialized():
        started.shutdown()
        pytest.fail("this test starts Ray: give it num_workers=0, or the mark `ray`")


def shared_data(name):
    """Return a folder of the data sets that lie beside the repository, or skip the test."""
    folder = Path(__file__).parents[2] / "shared" / "data" / name
    if not folder.exists():
        pytest.skip(f"{folder} is missing")
    return folder


ALL_UNITS = ("amx", "vnni", "avxvnni", "avx2", "i8mm", "dotprod", "plain")
"""What may multiply bytes; a processor has some of them, and always the last."""
UNITS = ("amx", "vnni", "avx2", "plain")
"""Those by which the laws of held rows are tested, each of a form of its own: tiles, unsigned rows,
centers of 7 bits, signed bytes. The others differ from one of these in their products alone."""


def skip_without(unit):
    """Skip a test of a unit that this processor does not have."""
    from ray_kmeans.kernels import cpu_units

    if unit not in cpu_units.units():
        pytest.skip(f"this processor has no {unit}")


GPU_KERNELS = ("gpu-torch", "gpu-triton")
"""What labels on a GPU; without one on CPU tensors, by Triton's interpreter for its programs."""


def small_tiles(monkeypatch):
    """Let Triton's programs, and what they work on, be as small as the interpreter wants them."""
    from ray_kmeans.kernels.gpu import int8 as by
    from ray_kmeans.kernels.gpu.packing import Tile

    monkeypatch.setattr(Tile, "of", lambda d: Tile(rows=32, centers=32, columns=32))
    monkeypatch.setattr(by, "GROUP_ROWS", 48)


def by_bytes(monkeypatch, unit):
    """Let few columns and centers be multiplied as bytes too, not as float32."""
    from ray_kmeans.kernels.int8 import held_rows

    skip_without(unit)
    for name in ("MOST_VALUES", "WIDE_VALUES"):
        monkeypatch.setattr(held_rows, name, 0)
    monkeypatch.setattr(held_rows, "FEW_COLUMNS", 0)


@pytest.fixture(
    params=["portable", "portable in small tiles", *UNITS, "plain or floats", "reference"]
)
def kernel(request, monkeypatch):
    """Give every way to label rows, by the name that `kernels.load` takes."""
    from ray_kmeans.kernels import portable

    if request.param == "portable in small tiles":
        monkeypatch.setattr(portable, "TILE_ROWS", 7)
        monkeypatch.setattr(portable, "PANEL_CENTERS", 3)
    if request.param in UNITS:
        by_bytes(monkeypatch, request.param)
    return request.param.split()[0]


def summary_of(X, kernel="reference", metric=SQUARED_EUCLIDEAN):
    """Return what a fit knows of all its rows before the first sweep; for cosine, of unit rows."""
    extent = Extent.of_rows(X)
    grid = Grid.of(extent)
    squares = Squares.zero(X.shape[1])
    kernels.load(kernel).accumulate_squares(
        X, grid.scale, grid.half_bits, squares.limbs, squares.coarse
    )
    squares += Squares.zero(X.shape[1], kernels.load(kernel).fingerprint(X))
    return Summary(len(X), grid, squares, metric, extent.zeros)


def partials_of(X, labels, n_clusters, grid, kernel="reference"):
    """Return the sums and counts of rows whose labels are known."""
    sums = np.zeros((n_clusters, X.shape[1]), np.int64)
    kernels.load(kernel).accumulate(X, labels, grid.scale, sums)
    return Partials(sums, np.bincount(labels, minlength=n_clusters))


def labels_of(X, centers, kernel="reference", metric=SQUARED_EUCLIDEAN):
    """Return the labels that a kernel gives; read-only input, as it may come from a mapped file."""
    X, centers = X.view(), centers.view()
    X.flags.writeable = centers.flags.writeable = False
    loaded = kernels.load(kernel)
    labels = np.full(len(X), -1, np.int32)
    loaded.assign(X, loaded.prepare(centers, metric), labels)
    return labels


@pytest.fixture
def lattice():
    """Small integers stored as floats: many ties, and means that are exact or correctly rounded."""
    return np.random.default_rng(0).integers(-8, 8, size=(120, 3)).astype(np.float32)


@pytest.fixture
def gaussian():
    return np.random.default_rng(1).normal(size=(200, 5)).astype(np.float32)


@pytest.fixture(scope="session")
def ray_cluster():
    """A Ray on this machine for all tests that want one, with eight logical CPUs and one GPU."""
    import ray

    with tempfile.TemporaryDirectory(prefix="rk", dir="/tmp") as place:  # socket paths are short
        ray.init(
            num_cpus=8,
            num_gpus=1,
            include_dashboard=False,
            object_store_memory=300 * 2**20,
            log_to_driver=False,
            _temp_dir=place,
        )
        yield
        ray.shutdown()


@pytest.fixture(scope="session")
def s3():
    """Give a bucket of a real S3 server."""
    with stores.seaweed() as store:
        yield store


@pytest.fixture(scope="session")
def gcs():
    """Give a bucket of a GCS server."""
    with stores.fake_gcs() as store:
        yield store


@pytest.fixture(scope="session")
def azure():
    """Give a container of an Azure server."""
    with stores.azurite() as store:
        yield store


@pytest.fixture
def impatient(monkeypatch):
    """Let a request to a store fail at once."""
    monkeypatch.setattr(retry, "PATIENT", retry.ONCE)


@pytest.fixture(params=["local", "memory"])
def root(request, tmp_path):
    """Return a folder on this machine's disk, and one in memory."""
    return str(tmp_path) if request.param == "local" else f"memory://{uuid.uuid4().hex}"
