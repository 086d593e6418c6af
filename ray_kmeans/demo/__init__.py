"""A first run on real data in the package: 6,000 glosses of WordNet 3, embedded by MiniLM."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from ray_kmeans.config import RunConfig
from ray_kmeans.estimator import KMeansClustering
from ray_kmeans.observe.fit_table import fit_table

DATA = Path(__file__).parent / "wordnet"
"""Folder of four Parquet files: the columns synset, lemmas, gloss, embedding (384 x float16)."""


def run_demo(output: Path, num_clusters: int, config: RunConfig) -> str:
    """Fit and label the demo's data; return a text about the steps and the largest clusters."""
    model_dir, labelled = str(output / "model"), str(output / "labelled")
    km = KMeansClustering(num_clusters, model_dir, use_mini_batch=False, config=config)
    km.fit(str(DATA))
    km.label(str(DATA), labelled, keep_columns=("synset", "lemmas", "gloss"))
    return "\n".join(
        [
            fit_table(km.history(), km.why_stopped(), km.counts()),
            "",
            "the largest clusters, by the words nearest to their centers:",
            *_largest_clusters(labelled, clusters=8, words=6),
            "",
            f"model:    {model_dir}",
            f"labelled: {labelled}  (synset, lemmas, gloss, row, cluster_idx, distance)",
            "next:     ray-kmeans fit YOUR_PARQUET MODEL_DIR --num-clusters K",
        ]
    )


def _largest_clusters(labelled: str, clusters: int, words: int) -> list[str]:
    """Return a line for each of the largest clusters: its number, rows and nearest words."""
    table = pq.read_table(labelled, columns=["lemmas", "cluster_idx", "distance"])
    labels = table["cluster_idx"].to_numpy()
    distance = table["distance"].to_numpy()
    lemmas = np.array([text.split(",")[0] for text in table["lemmas"].to_pylist()])
    sizes = np.bincount(labels)
    lines = []
    for cluster in np.argsort(-sizes, kind="stable")[:clusters]:
        members = np.flatnonzero(labels == cluster)
        nearest = members[np.argsort(distance[members], kind="stable")[:words]]
        lines.append(f"{cluster:>4} {sizes[cluster]:>6}  {', '.join(lemmas[nearest])}")
    return lines
