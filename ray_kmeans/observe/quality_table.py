"""The quality of a clustering as a table in a few lines of text."""

from __future__ import annotations

from collections.abc import Iterator

from ray_kmeans.algorithm.quality import Quality
from ray_kmeans.text.quantities import format_number

WORST_SHOWN = 8
"""Number of clusters with the largest part of the inertia that have a line."""
HEAD = "   cluster         rows        inertia   per row  silhouette  nearest             gap"
"""Header of the table of clusters."""
BAR = 30
"""Characters of the longest bar of the histogram."""


def quality_table(quality: Quality) -> str:
    """Return the figures of a clustering, the histogram of silhouettes and the worst clusters."""
    lines = [f"{name:<34}{text:>20}" for name, text in _figures(quality)]
    lines += _histogram(quality)
    lines += ["clusters with the largest part of the inertia:", HEAD]
    lines += [_line(quality, each) for each in quality.by_loss(WORST_SHOWN).tolist()]
    return "\n".join(lines)


def _figures(quality: Quality) -> Iterator[tuple[str, str]]:
    """Yield the name and the text of each single figure."""
    yield "size: variation", format_number(quality.size_variation)
    for name in ("p50", "p99", "max"):
        yield f"size: {name} over mean", format_number(getattr(quality, f"size_{name}"))
    for name in ("silhouette", "davies_bouldin", "calinski_harabasz"):
        value = getattr(quality, name)
        yield name.replace("_", " "), "not defined" if value is None else format_number(value)
    for percent, share in (quality.near_border or {}).items():
        yield f"share within {percent:g} % of a border", format_number(share)
    if quality.agreement is not None:
        for name, value in vars(quality.agreement).items():
            text = value if isinstance(value, str) else format_number(value)
            yield f"other: {name.replace('_', ' ')}", text


def _histogram(quality: Quality) -> Iterator[str]:
    """Yield a line for each bin of the silhouettes."""
    if quality.silhouette_histogram is None:
        return
    yield "silhouettes of the rows:"
    weights = quality.silhouette_histogram.tolist()
    for number, weight in enumerate(weights):
        bar = "#" * round(BAR * weight / max(weights))
        yield f"{number / len(weights):>10.2f} {format_number(weight):>12} {bar}".rstrip()


def _line(quality: Quality, cluster: int) -> str:
    """Return the line of a cluster under `HEAD`."""
    size, inertia = quality.sizes[cluster].item(), float(quality.cluster_inertia[cluster])
    per_row = f"{inertia / size:.4g}" if size else ""
    line = f"{cluster:>10}{format_number(size):>13}{inertia:>15.6g}{per_row:>10}"
    if quality.cluster_silhouette is None or quality.nearest is None or quality.gaps is None:
        return line
    silhouette = f"{quality.cluster_silhouette[cluster]:.4f}" if size else ""
    nearest, gap = int(quality.nearest[cluster]), float(quality.gaps[cluster])
    return f"{line}{silhouette:>12}{nearest:>9}{gap:>16.6g}"
