"""A Predictor says of the batches of a Ray Dataset what predict says of all rows."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from ray_kmeans import KMeansClustering, Predictor, RunConfig, open_source
from ray_kmeans.engine.label_writer import LISTS
from ray_kmeans.errors import (
    ConfigError,
    DataError,
    NonFiniteError,
    NotFittedError,
)
from ray_kmeans.workflows.label import OWN_COLUMNS

X = np.random.default_rng(3).normal(size=(500, 4)).astype(np.float32)
K = 6
OUTPUTS = ["all_scores", "cluster_idx", "distance"]


@pytest.fixture(scope="module", params=["squared_euclidean", "cosine"])
def km(request, tmp_path_factory):
    config = RunConfig(num_workers=0, progress=False, save_checkpoints_steps=1)
    place = str(tmp_path_factory.mktemp("model"))
    made = KMeansClustering(K, place, X[:K], request.param, use_mini_batch=False, config=config)
    return made.fit(X, steps=3)


@pytest.fixture(scope="module")
def truth(km):
    """All outputs for all rows; the distance is that to the center of the label."""
    said = km.predict(X, as_iterable=False)
    nearest = said["all_scores"][np.arange(len(X)), said["cluster_idx"]]
    return {**said, "distance": nearest}


def columns_of_numbers():
    return {f"x{n}": X[:, n] for n in range(X.shape[1])}


def a_list(kind):
    return pa.table({"id": np.arange(len(X)), "v": pa.array(list(X), kind)})


FORMS = {
    "numpy, a vector": {"id": np.arange(len(X)), "v": X},
    "numpy, float64": {"v": X.astype(np.float64)},
    "numpy, a tensor": {"v": X.reshape(-1, 2, 2)},
    "numpy, rows of their own": {"v": np.array([*X, None], object)[:-1]},
    "numpy, some numbers": columns_of_numbers(),
    "numpy, beside other things": {"v": X, "names": np.array([object()] * len(X))},
    "table, lists": a_list(pa.list_(pa.float32())),
    "table, fixed lists": a_list(pa.list_(pa.float32(), X.shape[1])),
    "table, some numbers": pa.table(columns_of_numbers()),
}


def as_array(batch, name):
    if isinstance(batch, dict):
        return batch[name]
    column = batch[name].combine_chunks()
    values = column.flatten() if name == "all_scores" else column
    return values.to_numpy(zero_copy_only=False).reshape(batch.num_rows, -1).squeeze()


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_batch_gets_the_answers_of_predict(form, km, truth):
    given = FORMS[form]

    batch = Predictor(km.model_dir, outputs=OUTPUTS)(given)

    assert type(batch) is type(given)
    before = list(given) if isinstance(given, dict) else given.column_names
    assert (list(batch) if isinstance(batch, dict) else batch.column_names) == [*before, *OUTPUTS]
    for name in OUTPUTS:
        np.testing.assert_array_equal(as_array(batch, name), truth[name])
        assert as_array(batch, name).dtype == truth[name].dtype


def test_label_and_distance_come_by_default_under_the_names_of_labelled_output(km):
    batch = Predictor(km.model_dir)({"v": X})

    assert [*batch] == ["v", *OWN_COLUMNS[1:]]


def test_columns_choose_among_several(km, truth):
    given = {"other": X[::-1], "v": X, "id": np.arange(len(X))}
    table = pa.table({"doc": pa.StructArray.from_arrays([pa.array(list(X))], ["v"])})
    structs = {"doc": np.array(table["doc"].to_pylist())}

    for columns, batch in [(["v"], given), (["doc.v"], table), (["doc.v"], structs)]:
        labels = as_array(Predictor(km.model_dir, columns)(batch), "cluster_idx")
        np.testing.assert_array_equal(labels, truth["cluster_idx"])
    with pytest.raises(ConfigError, match="several columns of vectors"):
        Predictor(km.model_dir)(given)
    with pytest.raises(ConfigError, match=r"columns=\['z'\] are not in the table"):
        Predictor(km.model_dir, ["z"])(given)


def test_the_model_is_read_once_and_stays_that_of_the_start(km):
    first, last = km.checkpoints()[0], km.checkpoints()[-1]

    old, new = Predictor(km.model_dir, checkpoint_path=first), Predictor(km.model_dir)

    assert first != last
    assert (old({"v": X})["cluster_idx"] != new({"v": X})["cluster_idx"]).any()


def test_a_batch_without_rows_gets_the_columns_too(km):
    table = FORMS["table, lists"]

    for empty in (table.slice(0, 0), {"v": X[:0]}):
        batch = Predictor(km.model_dir, outputs=OUTPUTS)(empty)
        assert [len(batch[name]) for name in OUTPUTS] == [0, 0, 0]


def test_rows_that_are_not_finite_end_the_pipeline_or_are_marked(km, truth):
    rows = X.copy()
    rows[7, 1] = np.nan

    with pytest.raises(NonFiniteError, match=r"1 rows hold NaN.*the first is row 7"):
        Predictor(km.model_dir)({"v": rows})
    batch = Predictor(km.model_dir, outputs=OUTPUTS, nonfinite="drop")({"v": rows})

    assert batch["cluster_idx"][7] == -1
    assert np.isnan(batch["distance"][7])
    assert np.isnan(batch["all_scores"][7]).all()
    others = np.arange(len(X)) != 7
    for name in OUTPUTS:
        np.testing.assert_array_equal(batch[name][others], truth[name][others])


@pytest.mark.parametrize("form", ["numpy, a vector", "table, lists"])
def test_the_nearest_are_lists_of_the_lowest_scores_in_order(form, km, truth):
    order = truth["all_scores"].argsort(axis=1, kind="stable")[:, :3]
    expected = np.take_along_axis(truth["all_scores"], order, axis=1)

    batch = Predictor(km.model_dir, outputs=["distance"], nearest=3)(FORMS[form])
    indices, distances = km.predict_nearest(X, 3)

    np.testing.assert_array_equal(indices, order)
    np.testing.assert_array_equal(distances, expected)
    names = [*FORMS[form]] if isinstance(batch, dict) else FORMS[form].column_names
    found = [*batch] if isinstance(batch, dict) else batch.column_names
    assert found == [*names, "distance", *LISTS]
    for name, whole in zip(LISTS, (indices, distances), strict=True):
        column = batch[name] if isinstance(batch, dict) else np.array(batch[name].to_pylist())
        np.testing.assert_array_equal(column, whole)
    empty = Predictor(km.model_dir, nearest=2)({"v": X[:0]})
    assert empty["nearest_cluster_idx"].shape == (0, 2)
    with pytest.raises(ConfigError, match="nearest=7: the model has 6 clusters"):
        Predictor(km.model_dir, nearest=7)
    with pytest.raises(ConfigError, match="nearest=0 must be a whole number"):
        km.predict_nearest(X, 0)


def test_a_row_that_is_left_out_has_no_nearest(km):
    rows = X.copy()
    rows[7, 1] = np.nan

    indices, distances = km.predict_nearest(open_source(rows, nonfinite="drop"), 2)

    assert indices[7].tolist() == [-1, -1]
    assert np.isnan(distances[7]).all()
    np.testing.assert_array_equal(
        np.delete(indices, 7, 0), km.predict_nearest(np.delete(X, 7, 0), 2)[0]
    )


def test_what_cannot_be_labelled_is_said(km, tmp_path):
    with pytest.raises(DataError, match=r"the data have 3 features and the model in .* has 4"):
        Predictor(km.model_dir)({"v": X[:, :3]})
    with pytest.raises(ConfigError, match=r"has columns \['distance'\] already"):
        Predictor(km.model_dir)({"v": X, "distance": X[:, 0].astype("U")})
    with pytest.raises(ConfigError, match=r"a batch is a list.*batch_format='pyarrow' or 'numpy'"):
        Predictor(km.model_dir)([1.0])
    with pytest.raises(ConfigError, match="outputs="):
        Predictor(km.model_dir, outputs=["labels"])
    with pytest.raises(ConfigError, match="nonfinite='keep'"):
        Predictor(km.model_dir, nonfinite="keep")
    with pytest.raises(NotFittedError, match="there is no model in"):
        Predictor(str(tmp_path))


@pytest.mark.long(kind="predictor")
@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("batch_format", ["pyarrow", "numpy"])
@pytest.mark.parametrize("km", ["squared_euclidean"], indirect=True)
def test_actors_of_ray_data_label_as_predict_does(batch_format, km, truth):
    import ray.data

    ray.data.DataContext.get_current().enable_progress_bars = False
    data = ray.data.from_arrow([FORMS["table, lists"].slice(n, 100) for n in range(0, 500, 100)])

    labelled = data.map_batches(
        Predictor,
        fn_constructor_kwargs={"model_dir": km.model_dir, "columns": ["v"]},
        concurrency=2,
        batch_size=64,
        batch_format=batch_format,
    )
    rows = sorted(labelled.take_all(), key=lambda row: row["id"])

    assert [row["cluster_idx"] for row in rows] == truth["cluster_idx"].tolist()
    assert [row["distance"] for row in rows] == truth["distance"].tolist()
