"""The report of a fitted model: one HTML page that needs no other file, network or script."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

from ray_kmeans.errors import ConfigError, install_hint
from ray_kmeans.io.publish import Place, absolute, put
from ray_kmeans.store.model_dir import ModelDir


def write_report(
    model: ModelDir,
    output: str,
    data: Sequence[str] = (),
    columns: Sequence[str] = (),
    show: str | None = None,
) -> None:
    """Write the report of the newest state of a model to a path or URL, in one step.

    Parameters
    ----------
    model : ModelDir
        The model; its storage options are used for the data and the output, too.
    output : str
        Path or URL of the page.
    data : sequence of str, default ()
        Files, directories or globs, as a fit takes them: the page shows where some of their rows
        lie, and which rows are nearest to their centers. Without data it shows the centers alone.
    columns : sequence of str, default ()
        Columns of the data that make a row.
    show : str, optional
        Column of the data that shows what a row is: text, or a PNG or JPEG.

    Raises
    ------
    ConfigError
        matplotlib or jinja2 is not installed; or `columns` or `show` is given without data.
    NotFittedError
        There is no model.

    Notes
    -----
    It runs in this process. The gaps between centers take time O(k^2 d); of the data it reads at
    most `report.sample.BLOCKS` blocks, and more only where these are small.
    """
    try:
        from ray_kmeans.html_report import facts, page, sections
    except ImportError as error:
        raise ConfigError(
            f"a report needs matplotlib and jinja2, which cannot be imported here ({error}). "
            f"{install_hint('report')}"
        ) from error
    for name, value in {"columns": list(columns), "show": show}.items():
        if value and not data:
            raise ConfigError(f"{name}={value!r} has no meaning without data. Give data, too.")
    known = facts.facts_of(model, data, columns, show)
    text = page.render(sections.title(known), sections.sections_of(known, date.today()))
    place = Place(absolute(output), model.storage_options)
    with place.raise_store_errors(f"{place.shown!r} cannot be written"):
        put(place.fs, place.path, text.encode())
