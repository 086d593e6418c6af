"""The kernels for GPUs give the bits of the others: on a GPU if there is one, else on the CPU."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from ray_kmeans import kernels
from ray_kmeans.kernels.gpu import centers_int8 as by
from ray_kmeans.kernels.gpu import int8 as by_bytes
from ray_kmeans.kernels.gpu import kernel as gpu
from ray_kmeans.kernels.gpu import programs, refine
from ray_kmeans.kernels.gpu.device import Device
from ray_kmeans.kernels.gpu.float32 import Float32Labeller
from tests.conftest import GPU_KERNELS, labels_of, small_tiles
from tests.support import oracle
from tests.support.cases import CASES, gaussian, near_ties
from tests.support.walks import assert_follows, blobs, cut, hold, table, unit_rows, walk

# Triton 3.7's interpreter says so of scores that are no numbers; they certify nothing.
pytestmark = pytest.mark.filterwarnings("ignore:All-NaN slice encountered:RuntimeWarning")
METRICS = pytest.mark.parametrize("metric", ["squared_euclidean", "cosine"])


@pytest.fixture(params=GPU_KERNELS)
def kernel(request, monkeypatch):
    small_tiles(monkeypatch)
    return request.param


@pytest.fixture
def triton(monkeypatch):
    """Give the kernel whose labels Triton finds, and how many of them it finds for certain."""
    small_tiles(monkeypatch)
    seen = []

    def find_nearest(panels, *about):
        labels, uppers, certain = found(panels, *about)
        seen.append((len(panels._references), float(certain.float().mean())))
        return labels, uppers, certain

    found = by.CenterPanels.find_nearest
    monkeypatch.setattr(by.CenterPanels, "find_nearest", find_nearest)
    return "gpu-triton", seen


@pytest.mark.long(kind="labels on a GPU")
@pytest.mark.parametrize("case", CASES)
def test_labels_are_those_of_the_oracle(case, kernel):
    X, centers = CASES[case]

    held = hold(X, "squared_euclidean", len(centers), kernel, sizes=(1, 25))

    expected = oracle.labels(X, centers)
    np.testing.assert_array_equal(labels_of(X, centers, kernel), expected)
    np.testing.assert_array_equal(held.assign(centers), expected)
    np.testing.assert_array_equal(held.assign(centers), expected)  # now with labels from before


@pytest.mark.long(kind="labels on a GPU")
@pytest.mark.parametrize("case", CASES)
def test_and_those_of_the_cpu_for_cosine(case, kernel):
    X, centers = map(unit_rows, CASES[case])

    held = hold(X, "cosine", len(centers), kernel, sizes=(1, 25))

    expected = labels_of(X, centers, "portable", "cosine")
    np.testing.assert_array_equal(labels_of(X, centers, kernel, "cosine"), expected)
    np.testing.assert_array_equal(held.assign(centers), expected)


@METRICS
@pytest.mark.parametrize(("d", "k"), [(3, 7), (40, 35)])
def test_labels_and_sums_do_not_depend_on_the_centers_before(d, k, metric, kernel):
    X, centers = table(90, d, k, metric)
    steps = ["lloyd", "creep", "one jumps", "shrink", "one more"]

    held = hold(X, metric, k, kernel, sizes=(1, 40))

    assert_follows(held, X, walk(X, centers, metric, steps), metric)


@METRICS
def test_most_labels_are_found_by_bytes_once_the_groups_are_known(metric, triton):
    name, seen = triton
    X, centers = blobs(200, 33, 20, metric)
    held = hold(X, metric, 20, name)

    assert_follows(held, X, walk(X, centers, metric, ["lloyd"] * 2), metric)

    assert seen[0][0] == 1  # one reference for all, as long as no row has a label
    assert all(1 < groups < 20 for groups, _ in seen[1:])
    assert min(share for _, share in seen[-2:]) > 0.9


def test_more_centers_than_a_key_has_room_for(triton, monkeypatch):
    monkeypatch.setattr(programs, "_TILES", programs.tl.constexpr(2))  # 64 centers at once
    monkeypatch.setattr(programs, "_MASK", programs.tl.constexpr(-2))
    name, seen = triton
    X, centers = blobs(200, 9, 100, "squared_euclidean")
    pairs = np.random.default_rng(0).integers(0, 100, (60, 2))
    X[:60] = centers[pairs].mean(axis=1)  # near to two that may be 64 centers apart

    labels = hold(X, "squared_euclidean", 100, name).assign(centers)

    np.testing.assert_array_equal(labels, labels_of(X, centers, "portable"))
    assert seen[-1][1] > 0.5


def test_tiles_of_centers_that_are_too_far_are_pruned(triton, monkeypatch):
    name, _ = triton
    found, seen = by.CenterPanels._prune_tiles, []

    def prune_tiles(panels, *about):
        counts = found(panels, *about)
        seen.append(float(counts.float().mean()) / panels._tile_distances.shape[1])
        return counts

    monkeypatch.setattr(by.CenterPanels, "_prune_tiles", prune_tiles)
    monkeypatch.setattr(by_bytes, "GROUP_ROWS", 3)
    X, centers = blobs(100, 2, 96, "squared_euclidean")
    held = hold(X, "squared_euclidean", 96, name)

    steps = walk(X, centers, "squared_euclidean", ["lloyd"])
    assert_follows(held, X, steps, "squared_euclidean")

    assert seen[0] == 1  # nothing is known of a row without a label
    assert seen[-1] < 0.5


@METRICS
def test_rows_that_bytes_leave_undecided_are_told_apart_among_their_candidates(
    metric, triton, monkeypatch
):
    left = []
    monkeypatch.setattr(Float32Labeller, "label", _counted(Float32Labeller.label, left))
    name, seen = triton
    X, centers = blobs(200, 9, 40, metric)
    pairs = np.random.default_rng(0).integers(0, 40, (100, 2))
    X[:100] = centers[pairs].mean(axis=1)

    labels = hold(X, metric, 40, name).assign(centers)

    np.testing.assert_array_equal(labels, labels_of(X, centers, "portable", metric))
    assert seen[-1][1] < 0.9
    assert not left


def test_a_row_with_more_candidates_than_places_gets_the_lowest_of_a_tie(triton, monkeypatch):
    left = []
    monkeypatch.setattr(Float32Labeller, "label", _counted(Float32Labeller.label, left))
    name, _ = triton
    X, centers = blobs(60, 9, 50, "squared_euclidean")
    centers[20:45] = centers[20]

    labels = hold(X, "squared_euclidean", 50, name).assign(centers)

    np.testing.assert_array_equal(labels, oracle.labels(X, centers))
    assert 20 in labels
    assert sum(left) >= (labels == 20).sum()


def test_rows_count_as_often_as_they_weigh(kernel):
    X, centers = gaussian(n=60, d=5, k=6)
    times = np.random.default_rng(0).integers(0, 2**40, 60)
    scale = np.full(5, 100 / 3)  # most values are rounded, halves to the even one

    held, right = (
        kernels.load(name).hold(cut(X, [7]), "squared_euclidean", 6, times)
        for name in (kernel, "portable")
    )

    for moved in (centers, centers[::-1].copy(), centers * 2):
        for one, other in zip(held.sums(moved, scale), right.sums(moved, scale), strict=True):
            np.testing.assert_array_equal(one, other)


def test_halves_of_a_unit_go_to_the_even_one(kernel):
    X = np.array([[0.5, 1.5], [2.5, -0.5], [-1.5, 2**31 - 128]], np.float32)

    sums, counts = hold(X, "squared_euclidean", 1, kernel).sums(X[:1], np.ones(2))

    assert sums.tolist() == [[0 + 2 - 2, 2 - 0 + 2**31 - 128]]
    assert counts.tolist() == [3]


def test_a_process_that_allows_fewer_bits_in_products_gets_the_same_labels(kernel):
    X, centers = near_ties(33)
    expected = oracle.labels(X, centers)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        np.testing.assert_array_equal(labels_of(X, centers, kernel), expected)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize(
    ("case", "ties"), [("near ties, 7 columns", False), ("whole numbers", True)]
)
def test_ties_alone_are_left_to_exact_sums(case, ties, monkeypatch):
    left = []
    monkeypatch.setattr(refine, "_compare_exactly", _counted(refine._compare_exactly, left))
    X, centers = CASES[case]

    labels_of(X, centers, "gpu-torch")

    assert (sum(left) > 0) == ties


@pytest.mark.parametrize("shift", range(12))
def test_a_tie_is_one_in_whatever_order_its_terms_are_added(shift):
    X, centers = CASES["ties of 33 coordinates"]
    rolled = np.roll(centers, shift, axis=0)  # float64 tells some of them apart
    pairs = torch.ones(3, 12).nonzero(as_tuple=True)
    about = torch.from_numpy(X.copy()), torch.from_numpy(rolled), *pairs

    assert refine.refine_pairs(*about, False, 2**20).tolist() == [0, 0, 0]


def _counted(call, counts):
    def counted(*about):
        counts.append(len(next(each for each in about if isinstance(each, torch.Tensor))))
        return call(*about)

    return counted


def test_the_name_says_what_labels_and_where(monkeypatch):
    name = kernels.load("gpu-torch").ready(1000, 10, 8)

    where = torch.cuda.get_device_name() if torch.cuda.is_available() else "this CPU"
    assert name == f"float32 (torch) on {where}, with room for 100% of the rows as float32"


def test_triton_passes_its_check(monkeypatch):
    small_tiles(monkeypatch)
    monkeypatch.setattr(
        gpu, "CHECKS", [("cosine", 20, 8, 1.0), ("squared_euclidean", 20, 8, 1e-42)]
    )
    device = kernels.load("gpu-triton")._device

    assert gpu.bytes_are_right.__wrapped__(device) == (True, "")


@pytest.mark.parametrize(
    ("fails", "remark"),
    [
        (lambda *_: 3, "as Triton failed its self-check"),
        (lambda *_: 1 / 0, "as Triton does not run here"),
    ],
)
def test_triton_that_fails_its_check_steps_aside_and_says_so(fails, remark, monkeypatch, caplog):
    monkeypatch.setattr(gpu, "_wrong_labels", fails)
    monkeypatch.setattr(gpu, "bytes_are_right", gpu.bytes_are_right.__wrapped__)
    X, centers = near_ties()
    kernel = gpu.GpuKernel(1, Device.of_cpu())

    with caplog.at_level(logging.WARNING, logger="ray_kmeans"):
        name = kernel.ready(80, 9, 7)
        labels = kernel.hold([X], "squared_euclidean", 9).assign(centers)

    assert name.startswith(f"float32 (torch), {remark} on this CPU")
    assert "so torch labels" in caplog.text
    np.testing.assert_array_equal(labels, oracle.labels(X, centers))


def _certain(labels, uppers, certain):
    return labels, uppers, certain | True


def _first(labels, uppers, certain):
    return labels * 0, uppers, certain


@pytest.mark.long(kind="check of a GPU")
@pytest.mark.parametrize(
    ("part", "damaged"),
    [
        ("find_nearest", _certain),
        ("find_nearest", _first),
        ("_prune_tiles", lambda n_kept: n_kept * 0 + 1),
        ("list_candidates", lambda found, counts: (found * 0, counts * 0 + 1)),
    ],
    ids=["certain", "lowest", "pruning", "candidates"],
)
def test_a_program_that_finds_something_else_fails_the_check(part, damaged, monkeypatch):
    """The check finds what it is there to find."""
    small_tiles(monkeypatch)
    monkeypatch.setattr(gpu, "CHECKS", [("squared_euclidean", 40, 8, 1.0)])
    found = getattr(by.CenterPanels, part)

    def damage(panels, *about):
        answer = found(panels, *about)
        return damaged(*answer) if isinstance(answer, tuple) else damaged(answer)

    monkeypatch.setattr(by.CenterPanels, part, damage)

    assert gpu._wrong_labels(kernels.load("gpu-triton")._device) > 0
