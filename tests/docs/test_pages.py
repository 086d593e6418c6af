"""What README and docs/ show is run, or read by the program that would run it; so are numbers."""

from __future__ import annotations

import ast
import inspect
import json
import logging
import os
import re
import runpy
import shlex
import sys
from dataclasses import fields
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

import ray_kmeans
from ray_kmeans import (
    KMeansClustering,
    RunConfig,
    cli,
    errors,
    serving,
)
from ray_kmeans.algorithm.row_counts import rows_of
from ray_kmeans.data.sharding import cut, split
from ray_kmeans.data.worker_memory import Footprint
from ray_kmeans.serving import requests
from ray_kmeans.text.quantities import format_bytes
from ray_kmeans.workflows import predict_in_memory

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
FILES = [path for path in sorted(DOCS.rglob("*.md")) if "_build" not in path.parts]
ALL_PAGES = {str(path.relative_to(DOCS).with_suffix("")): path.read_text() for path in FILES}
"""Text of each page by its path without the suffix."""
PAGES = {name: text for name, text in ALL_PAGES.items() if not name.startswith("internals/")}
"""Pages whose code is run; those on internals draw."""
README = (ROOT / "README.md").read_text()
RESULTS = (ROOT / "benchmarks" / "RESULTS.md").read_text()
EXTRAS = re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)


# --- what a page shows -------------------------------------------------------------------------


def blocks_of(page):
    """Return (kind, text) of all that is shown as code, in order; 'sh' for what is indented."""
    found = []
    fences = r"^```([^\n`]*)\n(.*?)^```$"
    for shown in re.finditer(rf"{fences}|\n\n((?:    [^\n]+\n)+)", page, re.DOTALL | re.MULTILINE):
        kind, fenced, indented = shown.groups()
        found.append((kind, fenced) if indented is None else ("sh", indented))
    return found


def commands_of(text):
    return [line.strip() for line in text.replace("\\\n", " ").splitlines() if line.strip()]


PARSING = {name: command._replace(run=lambda flags: None) for name, command in cli.COMMANDS.items()}
"""The commands, which take their flags and do nothing."""


class Checker:
    """Runs what a page shows, or lets the program that would run it read it."""

    def __init__(self, monkeypatch):
        self._patch = monkeypatch
        self.names = {}

    def check(self, kind, text):
        if kind == "python":
            exec(compile(text, "page", "exec"), self.names)
        elif kind == "python elsewhere":  # of a library that is not here
            ast.parse(text)
        elif kind == "sh":
            for command in commands_of(text):
                self.command(shlex.split(command))
        elif kind == "yaml":
            check_config(yaml.safe_load(text))
        elif not kind.startswith("{"):  # Sphinx runs these
            assert kind == "text", f"what is to be done with a block of {kind!r}?"

    def command(self, words):
        program, *args = words
        checks = {
            "ray-kmeans": self.ray_kmeans,
            "python": self.job,
            "ray": self.submit,
            "serve": check_serve,
            "pip": check_pip,
            "curl": lambda args: requests.rows_in(args[args.index("-d") + 1].encode()),
            "export": lambda args: args,
        }
        checks[program](args)

    def ray_kmeans(self, args):
        if any("://" in arg for arg in args):
            with self._patch.context() as patch:  # its flags are read, and nothing runs
                patch.setattr(cli, "COMMANDS", PARSING)
                cli.main(args)
        else:
            alone = args[0] in ("report", "import-centers", "export")
            cli.main([*args, *([] if alone else ["--num-workers", "0"])])

    def job(self, args):
        script = Path(args[0]).name
        with self._patch.context() as patch:
            patch.setattr(cli, "COMMANDS", PARSING)
            patch.setattr(sys, "argv", [script, *args[1:]])
            runpy.run_path(str(ROOT / "jobs" / script), run_name="__main__")

    def submit(self, args):
        from ray.dashboard.modules.job.cli import job_cli_group

        assert args[:2] == ["job", "submit"]
        where, command = args[2 : args.index("--")], args[args.index("--") + 1 :]
        context = job_cli_group.commands["submit"].make_context("submit", [*where, "--", "x"])
        json.loads(context.params["runtime_env_json"] or "{}")
        self.command(command)


def check_serve(args):
    from ray.serve.scripts import cli as serve_cli

    context = serve_cli.commands[args[0]].make_context(args[0], args[1:])
    if args[0] == "run":
        given = dict(word.split("=", 1) for word in context.params["arguments"])
        check_builder(context.params["config_or_import_path"], given)


def check_builder(import_path, args):
    assert import_path == f"{serving.__name__}:{serving.builder.__name__}"
    assert set(args) <= set(serving.ARGUMENTS)
    assert "model_dir" in args


def check_config(config):
    from ray.serve.schema import ServeDeploySchema

    [app] = ServeDeploySchema(**config).applications
    check_builder(app.import_path, app.args)
    [deployment] = app.deployments
    assert (deployment.name, list(deployment.user_config)) == ("nearest", ["checkpoint_path"])


def check_pip(args):
    named = re.findall(r"\[(.+?)\]", args[-1])
    assert {each for names in named for each in names.split(",")} <= set(EXTRAS) | {"default"}


@pytest.fixture
def at_work(tmp_path, monkeypatch):
    """A folder with the data that the pages name."""
    rng = np.random.default_rng(8)
    x = rng.normal(size=(20, 8))[rng.integers(0, 20, 2000)] * 4 + rng.normal(size=(2000, 8))
    rows = pa.FixedSizeListArray.from_arrays(pa.array(x.astype(np.float32).ravel()), 8)
    table = pa.table({"id": np.arange(2000), "category": np.arange(2000) % 7, "embedding": rows})
    pq.write_table(table, tmp_path / "vectors.parquet", row_group_size=500)
    monkeypatch.chdir(tmp_path)
    level = logging.getLogger("ray_kmeans").level
    yield Checker(monkeypatch)
    logging.getLogger("ray_kmeans").setLevel(level)


ON_RAY = [name for name in PAGES if "import ray.data" in PAGES[name]]


@pytest.mark.parametrize("name", [name for name in PAGES if name not in ON_RAY])
def test_what_a_page_shows_runs(name, at_work):
    if any(kind == "python" and "import faiss" in text for kind, text in blocks_of(PAGES[name])):
        faiss = pytest.importorskip("faiss", reason="faiss-cpu is not installed")
        faiss.omp_set_num_threads(1)  # its threads would wait for one another on a busy machine
    for kind, text in blocks_of(PAGES[name]):
        at_work.check(kind, text)
    if name == "migrating":
        check_that_both_sides_agree(at_work.names)


@pytest.mark.long
@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("name", ON_RAY)
def test_what_a_page_shows_runs_on_ray(name, at_work):
    import ray.data

    ray.data.DataContext.get_current().enable_progress_bars = False
    shown = blocks_of(PAGES[name])
    assert {"sh", "python", "yaml"} <= {kind for kind, _ in shown}

    for kind, text in shown:
        at_work.check(kind, text)

    by_ray_data = pq.read_table("by-ray-data").sort_by("id")
    assert by_ray_data["cluster_idx"].to_pylist() == labels_in("labelled")


def labels_in(folder):
    return pq.read_table(folder).sort_by("id")["cluster_idx"].to_pylist()


def check_that_both_sides_agree(names):
    """Compare what the examples of migrating.md left: the first ones, and the last of each name."""
    np.testing.assert_array_equal(names["labels"], names["our_labels"])
    np.testing.assert_allclose(names["centers_of_sklearn"], names["our_centers"], rtol=1e-4)
    np.testing.assert_allclose(names["loss"], names["our_loss"], rtol=1e-5)
    theirs, ours = names["theirs"], names["ours"]  # of partial_fit
    x = names["x"]
    np.testing.assert_allclose(ours.score(x=x), -theirs.score(x), rtol=0.05)
    assert ours.counts().sum() == len(x) + 20  # the initial centers count as rows
    assert theirs._counts.sum() == len(x)
    by_spark = KMeansClustering(20, "from-spark", distance_metric="cosine", config=names["here"])
    labels = by_spark.predict(x, as_iterable=False)["cluster_idx"]
    assert labels.tolist() == labels_in("labelled-from-spark")
    assert names["their_labels"].tolist() == names["labels"].tolist()
    assert names["labels"].tolist() == labels_in("labelled-by-imported")
    check_the_columns_of_curator(x)


def check_the_columns_of_curator(x):
    table = pq.read_table("by-cluster").sort_by("id")
    config = RunConfig(num_workers=0)
    centers = KMeansClustering(20, "from-curator", distance_metric="cosine", config=config)
    nearest = centers.clusters()[table["centroid"].to_numpy().astype(int)].astype(np.float64)
    units = x / np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)
    l2 = np.linalg.norm(units - nearest, axis=1)
    np.testing.assert_allclose(table["l2_dist_to_cent"].to_numpy(), l2, rtol=1e-3)
    np.testing.assert_allclose(
        table["cosine_dist_to_cent"].to_numpy(), 1 - (units * nearest).sum(axis=1), atol=1e-6
    )


def test_no_example_of_labels_holds_the_distances_of_all_rows_to_all_centers(at_work, monkeypatch):
    """Of 200,000 rows and 1,000 centers these are 2 GB beside the labels."""
    largest = []
    all_of = predict_in_memory.join_batches

    def whole(batches):
        found = all_of(batches)
        largest.append(sum(each.nbytes for each in found.values()))
        return found

    monkeypatch.setattr(predict_in_memory, "join_batches", whole)
    for name in ("migrating", "tuning"):
        for kind, text in blocks_of(PAGES[name]):
            at_work.check(kind, text)

    rows, centers = len(at_work.names["x"]), 20
    assert rows * 8 in largest  # the labels of all
    assert max(largest) < rows * centers * 4 / 2


def test_a_command_that_cannot_be_read_is_found(at_work):
    wrong = [
        "ray-kmeans fit s3://b/v s3://b/m",
        "ray-kmeans fit s3://b/v s3://b/m --num-clusters 3 --nodes 2",
        "ray job submit --address x -- python jobs/fit.py s3://b/v s3://b/m --k 3",
        "serve run ray_kmeans.serving:builder model_dir=m rows=3",
        "serve run ray_kmeans.serving:nothing model_dir=m",
        "pip install '.[serving]'",
        "curl http://127.0.0.1:8000/ -d '{}'",
        "rm -r model",
    ]

    for command in wrong:
        with pytest.raises((SystemExit, AssertionError, KeyError, errors.DataError)):
            at_work.command(shlex.split(command))


# --- operating.md ------------------------------------------------------------------------------

ALLOWED, THREADS = 40 * 2**30, 16
SIZES = [
    (1_000_000, 384, 1_000),
    (10_000_000, 768, 1_000),
    (66_000_000, 768, 1_000),
    (330_000_000, 768, 1_000),
    (100_000_000, 768, 50_000),
    (440_000_000, 512, 50_000),
    (1_000_000_000, 1024, 50_000),
    (50_000_000, 14, 127),
    (500_000_000, 16, 20),
]


@cache
def blocks_of_rows(rows, d):
    return cut("f", [rows], d)


@cache
def largest_shard(rows, d, nodes):
    return max(split(blocks_of_rows(rows, d), nodes), key=rows_of)


def held(rows, d, k, nodes, kept=True, item_bytes=0):
    return Footprint(k, 0, THREADS, kept, item_bytes).of(largest_shard(rows, d, nodes))


def fewest(rows, d, k, **how):
    """Return the fewest nodes that hold the rows, by halving, and what a worker holds there."""
    low, high = 0, 1024
    while high - low > 1:
        middle = (low + high) // 2
        enough = held(rows, d, k, middle, **how) <= ALLOWED
        low, high = (low, middle) if enough else (middle, high)
    return high, held(rows, d, k, high, **how)


def line_of_sizes(rows, d, k):
    nodes, bytes_ = fewest(rows, d, k)
    few, of_few = fewest(rows, d, k, kept=False, item_bytes=2)
    cells = [f"{rows:,}", f"{d:,}", f"{k:,}", str(nodes), format_bytes(bytes_), str(few)]
    cells += [format_bytes(of_few), format_bytes(held(rows, d, k, nodes, kept=False))]
    cells += [format_bytes(4 * k * d), format_bytes(8 * (k * d + k))]
    return f"| {' | '.join(cells)} |"


def test_the_table_of_sizes_is_what_the_plan_says():
    [table] = re.findall(r"\| rows \| columns .*?\n\n", PAGES["operating"], re.DOTALL)

    assert table.strip().splitlines()[2:] == [line_of_sizes(*size) for size in SIZES]


# --- numbers of RESULTS.md ---------------------------------------------------------------------


def rows_of_tables(text):
    """Return the cells of every row of every table, without its head."""
    rows = []
    for before, line in pairwise(["", *text.splitlines()]):
        if line.startswith("| ") and before.startswith("|"):
            rows.append([cell.strip().strip("*") for cell in line.strip("| ").split(" | ")])
    return rows


MEASURED = {
    "tuning": PAGES["tuning"],
    "operating": PAGES["operating"].split("## How long")[1].split("## A run")[0],
}


@pytest.mark.parametrize("page", MEASURED)
def test_a_measured_number_is_one_of_the_results_for_the_same_thing(page):
    measured = rows_of_tables(RESULTS)
    shown = rows_of_tables(MEASURED[page])
    assert shown

    for thing, *numbers in shown:
        known = {cell for row in measured if thing in row for cell in row}
        assert set(numbers) - known == set(), thing


@pytest.mark.parametrize("page", MEASURED)
def test_a_large_number_in_the_text_is_in_the_results(page):
    numbers = set(re.findall(r"\b\d{1,3}(?:,\d{3})+\b", MEASURED[page]))

    assert {number for number in numbers if number not in RESULTS} == set()


# --- failures.md -------------------------------------------------------------------------------


@cache
def sentences():
    """Return the parts of each long text of the package, and a pattern with anything between."""
    patterns = []
    for path in (ROOT / "ray_kmeans").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            texts = [part.value if isinstance(part, ast.Constant) else None for part in parts]
            plain = [text for text in texts if isinstance(text, str)]
            if sum(map(len, plain)) >= 30:
                known = [".*" if text is None else re.escape(str(text)) for text in texts]
                patterns.append((plain, "".join(known)))
    return patterns


def said(text):
    cause = re.sub(r"^\w+: ", "", text)  # a source says what is wrong, its caller of which argument
    return any(
        all(part in each for part in parts) and re.fullmatch(pattern, each, re.DOTALL)
        for parts, pattern in sentences()
        for each in (text, cause)
    )


ERROR_TEXTS = [text.strip() for kind, text in blocks_of(PAGES["failures"]) if kind == "text"]


@pytest.mark.parametrize("text", ERROR_TEXTS, ids=lambda text: text[:30])
def test_an_error_on_the_page_is_one_that_the_package_raises(text):
    assert said(text)
    assert not said(text.replace(".", "!"))


def test_the_budget_on_the_page_is_that_of_the_plan():
    needed = held(12_500_000, 768, 1_000, 1)

    detail = "12,500,000 rows x 768 float32 and 1,000 centers"
    assert str(errors.BudgetError(needed, ALLOWED, detail)) in ERROR_TEXTS


def test_every_error_with_a_sentence_of_its_own_is_on_the_page():
    named = set(re.findall(r"\*\*(\w+Error)\b", PAGES["failures"]))
    classes = {n: c for n, c in vars(errors).items() if isinstance(c, type)}
    of_their_own = {name for name, each in classes.items() if "sentence" in vars(each)}

    assert named <= set(classes)
    assert of_their_own - named == {"RayKMeansError"}  # the others tell all there is to do


# --- migrating.md ------------------------------------------------------------------------------


def table_after(heading):
    section = PAGES["migrating"].split(f"## {heading}\n")[1].split("\n## ")[0]
    return rows_of_tables(section)


def test_every_parameter_of_scikit_learn_has_a_row_and_ours_exist():
    from sklearn.cluster import KMeans

    rows = table_after("scikit-learn: KMeans")
    ours = set(signature_of(KMeansClustering)) | {"score"}
    ours |= set(signature_of(KMeansClustering.fit)) | {each.name for each in fields(RunConfig)}

    assert {theirs.strip("`") for theirs, *_ in rows} == set(signature_of(KMeans))
    named = {name for _, here, *_ in rows for name in re.findall(r"`(\w+)`|(\w+)=", here)}
    assert {"".join(pair) for pair in named} - ours == set()


def signature_of(function):
    return [name for name in inspect.signature(function).parameters if name != "self"]


# --- README.md and the way through the pages ---------------------------------------------------


def test_what_the_readme_shows_runs(at_work, monkeypatch):
    monkeypatch.setattr(cli, "COMMANDS", PARSING)
    for kind, text in blocks_of(README):
        if kind == "python":
            at_work.check(kind, text)
    lines = README.replace("\\\n", "")
    for command in re.findall(r"^ *(ray(?:-kmeans)? .*)$", lines, re.MULTILINE):
        program, *args = shlex.split(command)
        (cli.main if program == "ray-kmeans" else at_work.submit)(args)

    assert len(pq.read_table("labelled")) == 2000


def test_the_readme_fits_on_two_screens():
    assert len(README.splitlines()) <= 120


SECTIONS = {"none of these": "Without any unit"}
"""Section of the results by processor, where it does not begin with the processor's name."""


def test_the_speeds_in_the_readme_are_those_of_the_results():
    shown = rows_of_tables(README.split("## Speed")[1].split("\n## ")[0])
    assert any(float(cell) < 1 for row in shown for cell in row[3:-1]), "a table without losses"

    for processor, rows, *figures in shown:
        section = RESULTS.split(f"\n### {SECTIONS.get(processor, processor)}")[1]
        measured = rows_of_tables(section.split("\n### ")[0])
        assert [row[2:7] for row in measured if row[:2] == [rows, "wall"]] == [figures]


def test_the_promises_of_the_readme_are_figures_of_the_results():
    promises = README.split("What it is **not**")[0]
    kills = re.findall(r"^\| kill .*, SIGKILL \| (\d+) \|", RESULTS, re.MULTILINE)
    names = re.findall(r"^\| `(.+?)` \| .*tests/", PAGES["migrating/tensorflow"], re.MULTILINE)

    assert f"{sum(map(int, kills))} SIGKILLs" in promises
    assert f"{sum(len(row.split(', ')) for row in names)} parameters" in promises
    for figure in ("485,404", "154,976", "1.32", "2.59", "0.87", "1.17", "5.24"):
        assert figure in promises
        assert re.search(rf"\b{figure}\b", RESULTS), figure
    assert "330,000,000 | 768 | 1,000 | 32 | 38.9 GiB" in PAGES["operating"]


def listed_below(page):
    """Return the pages that a page's tables of contents list, by their paths without the suffix."""
    found = set()
    for body in re.findall(r"^:::\{toctree\}\n(.*?)^:::$", ALL_PAGES[page], re.M | re.S):
        folder = (DOCS / page).parent
        entries = [line for line in body.splitlines() if line and not line.startswith(":")]
        found |= {os.path.relpath(folder / entry, DOCS) for entry in entries}
    return found


def test_every_page_is_reached_from_the_first_one():
    reached, new = set(), {"index"}
    while new:
        reached |= new
        new = set().union(*map(listed_below, new)) - reached

    assert reached == set(ALL_PAGES)


def test_every_public_name_is_in_the_reference():
    pages = "".join(text for name, text in ALL_PAGES.items() if name.startswith("reference/"))
    named = set(re.findall(r":: ray_kmeans\.(\w+)$", pages, re.MULTILINE))

    assert set(ray_kmeans.PUBLIC) - named == set()


@pytest.mark.parametrize(
    "path", [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *FILES], ids=str
)
def test_a_link_leads_to_a_file_and_a_heading(path):
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)", path.read_text()):
        if "://" in target:
            continue
        linked = (path.parent / target).resolve() if target else path
        assert linked.exists(), target
        if anchor:
            heads = re.findall(r"^#+ (.+)$", linked.read_text(), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}
            assert anchor in slugs, anchor
