"""KMeansClustering stands in pipelines of scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest

from ray_kmeans import KMeansClustering, RunConfig

pytest.importorskip("sklearn")
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import check_is_fitted

X = np.random.default_rng(8).normal(size=(60, 3)) * [1, 10, 100]
HERE = RunConfig(num_workers=0, progress=False)


@pytest.fixture
def km(tmp_path):
    return KMeansClustering(3, str(tmp_path / "model"), use_mini_batch=False, config=HERE)


def test_a_pipeline_fits_and_labels_as_its_steps_do(km, tmp_path):
    pipeline = make_pipeline(StandardScaler(), km).fit(X)

    scaled = StandardScaler().fit_transform(X)
    alone = KMeansClustering(3, str(tmp_path / "alone"), use_mini_batch=False, config=HERE)
    alone.fit(scaled)
    expected = alone.predict(scaled, as_iterable=False)["cluster_idx"]
    found = pipeline.predict(X, as_iterable=False)["cluster_idx"]
    assert found.tolist() == expected.tolist()
    assert [row["cluster_idx"] for row in pipeline.predict(X)] == expected.tolist()
    assert pipeline.score(X) == alone.score(scaled)
    assert (pipeline.transform(X) == alone.transform(scaled)).all()


def test_a_pipeline_goes_on_with_the_distances(km):
    pipeline = make_pipeline(StandardScaler(), km, StandardScaler())

    assert pipeline.fit_transform(X).shape == (60, 3)


def test_a_pipeline_that_is_not_fitted_says_so_and_makes_no_model(km, tmp_path):
    with pytest.raises(NotFittedError):
        check_is_fitted(km)
    with pytest.raises(NotFittedError):
        check_is_fitted(KMeansClustering(3, config=HERE))
    assert list(tmp_path.iterdir()) == []
    check_is_fitted(km.fit(X))


def test_what_a_pipeline_cannot_do_is_an_attribute_error_as_its_own_are(km):
    pipeline = make_pipeline(StandardScaler(), km)

    assert not hasattr(pipeline, "fit_predict")
    with pytest.raises(AttributeError, match="fit_predict"):
        pipeline.fit_predict(X)


def test_pipelines_are_cloned_and_shown(km):
    pipeline = make_pipeline(StandardScaler(), km)

    assert clone(pipeline)[-1].get_params()["num_clusters"] == 3
    assert "KMeansClustering" in repr(pipeline)
    assert "KMeansClustering" in pipeline._repr_html_()
