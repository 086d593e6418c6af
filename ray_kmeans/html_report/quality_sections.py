"""Sections of a report about the quality of the clusters, over all rows of an evaluation."""

from __future__ import annotations

from ray_kmeans.algorithm.quality import Quality
from ray_kmeans.html_report import figures
from ray_kmeans.html_report.facts import Facts
from ray_kmeans.html_report.page import Cell, Section, Table

CLUSTERS_SHOWN = 50
"""Number of clusters with the largest part of the inertia in the table."""
COLUMNS = ("cluster", "rows", "inertia", "share", "per row", "silhouette", "nearest", "gap")
"""Headers of the table of clusters."""


def _quality(facts: Facts) -> Section | None:
    """Return the section with the single figures and the silhouettes; None without them."""
    quality = facts.quality
    if quality is None:
        return None
    text = (
        "The silhouette of a row is (b - a) / b for the distances a to its own center and b to the "
        "second-nearest one: 1 on its center, 0 on the border between two. "
        "A row is within x % of a border if its silhouette is at most x / 100."
    )
    table = Table("Over all rows of the evaluation", (), _figures(quality))
    figure = None
    if quality.silhouette_histogram is not None:
        figure = figures.draw_silhouettes(quality.silhouette_histogram)
    return Section("quality", "Quality of the clusters", text, figure, table)


def _figures(quality: Quality) -> list[tuple[str, Cell]]:
    """Return the name and the value of each single figure."""
    single = {
        "inertia": quality.inertia,
        "mean silhouette": quality.silhouette,
        "Davies-Bouldin (lower is better)": quality.davies_bouldin,
        "Calinski-Harabasz (higher is better)": quality.calinski_harabasz,
        "variation of the sizes": quality.size_variation,
        "median size over the mean": quality.size_p50,
        "99th percentile of the sizes over the mean": quality.size_p99,
        "largest size over the mean": quality.size_max,
        "empty clusters": quality.empty,
    }
    for percent, share in (quality.near_border or {}).items():
        single[f"share of rows within {percent:g} % of a border"] = share
    found: list[tuple[str, Cell]] = [
        (name, "not defined" if value is None else value) for name, value in single.items()
    ]
    if quality.agreement is not None:
        for name, value in vars(quality.agreement).items():
            found.append((f"with the other clustering: {name.replace('_', ' ')}", value))
    return found


def _clusters(facts: Facts) -> Section | None:
    """Return the section with the clusters of the largest loss; None without an evaluation."""
    quality = facts.quality
    if quality is None:
        return None
    rows = [_line(quality, each) for each in quality.by_loss(CLUSTERS_SHOWN).tolist()]
    few = len(rows) == len(quality.sizes)
    caption = "All clusters" if few else f"The {CLUSTERS_SHOWN} with the largest inertia"
    text = (
        f"Inertia is the sum of the {facts.distance} of the rows to their center, gap the "
        f"{facts.distance} of the center to the nearest other one."
    )
    return Section("clusters", "Clusters by loss", text, table=Table(caption, COLUMNS, rows))


def _line(quality: Quality, cluster: int) -> tuple[Cell, ...]:
    """Return the row of a cluster in the table; what it does not have is an empty text."""
    size, inertia = quality.sizes[cluster].item(), float(quality.cluster_inertia[cluster])
    silhouettes, nearest, gaps = quality.cluster_silhouette, quality.nearest, quality.gaps
    return (
        cluster,
        size,
        inertia,
        inertia / quality.cluster_inertia.sum().item() if inertia else 0.0,
        inertia / size if size else "",
        float(silhouettes[cluster]) if size and silhouettes is not None else "",
        "" if nearest is None else int(nearest[cluster]),
        "" if gaps is None else float(gaps[cluster]),
    )


QUALITY_SECTIONS = (_quality, _clusters)
"""The sections about quality, in their order on the page."""
