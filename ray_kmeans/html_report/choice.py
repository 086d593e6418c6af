"""The page that compares several numbers of clusters by their figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ray_kmeans.errors import ConfigError, install_hint

COLUMNS = {
    "inertia": "inertia",
    "silhouette": "simplified silhouette",
    "davies_bouldin": "Davies-Bouldin",
    "calinski_harabasz": "Calinski-Harabasz",
}
"""Headers of the drawn figures, by the names of these."""


def choice_page(
    candidates: Sequence[Mapping[str, float | str | None]], best: int, reason: str
) -> str:
    """Return a page of HTML with the figures over the number of clusters.

    `candidates` have 'num_clusters', the names of `COLUMNS`, 'empty' and 'model_dir'. Raises
    ConfigError where the extra ``[report]`` is missing.
    """
    try:
        from ray_kmeans.html_report import figures, page  # matplotlib: 0.4 s, and may be missing
    except ImportError as error:
        raise ConfigError(
            f"a page needs matplotlib and jinja2, which cannot be imported here ({error}). "
            f"{install_hint('report')}"
        ) from error
    numbers = [int(each["num_clusters"] or 0) for each in candidates]
    series = {
        title: [_number(each[name]) for each in candidates] for name, title in COLUMNS.items()
    }
    rows: list[tuple[page.Cell, ...]] = [
        (k, *(_cell(each[name]) for name in COLUMNS), _cell(each["empty"]), str(each["model_dir"]))
        for k, each in zip(numbers, candidates, strict=True)
    ]
    table = page.Table("Over all rows", ("k", *COLUMNS.values(), "empty", "model"), rows)
    text = (
        f"Recommended: {reason} The inertia falls with every further cluster; where it begins to "
        "fall slowly (the elbow), further clusters tell little. Of silhouette and "
        "Calinski-Harabasz higher is better, of Davies-Bouldin lower."
    )
    drawn = figures.draw_choice(numbers, series, best)
    return page.render("Number of clusters", [page.Section("choice", "k", text, drawn, table)])


def _number(value: float | str | None) -> float | None:
    """Return a figure to draw; None where it is not defined."""
    return None if value is None else float(value)


def _cell(value: float | str | None) -> float | str:
    """Return a figure for a table."""
    return "not defined" if value is None else value
