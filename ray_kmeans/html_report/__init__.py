"""The report of a fitted model: one HTML page that needs no other file, network or script."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

from ray_kmeans.config import RunConfig
from ray_kmeans.errors import ConfigError, install_hint
from ray_kmeans.html_report import facts
from ray_kmeans.io.publish import Place, absolute, put
from ray_kmeans.store.model_dir import ModelDir
from ray_kmeans.workflows.validation import a_path


def report(
    model_dir: str,
    output: str,
    data: Sequence[str] = (),
    columns: Sequence[str] = (),
    show: str | None = None,
    *,
    evaluation: str | None = None,
    config: RunConfig | None = None,
) -> None:
    """Write one HTML page of a fitted model: loss, sizes, a map, gaps, and rows of each cluster.

    The page needs no network and runs no script. It is made in this process; of the data it reads
    a sample.

    Parameters
    ----------
    model_dir : str
        Directory or fsspec URL of a fitted model.
    output : str
        Path or fsspec URL of the page, as ``report.html``.
    data : sequence of str, default=()
        Files, directories or globs as for a fit: the page shows where some of their rows lie and
        which are nearest to their centers. (): the centers alone.
    columns : sequence of str, default=()
        The column of vectors, or the columns of numbers, where there is a choice.
    show : str, default=None
        Column of the data that tells what a row is: text, or PNG or JPEG files.
    evaluation : str, default=None
        Path or URL of the JSON that ``ray-kmeans evaluate --output`` wrote of this model: the page
        shows silhouettes, indices and the clusters with the largest loss, over all rows.
    config : RunConfig, default=None
        `storage_options` serve the model, the data and the output. None: all defaults.

    Raises
    ------
    ConfigError
        If an argument cannot be used, or the extra ``[report]`` is not installed.
    NotFittedError
        If there is no model.
    StoreError
        If the page cannot be written.

    Examples
    --------
    >>> import numpy as np, tempfile
    >>> from pathlib import Path
    >>> import ray_kmeans
    >>> with tempfile.TemporaryDirectory() as place:
    ...     km = ray_kmeans.import_centers(np.eye(3, dtype=np.float32), f"{place}/model")
    ...     ray_kmeans.report(f"{place}/model", f"{place}/report.html")
    ...     "<html" in Path(f"{place}/report.html").read_text()
    True
    """
    model = ModelDir.of(a_path("model_dir", model_dir), config or RunConfig())
    place = None if evaluation is None else a_path("evaluation", evaluation)
    write_report(model, a_path("output", output), data, columns, show, place)


def write_report(
    model: ModelDir,
    output: str,
    data: Sequence[str] = (),
    columns: Sequence[str] = (),
    show: str | None = None,
    evaluation: str | None = None,
) -> None:
    """Write the page of the newest state of a model to a path or URL, whole or not at all.

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
    evaluation : str, optional
        Path or URL of the JSON of an evaluation of this model, whose figures of quality are shown.

    Raises
    ------
    ConfigError
        matplotlib or jinja2 is not installed; `columns` or `show` is given without data; or the
        evaluation is none, or of another state of the model.
    NotFittedError
        There is no model.

    Notes
    -----
    It runs in this process. The gaps between centers take time O(k^2 d); of the data it reads at
    most `html_report.sample.BLOCKS` blocks, and more only where these are small.
    """
    try:
        from ray_kmeans.html_report import page, sections  # matplotlib: 0.4 s, and may be missing
    except ImportError as error:
        raise ConfigError(
            f"a report needs matplotlib and jinja2, which cannot be imported here ({error}). "
            f"{install_hint('report')}"
        ) from error
    for name, value in {"columns": list(columns), "show": show}.items():
        if value and not data:
            raise ConfigError(f"{name}={value!r} has no meaning without data. Give data, too.")
    known = facts.facts_of(model, data, columns, show, evaluation)
    text = page.render(sections.title(known), sections.sections_of(known, date.today()))
    place = Place(absolute(output), model.storage_options)
    with place.raise_store_errors(f"{place.shown!r} cannot be written"):
        put(place.fs, place.path, text.encode())
