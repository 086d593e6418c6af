"""distance_metric='cosine' as a user meets it: spherical k-means, whatever a row's length."""

from __future__ import annotations

import warnings
from itertools import pairwise

import numpy as np
import pyarrow.parquet as pq
import pytest

from ray_kmeans import KMeansClustering, RunConfig, open_source
from ray_kmeans.algorithm.metric import Metric, unit_rows
from ray_kmeans.algorithm.state import FitState, Stop
from ray_kmeans.data import sharding
from ray_kmeans.engine.options import WorkerSetup
from ray_kmeans.engine.pool import LocalPool
from ray_kmeans.errors import DataError, ModelMismatchError, NonFiniteError
from ray_kmeans.observe.monitors import Monitor
from ray_kmeans.store.labelled import LabelledOutput
from ray_kmeans.store.model_dir import ModelDir
from ray_kmeans.workflows import label
from ray_kmeans.workflows import worker_plan as resources
from ray_kmeans.workflows.predict_in_memory import ReadyModel
from tests.conftest import shared_data
from tests.support import oracle
from tests.support.cosine_cases import assert_are_directions_of_sums, exact_inertia
from tests.support.files import in_blocks
from tests.support.unit_rows import assert_has_norm_1

SQUARED_EUCLIDEAN, COSINE = Metric

HERE = RunConfig(num_workers=0, progress=False)
INITS = ["random", "kmeans_plus_plus", "kmc2", "kmeans_parallel"]
WAYS = {
    "full batch": {"use_mini_batch": False},
    "mini-batch": {"use_mini_batch": True},
    "mini-batch of 3 steps": {"use_mini_batch": True, "mini_batch_steps_per_iteration": 3},
}
IN_EVERY_WAY = pytest.mark.parametrize("way", WAYS)
GOLDEN = np.array([[2, 0], [0, 3], [1, 1], [-1, 0]], np.float32)
GOLDEN_INITIAL = np.array([[5, 0], [0, 7]], np.float32)


class Watch(Monitor):
    """Keeps every state, the first one included."""

    def __init__(self):
        self.states = []

    def begin(self, state):
        self.states.append(state)

    def after_step(self, state):
        self.states.append(state)


@pytest.fixture
def new(tmp_path):
    """Return a maker of models in this process, each in a fresh directory if none is named."""
    made = []

    def make(initial, num_clusters=None, name=None, **params):
        made.append(name)
        params = {"use_mini_batch": False, "distance_metric": COSINE, "config": HERE, **params}
        k = num_clusters or len(initial)
        return KMeansClustering(k, str(tmp_path / (name or f"m{len(made)}")), initial, **params)

    return make


def watched(km, x, **more):
    """Fit and return all states."""
    watch = Watch()
    km.fit(x, monitors=[watch], **more)
    return watch.states


def labels_of(km, x):
    return np.array(list(km.predict_cluster_idx(x)))


def inertias(km):
    return [line.inertia for line in km.history()]


def state_of(km):
    return km.clusters().tobytes(), km.counts().tolist(), km.history(), km.why_stopped()


def norms(rows):
    return np.linalg.norm(rows.astype(np.float64), axis=1)


def cosines(x, centers):
    """Return the cosine of each row and center in float64; 0 where one of them is zero."""
    x, centers = np.asarray(x, np.float64), np.asarray(centers, np.float64)
    lengths = np.linalg.norm(x, axis=1)[:, None] * np.linalg.norm(centers, axis=1)
    return x @ centers.T / np.where(lengths > 0, lengths, 1)


def spread(seed=11, n=240, d=7, groups=5):
    """Rows of very different length around some directions."""
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(groups, d))
    rows = directions[rng.integers(0, groups, n)] + rng.normal(size=(n, d)) * 0.4
    return (rows * 10.0 ** rng.uniform(-6, 6, (n, 1))).astype(np.float32)


class TestFullBatch:
    @pytest.mark.parametrize("k", [1, 2, 7])
    @pytest.mark.parametrize("table", ["lattice", "gaussian", "spread"])
    def test_every_step_is_one_of_spherical_k_means(self, new, table, k, request):
        x = spread() if table == "spread" else request.getfixturevalue(table)
        units = unit_rows(x)

        states = watched(new(x[:k]), x)

        assert states[-1].iteration == len(states) - 1 >= 1
        np.testing.assert_array_equal(states[0].centers, units[:k])
        for before, after in pairwise(states):
            labels = oracle.product_labels(units, before.centers)
            line = after.history[-1]
            assert after.counts.tolist() == np.bincount(labels, minlength=k).tolist()
            assert_are_directions_of_sums(after.centers, units, labels, before.centers)
            exact = exact_inertia(units, before.centers, labels)
            assert line.inertia == pytest.approx(exact, rel=1e-12, abs=0)
            assert (line.rows, line.empty) == (len(x), (after.counts == 0).sum())

    @pytest.mark.parametrize("initial", INITS)
    def test_centers_have_norm_1_at_every_step_and_the_loss_never_rises(self, new, initial):
        for seed in range(3):
            states = watched(new(initial, 6, random_seed=seed), spread(seed))

            for state in states:
                for center in state.centers:
                    assert_has_norm_1(center)
            losses = [line.inertia for line in states[-1].history]
            assert all(after <= before * (1 + 1e-6) for before, after in pairwise(losses))

    def test_at_the_end_labels_counts_and_score_belong_to_the_centers(self, new):
        x = spread()
        km = new(x[:6]).fit(x)

        labels = labels_of(km, x)

        assert km.why_stopped() is Stop.CONVERGED
        np.testing.assert_array_equal(labels, oracle.product_labels(unit_rows(x), km.clusters()))
        np.testing.assert_array_equal(km.counts(), np.bincount(labels, minlength=6))
        assert km.score(x) == inertias(km)[-1]

    def test_it_follows_lloyd_in_float64_on_real_data_and_converges(self, new):
        file = str(shared_data("wordnet_minilm") / "part-0.parquet")
        column = pq.read_table(file, columns=["embedding"])["embedding"]
        x = np.stack(column.to_numpy()).astype(np.float64)
        initial = x[:: len(x) // 8][:8].astype(np.float32)

        km = new(initial).fit(file)

        history, centers = [], initial.astype(np.float64)
        for _ in inertias(km):
            products = cosines(x, centers)
            nearest = products.argmax(axis=1)
            history.append((1 - products.max(axis=1)).sum())
            rows = x / norms(x)[:, None]
            sums = np.stack([rows[nearest == j].sum(axis=0) for j in range(8)])
            centers = sums / norms(sums)[:, None]
        assert km.why_stopped() is Stop.CONVERGED
        assert len(history) > 5
        np.testing.assert_allclose(inertias(km), history, rtol=1e-6)
        np.testing.assert_allclose(km.clusters(), centers, atol=1e-6)
        assert all(a >= b for a, b in pairwise(inertias(km)))

    def test_the_golden_trace(self, new):
        km = new(GOLDEN_INITIAL).fit(GOLDEN)

        assert inertias(km) == pytest.approx([1.2928932, 0.7380273], rel=1e-6)
        assert km.why_stopped() is Stop.CONVERGED
        np.testing.assert_allclose(
            km.clusters(), [[0.9238795, 0.3826834], [-0.7071067, 0.7071067]], rtol=1e-6
        )
        scores = [[0.0761205, 1.7071067], [0.6173166, 0.2928933], [0.0761206, 1]]
        scores.append([1.9238795, 0.2928933])
        np.testing.assert_allclose(km.transform(GOLDEN), scores, rtol=1e-5)
        assert labels_of(km, GOLDEN).tolist() == [0, 1, 0, 1]

    def test_a_tie_goes_to_the_lowest_index(self, new):
        axes = np.eye(3, dtype=np.float32)
        x = np.array([[1, 1, 0], [0, 9, 9], [2, 2, 2], [3, 0, 3], [-1, -1, 0], [0, 0, 1]])

        km = new(axes).fit(x, steps=1)

        assert km.counts().tolist() == [3, 1, 2]
        order = axes[[2, 1, 0]]
        assert new(order).fit(x, steps=1).counts().tolist() == [5, 1, 0]

    def test_an_empty_cluster_keeps_its_center_and_is_counted(self, new, gaussian):
        x = np.abs(gaussian)
        away = unit_rows(-x[5:7])

        states = watched(new(np.vstack([x[:2], 3 * away])), x)

        for state in states:
            np.testing.assert_array_equal(state.centers[2:], unit_rows(3 * away))
        assert {line.empty for line in states[-1].history} == {2}
        assert states[-1].counts[2:].tolist() == [0, 0]
        assert states[-1].stop is None
        assert states[-1].history[-1].shift == 0

    def test_a_cluster_whose_rows_cancel_keeps_its_center(self, new):
        x = np.array([[4, 0], [-4, 0], [0, -1]], np.float32)

        km = new(np.array([[0, 2], [0, -2]])).fit(x)

        assert km.clusters().tolist() == [[0, 1], [0, -1]]
        assert (km.counts().tolist(), inertias(km)) == ([2, 1], [2.0])
        assert [line.empty for line in km.history()] == [0]

    def test_farthest_moves_a_center_to_the_row_farthest_by_angle(self, new):
        x = np.array([[1, 0], [900, 100], [1, 1], [0.1, 2]], np.float32)

        km = new(np.array([[1, 0], [-1, -1]]), empty_clusters="farthest").fit(x, steps=1)

        np.testing.assert_array_equal(km.clusters()[1], unit_rows(x[3:])[0])

    def test_farthest_moves_no_center_to_a_row_without_a_direction(self, new):
        x = np.array([[1, 0], [0, 0], [1, 1], [0.1, 2]], np.float32)

        with pytest.warns(UserWarning, match="1 of 4 rows are zero"):
            km = new(np.array([[1, 0], [-1, -1]]), empty_clusters="farthest").fit(x)

        np.testing.assert_allclose(norms(km.clusters()), 1, rtol=1e-6)


class TestTheSameBits:
    @IN_EVERY_WAY
    @pytest.mark.parametrize("initial", ["kmeans_plus_plus", "kmeans_parallel"])
    def test_for_any_number_of_shards(self, new, way, initial, monkeypatch):
        x = spread()
        more = {"batch_size": 50} if WAYS[way]["use_mini_batch"] else {}
        fits = []
        for n_shards in (1, 2, 3, 5):
            monkeypatch.setattr(resources, "split", lambda b, *_, n=n_shards: sharding.split(b, n))
            km = new(initial, 5, **WAYS[way]).fit(in_blocks(x, 11), steps=7, **more)
            fits.append((state_of(km), km.score(in_blocks(x, 11))))

        assert len({repr(fit) for fit in fits}) == 1

    def test_for_any_number_of_blocks_and_both_kernels(self):
        x = spread()
        centers = unit_rows(x[:5])
        sweeps = []
        for block_rows in (8192, 7):
            source = in_blocks(x, block_rows)
            for n_shards in (1, 3):
                for kernel in ("cpu", "reference"):
                    shards = sharding.split(source.describe().blocks, n_shards)
                    pool = LocalPool(source, shards, WorkerSetup(COSINE, kernel))
                    summary, seen = pool.summarize(), pool.sweep(centers)
                    assert summary.metric == COSINE
                    sums = seen.sums.tobytes(), seen.counts.tobytes()
                    sweeps.append((*sums, summary.digest, seen.inertia(summary, centers)))

        assert len(sweeps) == 8
        assert len(set(sweeps)) == 1

    @IN_EVERY_WAY
    @pytest.mark.parametrize("initial", INITS)
    def test_for_rows_times_any_powers_of_two(self, new, way, initial):
        x = spread()
        powers = np.random.default_rng(1).integers(-60, 60, (len(x), 1))
        more = {"batch_size": 50} if WAYS[way]["use_mini_batch"] else {}

        km, scaled = (
            new(initial, 5, **WAYS[way]).fit(rows, steps=7, **more)
            for rows in (x, np.ldexp(x, powers))
        )

        assert state_of(scaled) == state_of(km)
        np.testing.assert_array_equal(labels_of(scaled, np.ldexp(x, powers)), labels_of(km, x))
        assert scaled.score(np.ldexp(x, powers)) == km.score(x)

    def test_for_given_centers_times_any_powers_of_two(self, new):
        x = spread()

        km, scaled = (new(x[:3] * factor).fit(x) for factor in (1, np.float32([[4], [0.125], [8]])))

        assert state_of(scaled) == state_of(km)

    @IN_EVERY_WAY
    def test_for_one_fit_and_for_the_same_in_parts(self, new, way):
        x = spread()

        whole = new(x[:5], **WAYS[way]).fit(x, steps=5)
        parts = new(x[:5], **WAYS[way]).fit(x, steps=2)
        parts.fit(x, steps=3)

        assert whole.history() == parts.history()
        np.testing.assert_array_equal(whole.clusters(), parts.clusters())


class TestLengths:
    def test_any_positive_factors_change_labels_at_most_where_it_is_close(self, new):
        x = spread(n=2000)
        km = new(x[:6]).fit(x, steps=4)
        factors = np.random.default_rng(2).uniform(0.001, 1000, (len(x), 1)).astype(np.float32)
        two = np.sort(cosines(x, km.clusters()), axis=1)[:, -2:]
        clear = two[:, 1] - two[:, 0] > 1e-6
        assert clear.mean() > 0.9

        same = labels_of(km, x * factors) == labels_of(km, x)

        assert same[clear].all()
        np.testing.assert_allclose(km.transform(x * factors), km.transform(x), atol=1e-6)

    @pytest.mark.parametrize("factor", [1e-44, 1e-38, 1, 1e30, 1e38])
    def test_rows_of_any_length_are_answered(self, new, factor):
        km = new(GOLDEN_INITIAL).fit(GOLDEN)
        x = (np.array([[2, 0], [0, 3], [1, 1], [-1, 0]]) * factor).astype(np.float32)

        assert labels_of(km, x).tolist() == [0, 1, 0, 1]
        exact = 1 - cosines(x.astype(np.float64) / factor, km.clusters())
        np.testing.assert_allclose(km.transform(x), exact, atol=2e-7)
        assert km.score(x) == pytest.approx(exact.min(axis=1).sum(), abs=1e-6)

    def test_the_data_and_the_initial_centers_are_not_changed(self, new):
        x, initial = spread(), spread()[:4]
        before = x.copy()
        x.flags.writeable = initial.flags.writeable = False

        km = new(initial).fit(x)
        km.transform(x)
        km.score(x)

        np.testing.assert_array_equal(x, before)
        np.testing.assert_array_equal(initial, before[:4])


class TestSeeds:
    def test_given_centers_are_normalised(self, new):
        states = watched(new(GOLDEN_INITIAL), GOLDEN, steps=1)

        np.testing.assert_array_equal(states[0].centers, np.eye(2))

    @IN_EVERY_WAY
    def test_random_ones_of_as_many_rows_are_the_normalised_rows_in_order(self, new, way, gaussian):
        states = watched(new("random", len(gaussian), **WAYS[way]), gaussian, steps=1)

        np.testing.assert_array_equal(states[0].centers, unit_rows(gaussian))

    @pytest.mark.parametrize("initial", INITS)
    def test_they_have_norm_1_and_are_all_different(self, new, initial):
        centers = watched(new(initial, 12), spread(), steps=1)[0].centers

        for center in centers:
            assert_has_norm_1(center)
        assert len(np.unique(centers, axis=0)) == 12

    @pytest.mark.parametrize("initial", ["random", "kmeans_plus_plus", "kmc2"])
    def test_those_that_are_picked_are_rows_of_the_data(self, new, initial):
        centers = watched(new(initial, 12), spread(), steps=1)[0].centers

        rows = {row.tobytes() for row in unit_rows(spread())}
        assert {center.tobytes() for center in centers} <= rows

    @pytest.mark.parametrize("initial", INITS[1:])
    def test_opposite_directions_are_found_whatever_their_length(self, new, initial):
        rng = np.random.default_rng(4)
        lines = np.vstack([np.eye(3), -np.eye(3)])[np.arange(120) % 6]
        x = (lines + rng.normal(size=(120, 3)) * 1e-3) * 10.0 ** rng.uniform(-3, 3, (120, 1))

        centers = watched(new(initial, 6), x, steps=1)[0].centers

        assert sorted(np.rint(centers).tolist()) == sorted(np.unique(lines, axis=0).tolist())

    def test_a_function_sees_unit_rows_and_what_it_returns_is_normalised(self, new):
        x, samples = spread(), []

        def first_rows(sample, missing):
            samples.append(sample)
            return sample[: min(missing, 2)] * 5

        centers = watched(new(first_rows, 3), x, steps=1)[0].centers

        np.testing.assert_allclose(np.concatenate([norms(s) for s in samples]), 1, rtol=1e-6)
        assert len(samples) == 2
        expected = np.concatenate([samples[0][:2], samples[1][:1]])
        np.testing.assert_allclose(centers, expected, rtol=1e-6)
        for center in centers:
            assert_has_norm_1(center)


class TestZeroRows:
    def told(self, km, x, **more):
        """Fit and return the messages of all warnings."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            km.fit(x, **more)
        assert {each.category for each in caught} <= {UserWarning}
        return [str(each.message) for each in caught]

    @IN_EVERY_WAY
    @pytest.mark.parametrize("n_shards", [1, 3])
    @pytest.mark.parametrize("zero", [[100], [0, 100, 239]])
    def test_they_are_counted_and_said_once(self, new, way, n_shards, zero, monkeypatch):
        x = spread()
        x[zero] = 0
        x[100, 2] = -0.0
        monkeypatch.setattr(resources, "split", lambda b, *_: sharding.split(b, n_shards))

        [message] = self.told(new(x[1:6], **WAYS[way]), in_blocks(x, 50), steps=4)

        assert f"{len(zero)} of 240 rows are zero" in message

    def test_without_them_and_by_squared_euclidean_nothing_is_said(self, new):
        x = spread()
        assert self.told(new(x[:5]), x) == []
        x[3] = 0
        assert self.told(new(x[4:9], distance_metric=SQUARED_EUCLIDEAN), x) == []

    @pytest.mark.parametrize("initial", INITS)
    def test_they_have_label_0_and_distance_1_to_everything(self, new, initial):
        x = spread()
        zero = np.arange(240) % 4 == 1
        x[zero] = 0
        km = new(initial, 5)

        self.told(km, x)

        assert set(labels_of(km, x)[zero]) == {0}
        np.testing.assert_array_equal(km.transform(x)[zero], 1)
        assert km.score(x[zero]) == 60.0
        assert km.counts().sum() == 240
        assert km.counts()[0] == 60 + (labels_of(km, x)[~zero] == 0).sum()
        assert km.score(x) == pytest.approx(60 + km.score(x[~zero]), rel=1e-12)

    @pytest.mark.parametrize("initial", INITS[1:])
    def test_beside_rows_with_a_direction_they_make_no_further_seed(self, new, initial):
        x = np.zeros((200, 3), np.float32)
        x[:6] = np.vstack([np.eye(3), -np.eye(3)])
        km = new(initial, 3, kmeans_plus_plus_num_retries=0)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            states = watched(km, x, steps=1)

        assert (norms(states[0].centers) == 0).sum() <= 1  # the first one may be drawn

    def test_they_move_no_center(self, new):
        x = spread()
        with_zeros = np.vstack([np.zeros((50, 7), np.float32), x])

        km, other = new(x[:5]), new(x[:5])
        km.fit(x)
        self.told(other, with_zeros)

        np.testing.assert_allclose(other.clusters(), km.clusters(), rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(np.subtract(inertias(other), inertias(km)), 50, rtol=1e-9)

    @IN_EVERY_WAY
    @pytest.mark.parametrize("initial", [*INITS, "array"])
    def test_a_fit_on_nothing_else_ends(self, new, way, initial):
        x = np.zeros((20, 3), np.float32)
        km = new(np.eye(3)[:2] if initial == "array" else initial, 2, **WAYS[way])

        messages = self.told(km, x)

        assert sum("20 of 20 rows are zero" in message for message in messages) == 1
        assert km.why_stopped() in (Stop.CONVERGED, Stop.NO_IMPROVEMENT)
        assert set(inertias(km)) == {20.0}
        np.testing.assert_array_equal(km.transform(x), 1)
        assert labels_of(km, x).tolist() == [0] * 20
        assert km.score(x) == 20.0
        expected = np.eye(3)[:2] if initial == "array" else np.zeros((2, 3))
        np.testing.assert_array_equal(km.clusters(), expected)


class TestZeroCenters:
    @pytest.fixture
    def at(self, tmp_path):
        """Return a model that has these centers."""

        def make(centers):
            state = FitState.initial(np.array(centers, np.float32), COSINE)
            ModelDir.at(str(tmp_path), {}, 5).save(state)
            return KMeansClustering(len(centers), str(tmp_path), config=HERE)

        return make

    def test_they_are_1_from_everything_and_nearest_to_what_all_others_turn_away_from(self, at):
        km = at([[1, 0], [0, 0]])
        x = np.array([[-1, 0], [0, 1], [0, 0], [1, 0.1], [-5, 3]], np.float32)

        near = 0.1 / np.hypot(1, 0.1)
        assert labels_of(km, x).tolist() == [1, 0, 0, 0, 1]
        assert km.transform(x)[:, 1].tolist() == [1] * 5
        np.testing.assert_allclose(
            km.transform(x)[:, 0],
            [2, 1, 1, 1 - near / 0.1, 1 + 5 / np.hypot(5, 3)],
            atol=1e-7,
        )
        assert km.score(x) == pytest.approx(4 + 1 - near / 0.1, abs=1e-6)

    def test_before_others_they_win_ties(self, at):
        km = at([[0, 0], [1, 0]])

        assert labels_of(km, [[0, 1], [0, 0], [-1, 0], [1, 1]]).tolist() == [0, 0, 0, 1]

    def test_one_alone_gets_all_rows_and_then_their_direction(self, new, gaussian):
        x = gaussian + np.float32(1)

        km = new(np.zeros((1, 5))).fit(x)

        assert km.history()[0].inertia == 200.0
        assert km.counts().tolist() == [200]
        units = unit_rows(x)
        assert_are_directions_of_sums(km.clusters(), units, np.zeros(200, int), None)
        assert km.why_stopped() is Stop.CONVERGED

    @IN_EVERY_WAY
    def test_in_training_they_get_only_what_all_others_turn_away_from(self, new, way):
        x = np.array([[3, 0], [-2, 0], [0.3, 1], [0, 1]], np.float32)  # (0.3, 1) is nearer to 0

        km = new(np.array([[5, 0], [0, 0]]), **WAYS[way]).fit(x, steps=1)

        first = 1 if way == "mini-batch" else 0  # there the initial center counts as a row
        assert km.counts().tolist() == [3 + first, 1 + first]
        assert inertias(km) == pytest.approx([0 + 1 + (1 - 0.3 / np.hypot(0.3, 1)) + 1])

    def test_one_among_others_that_gets_a_row_has_its_direction(self, new):
        x = np.array([[3, 0], [-2, 0]], np.float32)

        km = new(np.array([[5, 0], [0, 0]])).fit(x)

        np.testing.assert_array_equal(km.clusters(), [[1, 0], [-1, 0]])
        assert inertias(km) == [1.0, 0.0]


X = spread(seed=3)


@pytest.fixture(scope="module")
def km(tmp_path_factory):
    model_dir = str(tmp_path_factory.mktemp("model"))
    return KMeansClustering(5, model_dir, X[:5], COSINE, use_mini_batch=False, config=HERE).fit(X)


class TestAnswers:
    def test_all_scores_are_1_minus_cos(self, km):
        scores = km.transform(X)

        assert (scores.shape, scores.dtype) == ((240, 5), np.float32)
        assert scores.min() >= 0
        assert scores.max() <= 2 + 1e-6
        np.testing.assert_allclose(scores, 1 - cosines(X, km.clusters()), atol=3e-7)

    def test_opposite_and_equal_directions_reach_the_ends(self, km):
        centers = km.clusters()

        np.testing.assert_allclose(np.diag(km.transform(centers * 7)), 0, atol=2e-7)
        np.testing.assert_allclose(np.diag(km.transform(centers * -3)), 2, atol=4e-7)

    def test_transform_of_unit_rows_is_1_minus_their_products(self, km):
        units = unit_rows(X)
        expected = 1 - units.astype(np.float64) @ km.clusters().T.astype(np.float64)

        large = expected > 1e-3
        np.testing.assert_allclose(km.transform(units)[large], expected[large], rtol=2e-4)
        np.testing.assert_allclose(km.transform(units), expected, atol=2e-7)

    def test_cluster_idx_is_the_nearest_of_all_scores(self, km):
        answer = km.predict(X, as_iterable=False)

        nearest = answer["all_scores"][np.arange(240), answer["cluster_idx"]]
        assert answer["cluster_idx"].dtype == np.int64
        assert len(set(answer["cluster_idx"])) == 5
        np.testing.assert_array_less(nearest, answer["all_scores"].min(axis=1) + 1e-7)
        np.testing.assert_array_equal(
            answer["cluster_idx"], oracle.product_labels(unit_rows(X), km.clusters())
        )

    @pytest.mark.parametrize("batch_size", [1, 7, None])
    def test_rows_one_by_one_have_the_same_bits(self, km, batch_size):
        rows = list(km.predict(X, batch_size=batch_size))

        np.testing.assert_array_equal([row["all_scores"] for row in rows], km.transform(X))
        assert [row["cluster_idx"] for row in rows] == labels_of(km, X).tolist()

    def test_the_score_is_the_sum_of_the_least_distances(self, km):
        least = km.transform(X).min(axis=1).astype(np.float64).sum()
        evaluation = km.evaluate(X, batch_size=100)

        assert km.score(X) == pytest.approx(least, rel=1e-6)
        assert evaluation["scores"] == km.score(X)
        assert evaluation["loss"] == km.score(X) / 3
        assert km.model_fn(X, mode="eval").loss == km.score(X)

    @pytest.mark.parametrize("width", [1e-2, 1e-3, 1e-4, 1e-5])
    def test_rows_close_together_have_losses_within_a_step_of_float32_of_1_per_row(
        self, new, width
    ):
        # All that unit rows in float32 can tell: their own norms are off by so much.
        noise = np.random.default_rng(0).normal(size=(1000, 4)) * width
        x = (np.array([1, 2, -3, 0.5]) + noise).astype(np.float32)
        km = new(x[:1]).fit(x)

        rows, center = x / norms(x)[:, None], km.clusters() / norms(km.clusters())
        loss = ((rows - center) ** 2).sum() / 2  # 1 - cos without cancellation
        least = km.transform(x).min(axis=1).astype(np.float64).sum()
        np.testing.assert_allclose([km.score(x), least], loss, rtol=0, atol=1000 * 2.0**-23)
        assert all(b <= a + 1000 * 2.0**-23 for a, b in pairwise(inertias(km)))

    @pytest.mark.parametrize("factor", [1, 1000])
    def test_labelled_output_has_the_least_distance(self, km, tmp_path, factor):
        x = X * np.float32(factor)
        output = LabelledOutput.at(str(tmp_path / "labels"), {})
        state = ModelDir.at(km.model_dir, {}, 5).fitted()

        found = label.write_labels(state, open_source(x), output, HERE, model_dir=km.model_dir)

        table = pq.read_table(tmp_path / "labels")
        assert (found.rows, found.left_out) == (240, 0)
        np.testing.assert_array_equal(table["cluster_idx"].to_numpy(), labels_of(km, x))
        np.testing.assert_array_equal(table["distance"].to_numpy(), km.transform(x).min(axis=1))

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_rows_that_are_not_finite_are_refused(self, km, new, bad):
        x = X.copy()
        x[[3, 30], 2] = bad
        x[30, 4] = bad
        messages = []
        for metric in (COSINE, SQUARED_EUCLIDEAN):
            with pytest.raises(NonFiniteError, match="2 rows hold NaN") as caught:
                new(x[:3], distance_metric=metric).fit(x)
            messages.append(str(caught.value))

        assert messages[0] == messages[1]  # the same place
        assert caught.value.places[0][0] in messages[0]
        for answer in (km.score, km.transform, lambda x: list(km.predict(x))):
            with pytest.raises(NonFiniteError, match="2 rows hold NaN"):
                answer(x)

    def test_values_beyond_float32_are_refused(self, new):
        with pytest.raises(DataError):
            new(GOLDEN_INITIAL).fit(np.array([[1e200, 0], [0, 1]]))

    def test_rows_of_the_largest_float32_are_not(self, new):
        x = GOLDEN * np.float32(1e38)

        km = new(GOLDEN_INITIAL).fit(x)

        assert inertias(km) == pytest.approx([1.2928932, 0.7380273], rel=1e-6)


class TestMiniBatch:
    def test_the_golden_trace_of_one_step_per_iteration(self, new):
        trace = [
            (1.292893, [[0.902369, 0.235702], [-1 / 3, 2 / 3]], [3, 3]),
            (0.827965, [[0.882843, 0.282843], [-0.4, 0.6]], [5, 5]),
            (0.771798, [[0.874474, 0.303046], [-0.428571, 0.571429]], [7, 7]),
            (0.755467, [[0.869825, 0.314270], [-0.444444, 0.555556]], [9, 9]),
        ]
        for steps, (loss, means, counts) in enumerate(trace, start=1):
            km = new(GOLDEN_INITIAL, use_mini_batch=True).fit(GOLDEN, steps=steps)

            assert inertias(km)[-1] == pytest.approx(loss, rel=2e-6)
            np.testing.assert_allclose(km.get_variable_value("clusters"), means, atol=1e-6)
            assert km.get_variable_value("total_counts").tolist() == counts
            unit = means / np.linalg.norm(means, axis=1, keepdims=True)
            np.testing.assert_allclose(km.clusters(), unit, atol=2e-6)

    def test_the_golden_trace_of_two_steps_per_iteration(self, new):
        updated = [[0.853553, 0.353553], [-0.5, 0.5]]
        master = [[0.923880, 0.382683], [-0.707107, 0.707107]]
        trace = [
            (1.292893, np.eye(2), updated, [2, 2], 1),
            (1.292893, master, master, [0, 0], 2),  # the centers move at the end of a step
            (0.738027, master, updated, [2, 2], 1),
            (0.738027, master, master, [0, 0], 2),
        ]
        for steps, (loss, centers, running, counts, left) in enumerate(trace, start=1):
            km = new(GOLDEN_INITIAL, use_mini_batch=True, mini_batch_steps_per_iteration=2)
            km.fit(GOLDEN, steps=steps)

            assert inertias(km)[-1] == pytest.approx(loss, rel=2e-6)
            np.testing.assert_allclose(km.clusters(), centers, atol=1e-6)
            np.testing.assert_array_equal(km.get_variable_value("clusters"), km.clusters())
            np.testing.assert_allclose(
                km.get_variable_value("clusters_updated"), running, atol=1e-6
            )
            assert km.get_variable_value("Variable").tolist() == counts
            assert km.get_variable_value("update_in_steps") == left

    def test_clusters_have_norm_1_and_the_variable_is_the_running_mean(self, new):
        x = spread()
        km = new(x[:5], use_mini_batch=True)
        states = watched(km, x, steps=12, batch_size=50)

        means = km.get_variable_value("clusters")

        for state in states:
            for center in state.centers:
                assert_has_norm_1(center)
        assert (norms(means) < 0.999).all()
        np.testing.assert_allclose(
            means / norms(means)[:, None], km.clusters(), rtol=1e-5, atol=1e-6
        )

    @pytest.mark.parametrize("m", [1, 3])
    def test_batches_follow_the_equations_in_float64(self, new, m):
        x = spread()
        params = {"use_mini_batch": True, "mini_batch_steps_per_iteration": m}
        km = new(x[:5], **params)
        batches = [x[start : start + 40] for start in range(0, 240, 40)]

        km.fit(iter(batches))

        centers = x[:5] / norms(x[:5])[:, None]
        sums, counts = centers * (m == 1), np.full(5, int(m == 1))
        losses = []
        for step, batch in enumerate(batches, start=1):
            rows, products = batch / norms(batch)[:, None], cosines(batch, centers)
            losses.append((1 - products.max(axis=1)).sum())
            np.add.at(sums, products.argmax(axis=1), rows)
            np.add.at(counts, products.argmax(axis=1), 1)
            if step % m == 0:
                some = counts > 0
                centers[some] = sums[some] / norms(sums[some])[:, None]
                if m > 1:
                    sums, counts = np.zeros_like(sums), np.zeros_like(counts)
        assert km.why_stopped() is Stop.END_OF_INPUT
        np.testing.assert_allclose(km.clusters(), centers, atol=1e-6)
        np.testing.assert_allclose(inertias(km), losses, rtol=1e-5)
        np.testing.assert_array_equal(km.counts(), counts)
        if m == 1:
            means = sums / counts[:, None]
            np.testing.assert_allclose(km.get_variable_value("clusters:0"), means, atol=1e-6)

    def test_a_running_mean_of_zero_keeps_the_center(self, new):
        km = new(np.array([[7, 0]]), use_mini_batch=True).fit(np.array([[-3, 0]]), steps=1)

        np.testing.assert_array_equal(km.clusters(), [[1, 0]])
        np.testing.assert_array_equal(km.get_variable_value("clusters"), [[0, 0]])

    def test_over_the_whole_data_it_comes_near_to_full_batch(self, new):
        x = spread()
        full = new(x[:5]).fit(x)

        some = new(x[:5], use_mini_batch=True, mini_batch_steps_per_iteration=6)
        some.fit(x, batch_size=40)

        assert some.score(x) == pytest.approx(full.score(x), rel=1e-3)


class TestTwoMetrics:
    OTHER = ((COSINE, SQUARED_EUCLIDEAN), (SQUARED_EUCLIDEAN, COSINE))

    @IN_EVERY_WAY
    @pytest.mark.parametrize(("first", "second"), OTHER)
    def test_a_model_is_not_continued_by_the_other_one(self, new, first, second, way):
        x = spread()
        km = new(x[:3], name="m", distance_metric=first, **WAYS[way]).fit(x, steps=2)
        before = state_of(km)

        for again in ("fit", "partial_fit"):
            other = new(x[:3], name="m", distance_metric=second, **WAYS[way])
            with pytest.raises(ModelMismatchError) as caught:
                getattr(other, again)(x, steps=2)
            assert isinstance(caught.value, ValueError)
            for metric in (first, second):
                assert metric in str(caught.value)
        with pytest.raises(ModelMismatchError):
            other.fit(x, max_steps=1)
        assert state_of(km) == before

    def test_answers_are_by_the_metric_of_the_model(self, new):
        x = spread()
        km = new(x[:4], name="m").fit(x)

        plain = KMeansClustering(4, km.model_dir, config=HERE)

        assert plain.get_params()["distance_metric"] == SQUARED_EUCLIDEAN
        np.testing.assert_array_equal(plain.clusters(), km.clusters())
        np.testing.assert_array_equal(plain.transform(x), km.transform(x))
        np.testing.assert_array_equal(labels_of(plain, x), labels_of(km, x))
        assert plain.score(x) == km.score(x)
        assert plain.evaluate(x) == km.evaluate(x)
        np.testing.assert_allclose(plain.transform(x), 1 - cosines(x, km.clusters()), atol=3e-7)

    def test_a_checkpoint_without_running_sums_keeps_the_metric(self, tmp_path):
        store = ModelDir.at(str(tmp_path), {}, 5)
        for metric in (COSINE, SQUARED_EUCLIDEAN):
            store.save(FitState.initial(np.eye(2, dtype=np.float32), metric))

            assert store.fitted().metric == metric

    def test_on_unit_rows_they_agree_on_labels_and_a_square_is_twice_a_cosine(self):
        units = unit_rows(spread(n=2000))
        centers = unit_rows(spread(n=2000)[:6])
        totals, labels = [], []
        for metric in (COSINE, SQUARED_EUCLIDEAN):
            source = open_source(units)
            pool = LocalPool(
                source, sharding.split(source.describe().blocks, 1), WorkerSetup(metric)
            )
            totals.append(pool.summarize())
            totals[-1] = pool.sweep(centers).inertia(totals[-1], centers)
            state = FitState.initial(centers, metric)
            labels.append(ReadyModel(state, ["cluster_idx"])(units)["cluster_idx"])

        two = np.sort(cosines(units, centers), axis=1)[:, -2:]
        clear = two[:, 1] - two[:, 0] > 1e-6
        assert clear.mean() > 0.9
        np.testing.assert_array_equal(labels[0][clear], labels[1][clear])
        assert totals[1] == pytest.approx(2 * totals[0], rel=1e-5)

    def test_the_first_step_of_a_fit_on_unit_rows_says_so(self, new):
        units = unit_rows(spread())

        cosine, euclidean = (
            new(units[:6], distance_metric=metric).fit(units, steps=1)
            for metric in (COSINE, SQUARED_EUCLIDEAN)
        )

        assert cosine.counts().tolist() == euclidean.counts().tolist()
        assert inertias(euclidean)[0] == pytest.approx(2 * inertias(cosine)[0], rel=1e-5)
        assert (norms(euclidean.clusters()) < 1).all()
        np.testing.assert_allclose(
            unit_rows(euclidean.clusters()), cosine.clusters(), rtol=1e-5, atol=1e-6
        )
