"""The report of a model: a page that needs nothing but itself, and says what the model says."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import sys
import uuid
from dataclasses import replace
from fractions import Fraction
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import fsspec
import matplotlib.image
import numpy as np
import pyarrow as pa
import pytest

from ray_kmeans import KMeansClustering, RunConfig, cli
from ray_kmeans.algorithm.row_spec import RowSpec
from ray_kmeans.algorithm.state import (
    Accumulators,
    FitState,
    Iteration,
    Stop,
)
from ray_kmeans.data.array import ArraySource
from ray_kmeans.data.sharding import Layout, cut
from ray_kmeans.errors import (
    ConfigError,
    DataError,
    NoDataError,
    NotFittedError,
    StoreError,
)
from ray_kmeans.html_report import figures, sample, write_report
from ray_kmeans.html_report.centers import gaps_of, plane_of, sizes_of
from ray_kmeans.html_report.page import readable
from ray_kmeans.observe.run_record import RunRecord, Span
from ray_kmeans.store.model_dir import ModelDir
from tests.support import cases, oracle
from tests.support.files import put_array, put_table

HERE = RunConfig(num_workers=0, progress=False)
X = np.random.default_rng(7).normal(size=(300, 4)).astype(np.float32)
X[:200] += 5
TEXTS = [f"text {number}" for number in range(300)]
K = 20
OF_MODELS = ["model", "loss", "moves", "sizes", "view", "gaps"]
OF_RUNS = ["time", "plan", "survived"]
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJg"
    "gg=="
)


def fitted(place, **params):
    """Return a model of X in its directory."""
    k = params.pop("num_clusters", K)
    limits = {"max_steps": params.pop("max_steps")} if "max_steps" in params else {}
    params = {"use_mini_batch": False, **params}
    KMeansClustering(k, f"{place}/model", **params, config=HERE).fit(X, **limits)
    return ModelDir.at(f"{place}/model", {}, 5)


def table_of(texts=TEXTS):
    return pa.table({"vector": list(X), "text": texts})


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return fitted(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    place = tmp_path_factory.mktemp("data")
    put_table(place, "x.parquet", table_of(), row_group_size=100)
    return [str(place / "x.parquet")]


@pytest.fixture(scope="module")
def page(model, data, tmp_path_factory):
    """The page of that model with its data."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_report(model, str(path), data, show="text")
    return path.read_text()


def made(model, place, *args, **kwargs):
    write_report(model, str(place / "report.html"), *args, **kwargs)
    return (place / "report.html").read_text()


class Tree(HTMLParser):
    """A page as a tree; fails where an element is not closed by its own tag."""

    def __init__(self, text):
        super().__init__()
        self._builder = ElementTree.TreeBuilder()
        self._open = []
        self.feed(text)
        self.close()
        assert self._open == []
        self.root = self._builder.close()

    def handle_starttag(self, tag, attrs):
        assert len(attrs) == len(dict(attrs))
        self._builder.start(tag, {name: value or "" for name, value in attrs})
        if tag in {"meta", "img"}:
            self._builder.end(tag)
        else:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag
        self._builder.end(tag)

    def handle_data(self, data):
        if self._open:
            self._builder.data(data)


def tree_of(text):
    return Tree(text).root


def said(element):
    return " ".join("".join(element.itertext()).split())


def sections(text):
    return {each.get("id"): each for each in tree_of(text).iter("section")}


def table(text, name):
    """Return the texts of the cells of the table of a section, without its headers."""
    rows = sections(text)[name].findall(".//tbody/tr")
    return [[said(cell) for cell in row] for row in rows]


def facts(text):
    return dict(table(text, "model"))


def number(cell):
    """Return a number that is written with thousands separators."""
    before, _, _ = cell.partition(".")
    assert re.fullmatch(r"-?\d{1,3}(,\d{3})*(e[+-]\d+)?", before), cell
    return float(cell.replace(",", ""))


def test_every_section_is_there_and_every_element_is_closed(page, model, tmp_path):
    assert list(sections(page)) == [*OF_MODELS, "examples", *OF_RUNS]
    assert list(sections(made(model, tmp_path))) == [*OF_MODELS, *OF_RUNS]


def test_the_page_needs_nothing_but_itself(page):
    root = tree_of(page)

    without_images = re.sub(r'"data:image/[^"]*"', '"data:"', page)
    assert not re.search(r"https?:|//|@import|javascript:", without_images, re.IGNORECASE)
    assert {"script", "link", "iframe", "object", "base"} & {
        each.tag for each in root.iter()
    } == set()
    for each in root.iter():
        assert not [name for name in each.attrib if name.startswith("on")]
        for name in ("src", "href", "xlink:href"):
            assert each.get(name, "#").startswith(("#", "data:"))
    assert set(re.findall(r"url\((.)", page)) <= {"#"}
    policy = root.find(".//meta[@http-equiv='Content-Security-Policy']").get("content")
    assert policy.startswith("default-src 'none';")
    assert "script-src" not in policy


def test_every_figure_says_what_it_shows_and_no_two_elements_have_one_id(page):
    root = tree_of(page)
    ids = [each.get("id") for each in root.iter() if each.get("id")]
    figures = root.findall(".//figure/svg")

    assert len(figures) == 6
    for figure in figures:
        assert figure.get("role") == "img"
        title = root.find(f".//*[@id='{figure.get('aria-labelledby')}']")
        assert len(said(title)) > 20
    assert len(ids) == len(set(ids))
    assert {each.get("xlink:href", "#")[1:] for each in root.iter("use")} <= set(ids)


def test_the_facts_are_those_of_the_model(page, model, data):
    state = model.fitted()
    said_of = facts(page)

    assert said_of["model"] == model.url
    assert number(said_of["clusters"]) == len(state.centers)
    assert number(said_of["features"]) == 4
    assert said_of["distance"] == "squared euclidean"
    assert said_of["training"] == "all rows in each step"
    assert number(said_of["steps"]) == len(state.history)
    assert said_of["ended"] == Stop.CONVERGED.value
    assert number(said_of["inertia of the last step"]) == pytest.approx(
        oracle.inertia(X, state.centers, oracle.labels(X, state.centers)), rel=1e-5
    )
    assert number(said_of["rows of that step"]) == 300
    assert said_of["data"] == data[0]
    assert said_of["sample"] == "300 of 300 rows"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", said_of["report made"])


def test_the_steps_are_the_first_and_the_last_of_the_history(page, model):
    history = model.fitted().history
    assert len(history) > 8

    rows = table(page, "loss")

    assert len(rows) == 8
    for row, line in zip(rows, [*history[:4], *history[-4:]], strict=True):
        loss = line.inertia, line.inertia / line.rows
        expected = (line.iteration, line.rows, *loss, line.shift, line.empty)
        assert [number(cell) for cell in row] == pytest.approx(expected, rel=1e-5)


def test_the_sizes_are_the_rows_of_the_clusters(page, model):
    counts = np.bincount(oracle.labels(X, model.fitted().centers), minlength=K)
    expected = [300, counts.min(), np.median(counts), counts.max(), (counts == 0).sum()]

    [row] = table(page, "sizes")

    assert [number(cell) for cell in row] == expected


def test_the_examples_are_the_rows_nearest_to_the_largest_and_smallest_centers(page, model):
    centers = model.fitted().centers
    labels = oracle.labels(X, centers)
    distances = ((X.astype(float) - centers[labels]) ** 2).sum(axis=1)
    counts = np.bincount(labels)

    rows = sections(page)["examples"].findall(".//tbody/tr")

    assert len(rows) == 12
    shown = [int(said(row[0])) for row in rows]
    assert [number(said(row[1])) for row in rows] == counts[shown].tolist()
    assert sorted(counts[shown]) == sorted([*np.sort(counts)[:4], *np.sort(counts)[-8:]])
    assert counts[shown].tolist() == sorted(counts[shown], reverse=True)
    for cluster, row in zip(shown, rows, strict=True):
        members = np.flatnonzero(labels == cluster)
        nearest = members[np.argsort(distances[members])][:5]
        assert [said(each) for each in row.iter("li")] == [TEXTS[each] for each in nearest]


def test_without_a_column_to_show_rows_are_named_by_their_numbers(model, data, page, tmp_path):
    with_texts = table(page, "examples")

    with_numbers = table(made(model, tmp_path, data), "examples")

    assert [[cell.replace("row", "text") for cell in row] for row in with_numbers] == with_texts


def test_moves_between_steps_without_one_are_drawn():
    shifts = [0.0, 5.0, 0.0, 0.3, 0.0, 0.05, 0.0, 0.001]
    history = [Iteration(step, 9, 1.0, shift, 0, "") for step, shift in enumerate(shifts)]

    svg = figures.draw_moves(history).svg

    line = re.search(rf'd="([^"]+)"[^>]*stroke: {figures.BLUE}', svg)[1]
    assert len(re.findall("[ML]", line)) == 4


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (0, "0"),
        (12345, "12,345"),
        (-1234.5, "-1,234.5"),
        (0.1234567, "0.123457"),
        (7654321.5, "7,654,322"),
        (1e20, "1e+20"),
        (3e-9, "3e-09"),
    ],
)
def test_numbers_are_written_to_be_read(number, expected):
    assert readable(number) == expected


# --- what the centers say ------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2, 2), (3, 7), (40, 3), (8, 1), (1, 5)])
def test_the_plane_is_that_of_the_largest_eigenvalues_of_the_covariance(shape):
    centers = np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32) * 3 + 100

    plane = plane_of(centers)

    away = centers.astype(np.float64) - centers.astype(np.float64).mean(axis=0)
    values, vectors = np.linalg.eigh(away.T @ away)
    total = values.sum() or 1
    for place in range(min(2, shape[1], shape[0] - 1)):
        axis = vectors[:, -1 - place]
        axis = axis * np.sign(axis[np.abs(axis).argmax()])
        assert plane.shares[place] == pytest.approx(values[-1 - place] / total)
        np.testing.assert_allclose(plane.axes[place], axis, atol=1e-6)
        np.testing.assert_allclose(plane.project(centers)[:, place], away @ axis, atol=1e-5)
    np.testing.assert_allclose(plane.shares[min(2, shape[1], shape[0] - 1) :], 0, atol=1e-12)


@pytest.mark.parametrize("name", [name for name, (_, c) in cases.CASES.items() if 1 < len(c) < 20])
def test_a_gap_is_the_distance_to_the_nearest_other_center(name):
    centers = cases.CASES[name][1]
    rows = oracle.exact(centers)
    expected = [
        float(min(oracle.squared_distance(a, b) for j, b in enumerate(rows) if i != j))
        for i, a in enumerate(rows)
    ]

    gaps = gaps_of(centers, "squared_euclidean")

    extent = np.square(np.ptp(centers.astype(float), axis=0)).sum()  # what float64 can tell apart
    np.testing.assert_allclose(gaps.distances, expected, rtol=1e-9, atol=1e-15 * extent)
    assert (gaps.nearest != np.arange(len(centers))).all()


def test_a_gap_of_cosine_is_that_of_directions():
    centers = np.array([[1, 0], [0, 1], [0.6, 0.8]], np.float32)

    gaps = gaps_of(centers, "cosine")

    assert gaps.nearest.tolist() == [2, 2, 1]
    np.testing.assert_allclose(gaps.distances, [0.4, 0.2, 0.2], rtol=1e-6)


def true_nearest(centers):
    """Return the nearest other center of each, and the squared distance, by exact fractions."""
    exact = [[Fraction(value) for value in row] for row in centers.tolist()]
    found = []
    for one, row in enumerate(exact):
        squares = [sum((a - b) ** 2 for a, b in zip(row, each, strict=True)) for each in exact]
        others = [(square, other) for other, square in enumerate(squares) if other != one]
        square, other = min(others)
        found.append((other, float(square)))
    return found


@pytest.mark.parametrize("seed", range(3))
def test_the_nearest_other_center_is_the_true_one_also_where_centers_nearly_coincide(seed):
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(40, 3)).astype(np.float32) + np.float32(1000)
    centers[20:30] = np.nextafter(centers[:10], np.float32(2000))
    centers[30] = centers[31]

    gaps = gaps_of(centers, "squared_euclidean")

    assert gaps.nearest.tolist() == [other for other, _ in true_nearest(centers)]


def test_a_row_of_the_table_of_gaps_names_the_nearest_other_center_of_its_cluster(page, model):
    nearest = true_nearest(model.fitted().centers)
    expected = sorted((square, one, other) for one, (other, square) in enumerate(nearest))[:20]

    rows = table(page, "gaps")

    assert [(int(a), int(b)) for a, b, _ in rows] == [(a, b) for _, a, b in expected]
    assert [number(row[2]) for row in rows] == pytest.approx([d for d, *_ in expected], rel=1e-5)


def test_a_center_whose_nearest_has_a_nearer_one_itself_names_its_own_nearest():
    """Of 0, 1 and 2.5: the nearest of 2.5 is 1, and that of 1 is 0."""
    gaps = gaps_of(np.array([[0.0], [2.5], [1.0]], np.float32), "squared_euclidean")

    assert gaps.smallest(3) == [(0, 2, 1.0), (2, 0, 1.0), (1, 2, 2.25)]
    assert gaps.smallest(1) == [(0, 2, 1.0)]


COUNTS = np.array([5, 1, 3])
OF_MINI_BATCH = np.zeros((2, 3, 4))


@pytest.mark.parametrize(
    ("running", "counts", "sampled", "expected", "word"),
    [
        (None, COUNTS, None, [5, 1, 3], "last step"),
        (None, COUNTS, [0, 2, 2], [5, 1, 3], "last step"),
        (None, np.zeros(3, int), None, None, ""),
        (None, np.zeros(3, int), [0, 2, 2], [1, 0, 2], "sampled"),
        (Accumulators(1, 0, OF_MINI_BATCH), COUNTS, None, None, ""),
        (Accumulators(1, 0, OF_MINI_BATCH), COUNTS, [0, 2, 2], [1, 0, 2], "sampled"),
        (Accumulators(4, 2, OF_MINI_BATCH), COUNTS, None, None, ""),
        (Accumulators(4, 2, OF_MINI_BATCH), COUNTS, [1, 1], [0, 2, 0], "sampled"),
    ],
)
def test_sizes_are_those_of_the_best_count_that_there_is(running, counts, sampled, expected, word):
    line = Iteration(1, 6, 1.0, 1.0, 0, "")
    state = FitState(X[:3], counts, accumulators=running, history=(line,))

    sizes = sizes_of(state, None if sampled is None else np.array(sampled))

    assert (sizes and sizes.counts.tolist()) == expected
    assert sizes is None or word in sizes.of


# --- the sample ----------------------------------------------------------------------------------


class Numbers:
    """A source of rows whose first value is their number; remembers which blocks were read."""

    def __init__(self, groups):
        self.groups = groups
        self.seen = []

    def describe(self):
        return Layout(tuple(cut("numbers", self.groups, features=2)), features=2)

    def read(self, blocks):
        for block in blocks:
            self.seen.append(block.index)
            numbers = np.arange(block.first, block.first + block.rows, dtype=np.float32)
            yield block, np.stack([numbers, numbers % 7], axis=1)

    def columns_of(self, block, names):
        numbers = np.arange(block.first, block.first + block.rows)
        return pa.table({"number": numbers}).select(names)


CENTERS = np.array([[100, 0], [4000, 3], [9000, 6]], np.float32)


def drawn(source, centers=CENTERS, metric="squared_euclidean", **sizes):
    state = FitState.initial(centers, metric)
    return sample.sample_of(source, source.describe(), state, plane_of(centers), **sizes)


@pytest.mark.parametrize(
    ("groups", "rows", "blocks"),
    [
        ([30], 30, 1),  # all of it
        ([100] * 100, 64, 8),  # blocks that hold enough
        ([3] * 1000, 63, 22),  # small ones: as many as it takes
    ],
)
def test_a_sample_reads_few_blocks_all_over_the_data(groups, rows, blocks):
    source = Numbers(groups)

    found = drawn(source, most_rows=64, few_blocks=8)

    assert source.seen == sorted(set(source.seen))
    assert len(source.seen) == blocks
    assert source.seen[0] == 0
    assert source.seen[-1] == len(groups) - 1
    assert min(rows, 60) <= len(found.numbers) <= 64
    assert (np.diff(found.numbers) > 0).all()
    read = {block.index: block for block in source.describe().blocks if block.index in source.seen}
    inside = [range(block.first, block.first + block.rows) for block in read.values()]
    assert all(any(each in block for block in inside) for each in found.numbers.tolist())
    assert found.of_rows == sum(groups)


def test_a_sample_knows_cluster_distance_and_place_of_each_of_its_rows():
    found, again = (drawn(Numbers([100] * 100), most_rows=64) for _ in range(2))

    rows = np.stack([found.numbers, found.numbers % 7], axis=1).astype(np.float32)
    labels = oracle.labels(rows, CENTERS)
    squares = ((rows.astype(float) - CENTERS[labels]) ** 2).sum(axis=1)
    members = found.numbers[labels == 1]
    assert found.labels.tolist() == labels.tolist()
    np.testing.assert_allclose(found.distances, squares)
    np.testing.assert_allclose(found.points, plane_of(CENTERS).project(rows))
    assert found.nearest(1, 3) == members[np.argsort(squares[labels == 1])][:3].tolist()
    assert found.numbers.tolist() == again.numbers.tolist()


def test_a_sample_of_cosine_looks_at_directions():
    centers = np.array([[1, 0], [0.6, 0.8]], np.float32)
    found = drawn(Numbers([50]), centers, "cosine")

    rows = np.stack([np.arange(50), np.arange(50) % 7], axis=1)
    units = (rows / np.maximum(np.linalg.norm(rows, axis=1), 1e-9)[:, None]).astype(np.float32)
    cosines = units.astype(float) @ centers.T.astype(float)
    assert found.labels.tolist() == cosines.argmax(axis=1).tolist()
    np.testing.assert_allclose(found.distances, 1 - cosines.max(axis=1), atol=1e-6)
    np.testing.assert_allclose(found.points, plane_of(centers).project(units), atol=1e-6)


def test_rows_are_shown_by_the_column_of_their_own_block():
    source = Numbers([100] * 100)
    found = drawn(source, most_rows=64)
    some = found.numbers[::9].tolist()

    assert sample.show_rows(source, found, "number", some) == {each: str(each) for each in some}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a" * 300, "a" * 200 + "…"),
        (None, ""),
        (1.5, "1.5"),
        (b"\x00" * 1536, "1.5 KiB"),
        (PIXEL + b"\x00" * 2**19, "image/png, 512.1 KiB"),
        (b"GIF89a", "6 bytes"),
    ],
)
def test_what_is_no_small_image_is_shown_as_text(value, expected):
    source = ArraySource.of_table(pa.table({"x": [0.0, 1.0], "what": [value, value]}), ["x"])
    state = FitState(np.zeros((1, 1), np.float32), np.zeros(1, np.int64))
    found = sample.sample_of(source, source.describe(), state, plane_of(state.centers))

    assert sample.show_rows(source, found, "what", [1]) == {1: expected}


@pytest.mark.parametrize(
    ("content", "kind"), [(PIXEL, "png"), (b"\xff\xd8\xff\xe0 no more", "jpeg")]
)
def test_images_stand_in_the_page_itself(model, tmp_path, content, kind):
    put_table(tmp_path, "x.parquet", table_of([content] * 300))

    text = made(model, tmp_path, [str(tmp_path / "x.parquet")], show="text")

    images = list(tree_of(text).iter("img"))
    assert all(re.fullmatch(r"row \d+", each.get("alt")) for each in images)
    assert {each.get("src") for each in images} == {
        f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
    }


# --- whatever the texts and the models are -------------------------------------------------------

HOSTILE = [
    "<script>alert(1)</script>",
    "</td></table><img src=x onerror=alert(1)>",
    "\" onmouseover='alert(1)",
    "{{ 7 * 7 }} {% raw %}",
    "&lt;b&gt; &amp;",
    "]]> --> </style>",
]


def test_a_hostile_text_is_text_and_nothing_else(model, page, tmp_path):
    texts = [HOSTILE[row % len(HOSTILE)] for row in range(300)]
    put_table(tmp_path, "x.parquet", table_of(texts))

    root = tree_of(made(model, tmp_path, [str(tmp_path / "x.parquet")], show="text"))

    assert {said(each) for each in root.iter("li")} == {" ".join(text.split()) for text in HOSTILE}
    assert {each.tag for each in root.iter()} == {each.tag for each in tree_of(page).iter()}


def test_a_hostile_place_is_text_and_nothing_else(tmp_path):
    place = tmp_path / "<script>alert(1)<" / "b>"
    model = fitted(place, num_clusters=3)
    put_table(place, "x.parquet", table_of())

    text = made(model, tmp_path, [str(place / "x.parquet")])

    assert facts(text)["model"] == model.url
    assert facts(text)["data"] == str(place / "x.parquet")
    assert not list(tree_of(text).iter("script"))


@pytest.mark.parametrize(
    "params",
    [
        {"distance_metric": "cosine"},
        {"use_mini_batch": True},
        {
            "use_mini_batch": True,
            "mini_batch_steps_per_iteration": 3,
            "distance_metric": "cosine",
        },
        {"max_steps": 1},
        {"num_clusters": 1},
    ],
    ids=str,
)
def test_every_kind_of_model_has_its_page(tmp_path, data, params):
    model = fitted(tmp_path, **params)
    state = model.fitted()

    text, with_data = made(model, tmp_path), made(model, tmp_path, data)

    missing = {"gaps"} if len(state.centers) == 1 else set()
    assert set(sections(text)) == {*OF_MODELS, *OF_RUNS} - missing
    assert set(sections(with_data)) == {*sections(text), "examples"}
    last, drawn = state.history[-1], params.get("use_mini_batch", False)
    name = "loss per row" if drawn else "inertia"
    loss = last.loss_per_row if drawn else last.inertia
    assert number(facts(text)[f"{name} of the last step"]) == pytest.approx(loss, rel=1e-5)
    assert ("when it no longer falls, the fit ends" in text) == drawn
    assert ("No step of this model visited all rows" in text) == drawn
    assert facts(text)["distance"] == params.get("distance_metric", "squared euclidean")
    assert ("mini-batches" in facts(text)["training"]) == drawn
    assert ("3 for each update" in facts(text)["training"]) == (
        params.get("mini_batch_steps_per_iteration") == 3
    )


def test_a_fit_that_was_cut_off_before_its_first_step_has_a_page(tmp_path, data):
    model = ModelDir.at(str(tmp_path / "model"), {}, 5)
    model.save(replace(FitState.initial(X[:5]), rows=RowSpec()))

    text = made(model, tmp_path, data)

    assert set(sections(text)) == {"model", "sizes", "view", "gaps", "examples"}
    assert facts(text)["ended"] == "not yet: the fit was cut off"
    assert "inertia of the last step" not in facts(text)
    assert list(sections(made(model, tmp_path))) == ["model", "sizes", "view", "gaps"]


def test_equal_centers_and_the_widest_range_of_values_have_a_page(tmp_path):
    for name, centers in {
        "equal": np.ones((6, 3), np.float32),
        "wide": np.array([[0, 0], [1e-30, 0], [3e38, -3e38], [1, 1e20]], np.float32),
    }.items():
        model = ModelDir.at(str(tmp_path / name), {}, 5)
        model.save(FitState(centers, np.array([10**12, *range(len(centers) - 1)])))

        assert list(sections(made(model, tmp_path))) == ["model", "sizes", "view", "gaps"]


def test_many_centers_are_drawn_in_little(tmp_path):
    model = ModelDir.at(str(tmp_path / "model"), {}, 5)
    centers = np.random.default_rng(0).normal(size=(2000, 3)).astype(np.float32)
    model.save(FitState(centers, np.arange(2000)))

    assert len(made(model, tmp_path)) < 400_000


def test_the_same_model_and_data_make_the_same_page(model, data, page, tmp_path):
    again = made(model, tmp_path, data, show="text")

    day = r"\d{4}-\d\d-\d\d"
    assert re.sub(day, "", again) == re.sub(day, "", page)


# --- places and errors ---------------------------------------------------------------------------


def test_model_data_and_page_may_be_on_any_store(data):
    root = f"memory://{uuid.uuid4().hex}"
    model = fitted(root, num_clusters=3)
    put_table(f"{root}/data?sig=secret", "x.parquet", table_of())

    write_report(model, f"{root}/pages/report.html", [f"{root}/data?sig=secret/x.parquet"])

    with fsspec.open(f"{root}/pages/report.html") as file:
        text = file.read().decode()
    assert facts(text)["model"] == f"{root}/model"
    assert facts(text)["data"] == f"{root}/data?***"


def test_wrong_calls_say_what_is_wrong(model, data, tmp_path):
    put_array(tmp_path, "wide.npy", np.zeros((5, 9), np.float32))
    put_array(tmp_path, "bare.npy", X)
    put_array(tmp_path, "none.npy", X[:0])
    nothing = ModelDir.at(str(tmp_path / "nothing"), {}, 5)

    def fails(error, match, *args, **kwargs):
        with pytest.raises(error, match=match):
            made(*args, **kwargs)

    bare = [str(tmp_path / "bare.npy")]
    fails(NotFittedError, "there is no model in", nothing, tmp_path)
    fails(DataError, "9 features and the model", model, tmp_path, [str(tmp_path / "wide.npy")])
    fails(
        ConfigError,
        r"^show='x': columns \['x'\] are not in .*'text'",
        model,
        tmp_path,
        data,
        show="x",
    )
    fails(ConfigError, r"^show='x': .* no columns", model, tmp_path, bare, show="x")
    fails(ConfigError, "^show='x' has no meaning without data", model, tmp_path, show="x")
    fails(ConfigError, "^columns=.'x'. has no meaning", model, tmp_path, columns=["x"])
    fails(ConfigError, "columns=.'x'. are not in", model, tmp_path, data, columns=["x"])
    fails(NoDataError, "does not exist", model, tmp_path, [str(tmp_path / "no.npy")])
    fails(NoDataError, "no rows", model, tmp_path, [str(tmp_path / "none.npy")])
    assert not (tmp_path / "report.html").exists()


def test_a_page_that_cannot_be_written_is_an_error(model, tmp_path):
    with pytest.raises(StoreError, match="cannot be written"):
        write_report(model, str(tmp_path))


@pytest.mark.parametrize("package", ["matplotlib", "jinja2"])
def test_a_missing_package_is_said_with_the_line_that_installs_it(model, tmp_path, package):
    code = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "from ray_kmeans import cli\n"
        f"cli.main(['report', {model.url!r}, {str(tmp_path / 'report.html')!r}])"
    )

    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )

    assert ended.returncode == 2
    assert "\nerror: a report needs matplotlib and jinja2" in ended.stderr
    assert package in ended.stderr.split("(")[1]
    assert ended.stderr.endswith("Run in a clone of ray-kmeans: pip install '.[report]'.\n")


def test_the_command_makes_the_page_and_says_where_it_is(model, data, page, tmp_path, capsys):
    path = str(tmp_path / "report.html")

    cli.main(["report", model.url, path, "--data", *data, "--columns", "vector", "--show", "text"])

    assert capsys.readouterr().out == f"report: {path}\n"
    assert table(Path(path).read_text(), "examples") == table(page, "examples")


@pytest.mark.parametrize("num_clusters", [1, 3, 60])
def test_the_page_shows_the_figures_of_an_evaluation(tmp_path, num_clusters):
    model = fitted(tmp_path, num_clusters=num_clusters)
    km = KMeansClustering(num_clusters, model.url, config=HERE)
    found = km.evaluation(X, borders=(5.0,))
    quality = found.quality
    (tmp_path / "e.json").write_text(json.dumps(found.figures()))

    text = made(model, tmp_path, evaluation=str(tmp_path / "e.json"))

    told = dict(table(text, "quality"))
    assert number(told["inertia"]) == pytest.approx(quality.inertia, rel=1e-5)
    for name, value in {
        "mean silhouette": quality.silhouette,
        "Davies-Bouldin (lower is better)": quality.davies_bouldin,
        "Calinski-Harabasz (higher is better)": quality.calinski_harabasz,
        "share of rows within 5 % of a border": (quality.near_border or {}).get(5.0),
    }.items():
        shown = told.get(name, "not defined")
        is_same = (
            shown == "not defined"
            if value is None
            else number(shown) == pytest.approx(value, rel=1e-4)
        )
        assert is_same, name
    lines = table(text, "clusters")
    assert [int(line[0]) for line in lines] == quality.by_loss(50).tolist()
    assert number(lines[0][2]) == pytest.approx(quality.cluster_inertia.max(), rel=1e-5)
    is_drawn = sections(text)["quality"].find(".//svg") is not None
    assert is_drawn == (num_clusters > 1)


def test_an_evaluation_of_another_model_is_refused(model, tmp_path):
    other = fitted(tmp_path, num_clusters=3)
    km = KMeansClustering(3, other.url, config=HERE)
    for name, quality in {"of 3": True, "bare": False}.items():
        (tmp_path / name).write_text(json.dumps(km.evaluation(X, quality=quality).figures()))
    (tmp_path / "none").write_bytes(b"[" * 100_000)

    no_figures = dict.fromkeys(("bare", "none"), "no figures")
    for name, match in {"of 3": "of 3 clusters", **no_figures}.items():
        with pytest.raises(ConfigError, match=match):
            made(model, tmp_path, evaluation=str(tmp_path / name))
    with pytest.raises(StoreError, match="cannot be read"):
        made(model, tmp_path, evaluation=str(tmp_path / "missing"))


def test_the_command_of_the_guide_is_understood(monkeypatch):
    guide = (Path(__file__).parents[2] / "docs" / "guides" / "report.md").read_text()
    [command] = re.findall(r"^ +ray-kmeans (report .*)$", guide, re.MULTILINE)
    seen = []
    monkeypatch.setitem(cli.COMMANDS, "report", cli.Command(cli.report.Report, seen.append))

    cli.main(command.split())

    [flags] = seen
    assert flags.output.endswith(".html")
    assert flags.data
    assert flags.show


# --- in a browser --------------------------------------------------------------------------------

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_a_browser_shows_the_page_and_complains_of_nothing(page, tmp_path):
    (tmp_path / "report.html").write_text(page)
    picture = tmp_path / "picture.png"

    ended = subprocess.run(
        [
            CHROMIUM,
            *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
            *(f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr"),
            *("--window-size=700,2500", f"--screenshot={picture}"),
            (tmp_path / "report.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    assert "CONSOLE" not in ended.stderr
    pixels = matplotlib.image.imread(picture)[..., :3]
    assert pixels.shape[:2] == (2500, 700)
    inked = (pixels != pixels[0, 0]).any(axis=2)
    assert 0.02 < inked.mean() < 0.5
    assert inked.any(axis=1)[:2000].mean() > 0.3  # from the top on, not a line somewhere


def record(began, **about):
    """Return the record of a run of two steps."""
    spans = [Span(1, 1, 0.5, 0.25, 0.125), Span(2, 1, 1.5, 0.25, 0.125)]
    return bytes(RunRecord(began, workers=3, rows=300, spans=spans, **about))


def test_the_page_tells_the_time_the_plan_and_the_failures_of_all_runs(tmp_path):
    model = fitted(tmp_path, num_clusters=3)
    [own] = Path(model.url, "runs").iterdir()
    own.unlink()
    later = record(
        "2026-02-02T10:00:00+00:00",
        survived=["10:00:07 worker 2 was lost"],
        planned_bytes=700 * 2**20,
        planned_rows=100,
        peak_bytes=512 * 2**20,
        reading=2.0,
    )
    Path(model.url, "runs", "b.json").write_bytes(record("2026-02-01T10:00:00+00:00"))
    Path(model.url, "runs", "a.json").write_bytes(later)
    Path(model.url, "runs", "c.json").write_bytes(b"no record")
    Path(model.url, "runs", "d.json").write_bytes(b"[" * 100_000)
    Path(model.url, "runs", "e.json").mkdir()
    for name in (".DS_Store", "._a.json", ".nfs01", "notes.txt"):
        Path(model.url, "runs", name).write_bytes(b"theirs")

    text = made(model, tmp_path)

    first, second = table(text, "time")
    assert (first[0], second[0]) == ("2026-02-01 10:00:00", "2026-02-02 10:00:00")
    assert list(map(number, second[1:8])) == [3, 2, 2, 0, 2, 0.5, 0.25]
    plan = dict(table(text, "plan"))
    assert number(plan["planned MiB of a worker at most"]) == 700
    assert number(plan["measured MiB of a worker at most"]) == 512
    assert number(plan["rows read for each second"]) == 150
    assert table(text, "survived") == [["2026-02-02", "10:00:07 worker 2 was lost"]]


def test_a_model_without_records_of_runs_has_a_page_without_these_sections(tmp_path):
    model = fitted(tmp_path, num_clusters=3)
    shutil.rmtree(Path(model.url, "runs"))

    assert list(sections(made(model, tmp_path))) == OF_MODELS


@pytest.mark.parametrize("size", [2**63 - 1, 2**62, 1e20])
def test_sizes_between_which_floats_have_no_room_are_drawn(size):
    assert f"from {size:,.6g}" in figures.draw_histogram("sizes", np.array([size] * 5), "rows").alt
