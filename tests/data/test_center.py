"""With center=True, rows that float32 cannot tell apart are clustered as if it could."""

from __future__ import annotations

import asyncio
import itertools
import json
import warnings
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ray_kmeans import (
    KMeansClustering,
    Predictor,
    RunConfig,
    cli,
    serving,
)
from ray_kmeans.algorithm.row_spec import RowSpec
from ray_kmeans.algorithm.state import FitState
from ray_kmeans.data.float32_rounding import ShiftedSource, center_columns, shift_of, shifted
from ray_kmeans.data.model_rows import open_for
from ray_kmeans.data.opening import open_source
from ray_kmeans.errors import ConfigError
from ray_kmeans.html_report.facts import facts_of
from ray_kmeans.serving.replica import Nearest
from ray_kmeans.store.labelled import LabelledOutput
from ray_kmeans.store.model_dir import ModelDir
from ray_kmeans.testing import SourceContract
from ray_kmeans.workflows import evaluate, label
from tests.support.files import in_blocks, put_array
from tests.support.squares import Squares

NOW = 1_654_272_000.0
STAMPS = NOW + np.r_[0:10, 40:50].reshape(-1, 1)
LABELS = [0] * 10 + [1] * 10
CENTERS = [[NOW + 4.5], [NOW + 44.5]]
TWO_COLUMNS = np.c_[STAMPS, -0.5 * STAMPS[::-1]]
HERE = RunConfig(num_workers=0, progress=False)


@pytest.fixture
def make(tmp_path):
    numbers = itertools.count()

    def make(k=2, config=HERE, initial="kmeans_plus_plus", **params):
        params = {"use_mini_batch": False, **params}
        return KMeansClustering(k, f"{tmp_path}/m{next(numbers)}", initial, config=config, **params)

    return make


def put_all(folder, x):
    """Write rows in every way; return what open_source takes for them, by a name."""
    put_array(folder, "x.npy", x)
    put_array(folder, "columns.npy", np.asfortranarray(x))
    put_array(folder, "whole.npy", (2 * x).astype(np.int64))
    names = [f"c{n}" for n in range(x.shape[1])]
    table = pa.table(dict(zip(names, x.T, strict=True)))
    pq.write_table(table, folder / "x.parquet", row_group_size=7)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), x.shape[1])
    pq.write_table(pa.table({"v": vectors}), folder / "v.parquet")
    lines = [",".join(names), *(",".join(map(repr, row)) for row in x.tolist())]
    (folder / "x.csv").write_text("\n".join(lines))
    found = {
        name: str(folder / name) for name in ("x.npy", "columns.npy", "x.parquet", "v.parquet")
    }
    return {
        **found,
        "x.csv": str(folder / "x.csv"),
        "array": x,
        "table": table,
        "dict": dict(zip(names, x.T, strict=True)),
    }


def bits_of(km):
    state = km._state()
    return (
        state.centers.tobytes(),
        state.shift,
        state.data_name,
        tuple(line.digest for line in state.history),
    )


def test_the_bits_are_the_same_from_any_format(make, tmp_path):
    places = put_all(tmp_path, TWO_COLUMNS)

    bits = {name: bits_of(make().fit(open_source(x, center=True))) for name, x in places.items()}

    assert set(bits.values()) == {bits["array"]}
    assert len(bits) == 8


def test_rows_that_float32_makes_equal_get_their_own_clusters(make):
    km = make().fit(open_source(STAMPS, center=True))

    order = np.argsort(km.clusters().ravel())
    assert km.clusters()[order].tolist() == CENTERS
    assert km.clusters().dtype == np.float64
    said = km.predict(STAMPS, as_iterable=False)
    assert said["cluster_idx"].tolist() == [order[label] for label in LABELS]
    squares = (STAMPS - km.clusters().T) ** 2
    np.testing.assert_array_equal(said["all_scores"], squares.astype(np.float32))


@pytest.mark.long
@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize(("kind", "workers"), [("array", (0, 2)), ("x.parquet", (0, 1, 3))])
def test_the_bits_are_the_same_for_any_number_of_workers(make, tmp_path, kind, workers):
    x = in_blocks(put_all(tmp_path, TWO_COLUMNS)[kind], 4)

    made = []
    for num_workers in workers:
        config = replace(HERE, num_workers=num_workers)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            plain = bits_of(make(config=config).fit(x))
        told = [str(each.message) for each in caught if "float32 rounds" in str(each.message)]
        made.append((bits_of(make(config=config).fit(open_source(x, center=True))), plain, told))

    assert made == [made[0]] * len(workers)
    assert made[0][2]


@pytest.fixture(scope="module")
def km(tmp_path_factory):
    place = str(tmp_path_factory.mktemp("model"))
    km = KMeansClustering(2, place, STAMPS[[0, 19]], use_mini_batch=False, config=HERE)
    return km.fit(open_source(STAMPS, center=True))


class TestWhatAModelAnswers:
    """All that reads rows for a model subtracts its shift from them."""

    def test_given_centers_are_those_of_the_users_rows(self, km):
        assert km.clusters().tolist() == CENTERS

    @pytest.mark.parametrize("how", [list, lambda x: [tuple(row) for row in x], pa.array])
    def test_other_rows_are_shifted_like_the_first(self, km, how):
        more = STAMPS + 3
        x = how(more.tolist()) if how is not pa.array else pa.table({"t": more[:, 0]})

        assert km.predict(x, as_iterable=False)["cluster_idx"].tolist() == LABELS

    def test_losses_are_those_of_the_users_rows(self, km):
        loss = sum((STAMPS[:, 0] - np.repeat([NOW + 4.5, NOW + 44.5], 10)) ** 2)

        assert km.score(x=STAMPS) == loss
        assert km.evaluate([STAMPS[:9], STAMPS[9:]])["scores"] == loss
        source = open_for(km._state(), STAMPS)
        assert evaluate.evaluate_on(source, source.describe(), km._state(), HERE).loss == loss
        assert km.model_fn(STAMPS, mode="eval").loss == loss

    def test_distances_are_those_of_the_users_rows(self, km):
        squares = ((STAMPS - np.ravel(CENTERS)) ** 2).astype(np.float32)

        np.testing.assert_array_equal(km.transform(x=STAMPS), squares)
        np.testing.assert_array_equal(km.transform(x=iter([STAMPS])), squares)

    def test_metrics_see_the_users_rows(self, km):
        means = km.evaluate(STAMPS, metrics={"mean": lambda rows, _: rows.mean()})

        assert means["mean"] == STAMPS.mean()

    def test_variables_are_among_the_users_rows(self, km):
        assert km.get_variable_value("clusters").tolist() == CENTERS

    def test_a_batch_of_a_pipeline(self, km):
        answer = Predictor(km.model_dir)({"t": STAMPS[:, 0]})

        assert answer["cluster_idx"].tolist() == LABELS

    def test_a_request(self, km):
        replica = Nearest(ModelDir.at(km.model_dir, {}, 1), 64, 1, 0.0)
        replica.reconfigure({"checkpoint_path": km.checkpoints()[-1]})
        rows = serving.requests.as_rows(STAMPS.tolist(), 1, km._state().shift)

        (answer,) = asyncio.run(replica.label_together([rows]))

        assert answer["cluster_idx"].tolist() == LABELS

    def test_labels_in_a_store_and_a_report(self, km, tmp_path):
        put_array(tmp_path, "x.npy", STAMPS)
        source = open_for(km._state(), str(tmp_path / "x.npy"))
        model = ModelDir.at(km.model_dir, {}, 1)

        output = LabelledOutput.at(str(tmp_path / "out"), {})
        label.write_labels(km._state(), source, output, HERE, model_dir=km.model_dir)
        facts = facts_of(model, [str(tmp_path / "x.npy")], (), None)

        found = pq.read_table(tmp_path / "out", columns=["row", "cluster_idx"]).sort_by("row")
        assert found["cluster_idx"].to_pylist() == LABELS
        assert facts.data.sample.labels.tolist() == LABELS

    def test_exported_centers_are_among_the_users_rows(self, km, tmp_path):
        base = ["export", km.model_dir]
        for kind in ("npy", "parquet"):
            cli.main([*base, str(tmp_path / f"c.{kind}"), "--format", kind])

        assert np.load(tmp_path / "c.npy").tolist() == CENTERS
        assert pq.read_table(tmp_path / "c.parquet")["center"].to_pylist() == CENTERS

    def test_a_graph_which_takes_float32_is_refused(self, km, tmp_path):
        for export in (km.export, km.export_savedmodel):
            with pytest.raises(ConfigError, match=r"fitted with center=True.*take rows of float32"):
                export(str(tmp_path / "x"))


class TestAFitThatGoesOn:
    def test_it_keeps_the_shift_of_the_model(self, make):
        km = make(initial=STAMPS[[0, 19]]).fit(open_source(STAMPS, center=True), steps=1)
        shift = km._state().shift

        for x in (STAMPS, open_source(STAMPS + 1, center=True)):
            km.fit(x)

        assert km._state().shift == shift
        assert km.clusters().tolist() == [[NOW + 5.5], [NOW + 45.5]]

    def test_batches_too(self, make):
        km = make(initial=STAMPS[[0, 19]], use_mini_batch=True)
        km.fit(open_source(STAMPS, center=True), steps=1)

        km.partial_fit(iter([STAMPS, STAMPS]), steps=None)

        assert km._state().shift != ()
        np.testing.assert_allclose(km.clusters(), CENTERS, rtol=0, atol=1)

    def test_a_model_of_rows_that_are_not_shifted_is_no_model_for_those_that_are(self, make):
        km = make().fit(np.eye(3))

        for ask in (km.fit, km.predict, km.evaluate):
            with pytest.raises(
                ConfigError, match=r"center=True is given, and the model.*without it"
            ):
                ask(open_source(np.eye(3), center=True))

    def test_a_run_that_made_the_model_meanwhile_is_not_overwritten(self, make, monkeypatch):
        km = make().fit(np.eye(3))
        monkeypatch.setattr(ModelDir, "matching", lambda *_: None)

        with pytest.raises(ConfigError, match=r"has shifted its rows .* otherwise than this run"):
            km.fit(open_source(np.eye(3), center=True))


def test_a_function_that_gives_centers_sees_the_users_rows(make):
    seen = []

    def first(sample, missing):
        seen.append(sample)
        return sample[:missing]

    km = make(initial=first).fit(open_source(STAMPS, center=True))

    assert set(seen[0].ravel()) <= set(STAMPS.ravel())
    assert sorted(km.clusters().tolist()) == CENTERS


def test_batches_that_are_joined_keep_their_digits(make):
    km = make().fit([open_source(STAMPS, center=True)])

    assert sorted(km.clusters().tolist()) == CENTERS
    with pytest.raises(ConfigError, match="each have a middle of their own"):
        make().fit([open_source(STAMPS, center=True), open_source(STAMPS + 5, center=True)])
    with pytest.raises(ConfigError, match="a model of batches"):
        make(use_mini_batch=True).fit([open_source(STAMPS, center=True)])


def test_directions_have_no_center(make):
    with pytest.raises(ConfigError, match=r"center=True and distance_metric='cosine'"):
        make(distance_metric="cosine").fit(open_source(STAMPS, center=True))


def test_a_state_gives_its_centers_among_the_users_rows():
    state = FitState.initial(np.float32([[1.0]]))

    assert state.clusters is state.centers
    assert replace(state, rows=RowSpec()).clusters is state.centers
    assert replace(state, rows=RowSpec(shift=(NOW,))).clusters.tolist() == [[NOW + 1]]


class TestTheMiddle:
    def test_it_is_the_lower_median_of_what_is_finite(self):
        x = np.array([[5.0, np.nan], [1, np.inf], [9, np.nan], [7, np.nan]])

        assert shift_of(open_source(x, center=True)) == (5.0, 0.0)

    @pytest.mark.parametrize("rows", [0, 1, 39, 1_000])
    def test_it_follows_from_the_rows_whatever_the_blocks(self, tmp_path, rows):
        x = np.random.default_rng(rows).normal(size=(rows, 2))
        expected = shift_of(center_columns(open_source(x), most_values=640))
        runs = 64 if rows > 320 else 1
        some = (
            [np.arange(rows)] if runs == 1 else [rows * n // runs + np.arange(5) for n in range(64)]
        )
        looked_at = np.sort(x[np.concatenate(some)], axis=0)

        pq.write_table(pa.table({"a": x[:, 0], "b": x[:, 1]}), tmp_path / "x", row_group_size=11)
        (tmp_path / "x").rename(tmp_path / "x.parquet")

        source = in_blocks(tmp_path / "x.parquet", 7)
        assert shift_of(center_columns(source, most_values=640)) == expected
        middle = looked_at[(len(looked_at) - 1) // 2].tolist() if rows else []
        assert list(expected) == middle

    def test_time_stamps_of_which_some_are_zero_keep_their_digits(self, make):
        x = np.r_[STAMPS, np.zeros((3, 1))]

        km = make(3).fit(open_source(x, center=True))

        assert sorted(km.clusters().tolist())[1:] == CENTERS


class TestASourceLessItsMiddle(SourceContract):
    @pytest.fixture(params=["array", "x.npy", "x.parquet", "weighted", "of a user"])
    def source_and_rows(self, request, tmp_path):
        x = 1_000_000.0 + np.random.default_rng(0).integers(0, 100, (150, 2))
        places = put_all(tmp_path, x)
        made = in_blocks(places.get(request.param, x), 40)
        if request.param == "weighted":
            made = open_source(made, sample_weight=np.ones(150))
        if request.param == "of a user":
            made, x = Squares(150, 40), np.arange(150.0)[:, None] ** [1, 2]
        source = open_source(made, center=True)
        return source, (x - np.asarray(shift_of(source))).astype(np.float32)


def test_a_source_of_a_user_is_shifted_from_outside():
    source = Squares(100)
    layout = source.describe()
    rows = np.vstack([rows for _, rows in source.read(layout.blocks)])

    found = shifted(source, (1.0,) * layout.features)

    assert isinstance(found, ShiftedSource)
    assert found.describe() == layout
    np.testing.assert_array_equal(
        np.vstack([rows for _, rows in found.read(layout.blocks)]), rows - 1
    )


class TestWarnings:
    def warnings_of(self, km, x):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            km.fit(x)
        return [str(each.message) for each in caught]

    def test_a_loss_is_told_with_its_count_and_its_remedy(self, make):
        rounding, copies = self.warnings_of(make(), STAMPS)

        assert rounding.startswith("19 of 20 values of column 0 lie so far from zero")
        assert "center=True (--center)" in rounding
        assert "because rounding to float32 made rows equal" in copies

    def test_equal_rows_of_the_data_are_blamed_where_they_are(self, make):
        (copies,) = self.warnings_of(make(), np.ones((9, 2)))

        assert "because the data hold equal rows" in copies

    @pytest.mark.parametrize(
        "x", [open_source(STAMPS, center=True), np.random.default_rng(0).normal(size=(99, 3))]
    )
    def test_there_is_none_where_nothing_is_lost(self, make, x):
        assert self.warnings_of(make(), x) == []


def test_the_flag_of_the_command(tmp_path, capsys):
    put_array(tmp_path, "x.npy", STAMPS)
    model, out = str(tmp_path / "m"), str(tmp_path / "figures.json")
    here = ["--num-workers", "0", "--no-progress"]
    seeds = ["--initial-clusters", "kmeans_plus_plus", "--no-use-mini-batch"]

    cli.main(["fit", f"{tmp_path}/x.npy", model, "--num-clusters", "2", "--center", *seeds, *here])
    cli.main(["evaluate", f"{tmp_path}/x.npy", model, "--output", out, *here])

    assert json.loads((tmp_path / "figures.json").read_text())["loss"] == 165.0
