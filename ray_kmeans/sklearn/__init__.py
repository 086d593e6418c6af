"""Estimators that stand where scikit-learn's stand: the same names, defaults and attributes.

``from ray_kmeans.sklearn import KMeans`` in place of ``from sklearn.cluster import KMeans``. A fit
runs in this process; `config` lets the same line run on a Ray cluster.
"""

from ray_kmeans.errors import install_hint

try:
    from ray_kmeans.sklearn.full_batch import KMeans
    from ray_kmeans.sklearn.mini_batch import MiniBatchKMeans
except ModuleNotFoundError as missing:
    if (missing.name or "").partition(".")[0] != "sklearn":
        raise
    text = f"scikit-learn is not installed. {install_hint('sklearn')}"
    raise ModuleNotFoundError(text, name="sklearn") from None

__all__ = ["KMeans", "MiniBatchKMeans"]
