"""The dependency direction, as a test: a wrong import fails here, not in review."""

from __future__ import annotations

import ast
import io
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

from tests.support.syntax import is_text

PACKAGE = Path(__file__).parents[1] / "ray_kmeans"
JOBS = sorted((PACKAGE.parent / "jobs").glob("*.py"))
SOURCES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").strip("."): (
        path.read_text()
    )
    for path in sorted(PACKAGE.rglob("*.py"))
}
"""Text of every module by its name inside the package; the package itself is ''."""

ORDER = [  # packages and root modules, from the bottom; those of one line do not know each other
    {"text", "_version"},
    {"errors"},
    {"config", "process"},
    {"io", "algorithm"},
    {"kernels"},
    {"observe"},
    {"data", "store", "engine", "export", "center_files"},
    {"on_ray", "testing"},
    {"workflows"},
    {"model", "html_report", "predictor", "serving", "sklearn"},
    {"estimator"},
    {"demo", "loading"},
    {"choosing"},
    {"cli", "_public"},
    {""},
]
RANK = {room: rank for rank, rooms in enumerate(ORDER) for room in rooms}
MOST_AT_THE_ROOT = 10
ONLY_IN = {  # who may import a library: a package, or one module of it
    "ray": {"on_ray", "data.datasets.ray", "serving.replica"},
    "starlette": {"serving.replica"},
    "numba": {"process.jit", "kernels.llvm"},
    "llvmlite": {"kernels.cpu_units", "kernels.llvm"},
    "torch": {"kernels.gpu"},
    "triton": {"kernels.gpu.programs", "kernels.gpu.quantize"},
    "threadpoolctl": {"kernels.portable"},
    "fsspec": {"io", "data.listing"},
    "tenacity": {"io"},
    "pyarrow": {"center_files", "data", "store", "demo", "workflows.import_centers", "model"},
    "faiss": {"center_files.faiss_index"},
    "deltalake": {"data.datasets.delta"},
    "lance": {"data.datasets.lance", "center_files.lance_ivf"},
    "zarr": {"data.datasets.zarr"},
    "pytest": {"testing"},
    "sklearn": {"estimator", "sklearn"},
    "scipy": {"sklearn"},
    "tqdm": {"observe.progress"},
    "tyro": {"cli"},
    "yaml": {"cli.config_file"},
    "onnx": {"export.onnx_graph"},
    "tensorflow": {"export.saved_model"},
    "matplotlib": {"html_report.figures"},
    "jinja2": {"html_report.page"},
    "numpy": set(RANK) - {"errors", "_version", "config", "process", "text"},
}
LONGEST_MODULE = 400
LONGEST_FUNCTION = 40


def room_of(module):
    return module.split(".")[0]


def is_in(module, places):
    """Tell whether a module is one of some places, or in a package that is."""
    parts = module.split(".")
    return any(".".join(parts[:depth]) in places for depth in range(1, len(parts) + 1))


def imports_of(text):
    """Yield the full name of all that is imported anywhere in a module, functions included."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute in this package"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                is_module = name.removeprefix("ray_kmeans.") in SOURCES
                yield name if is_module else node.module


def wrong_imports(module, text):
    """Return what this module imports and may not."""
    wrong = []
    for name in imports_of(text):
        library, _, target = name.partition(".")
        if library == "ray_kmeans":
            here, there = room_of(module), room_of(target)
            pure = room_of(module) != "algorithm" or there in ("algorithm", "errors", "process")
            allowed = here == there or (RANK[there] < RANK[here] and pure)
        else:
            places = ONLY_IN.get(library, set())
            allowed = library in sys.stdlib_module_names or is_in(module, places)
        if not allowed:
            wrong.append(name)
    return wrong


@pytest.mark.parametrize("module", SOURCES)
def test_imports_point_down_and_every_library_has_its_room(module):
    assert wrong_imports(module, SOURCES[module]) == []


def test_every_module_has_a_place():
    assert {room_of(module) for module in SOURCES} == set(RANK)


def test_the_root_has_few_modules():
    assert len(list(PACKAGE.glob("*.py"))) <= MOST_AT_THE_ROOT


@pytest.mark.parametrize(
    ("module", "text", "wrong"),
    [
        ("algorithm.lloyd", "def f():\n    import ray", "ray"),
        ("algorithm.lloyd", "from ray_kmeans.config import RunConfig", "ray_kmeans.config"),
        ("algorithm.lloyd", "from ray_kmeans import kernels", "ray_kmeans.kernels"),
        ("kernels.reference", "from numba import njit", "numba"),
        ("algorithm.compiled", "from numba import njit", "numba"),
        ("kernels.cpu", "import torch", "torch"),
        ("kernels.gpu.int8", "import triton.language as tl", "triton.language"),
        ("data.array", "from ray_kmeans.store import lease", "ray_kmeans.store.lease"),
        ("engine.pool", "import ray.util", "ray.util"),
        ("engine.worker", "import ray_kmeans.data.sharding as plan", "ray_kmeans.data.sharding"),
        ("store.lease", "from ray_kmeans.workflows import fit", "ray_kmeans.workflows.fit"),
        ("estimator", "from ray_kmeans import RunConfig", "ray_kmeans"),
        ("estimator", "import pandas", "pandas"),
        ("model", "from ray_kmeans import predictor", "ray_kmeans.predictor"),
    ],
)
def test_a_wrong_import_is_found(module, text, wrong):
    assert wrong_imports(module, text) == [wrong]


def test_nothing_is_imported_by_a_computed_name():
    found = {
        module
        for module, text in SOURCES.items()
        if "importlib" in imports_of(text) or "__import__" in text
    }

    assert found == set()


def test_no_file_is_read_or_written_as_pickle():
    """What a file can make run is nothing; only the tests that sources inherit send pickles."""
    runs_code = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "pandas"}
    calls = [
        (module, ast.unparse(node))
        for module, text in SOURCES.items()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("np.load", "np.save")
    ]

    importing = {m for m, text in SOURCES.items() if runs_code & set(imports_of(text))}
    assert importing == {"testing"}
    assert {module for module, _ in calls} >= {"store.checkpoint"}
    assert [call for _, call in calls if "allow_pickle=False" not in call] == []
    assert [m for m, text in SOURCES.items() if "allow_pickle=True" in text] == []


@pytest.mark.parametrize("job", JOBS, ids=lambda path: path.stem)
def test_a_job_imports_the_command_alone(job):
    assert list(imports_of(job.read_text())) == ["ray_kmeans.cli"]


def run_fresh(code):
    """Run code in an interpreter that has imported nothing yet, and return what it prints."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_importing_the_package_loads_neither_ray_nor_numba_nor_torch_nor_tyro():
    slow = {"ray", "numba", "tyro", "torch", "triton", "sklearn"}

    use = "from ray_kmeans import KMeansClustering"
    loaded = run_fresh(f"{use}; import sys; print(*sorted(sys.modules))").split()

    assert "ray_kmeans.estimator" in loaded
    assert slow & set(loaded) == set()


def test_a_worker_loads_nothing_that_only_a_driver_needs():
    loaded = run_fresh(
        "import ray_kmeans.on_ray.worker_actor, sys; print(*sorted(sys.modules))"
    ).split()

    rooms = {name.split(".")[1] for name in loaded if name.startswith("ray_kmeans.")}
    assert rooms == {
        "_version",
        "algorithm",
        "engine",
        "errors",
        "kernels",
        "on_ray",
        "process",
        "text",
    }


def test_the_package_has_the_names_of_its_public_module_and_no_others():
    import ray_kmeans
    from ray_kmeans import _public

    public = {name for name in vars(_public) if not name.startswith("__")}
    assert set(ray_kmeans.PUBLIC) == public
    assert public <= set(dir(ray_kmeans))
    assert all(getattr(ray_kmeans, name) is getattr(_public, name) for name in public)
    with pytest.raises(AttributeError, match="no attribute 'KMeans'"):
        ray_kmeans.KMeans


def test_the_kernel_of_the_cpu_loads_neither_torch_nor_triton():
    loaded = run_fresh(
        "import sys; from ray_kmeans import kernels; kernels.load('cpu')\n"
        "print(*sorted(sys.modules))"
    ).split()

    assert "numba" in loaded
    assert {"torch", "triton"} & set(loaded) == set()


def test_a_model_is_read_where_ray_and_numba_are_not_installed(tmp_path):
    import numpy as np

    from ray_kmeans import KMeansClustering, RunConfig

    here = RunConfig(num_workers=0)
    x = np.arange(8, dtype=np.float32).reshape(4, 2)
    km = KMeansClustering(2, str(tmp_path), x[:2], use_mini_batch=False, config=here).fit(x)

    centers = run_fresh(
        "import sys; sys.modules['ray'] = sys.modules['numba'] = None\n"
        "from ray_kmeans import KMeansClustering\n"
        f"print(KMeansClustering(2, {str(tmp_path)!r}).clusters().tolist())"
    )

    assert centers == str(km.clusters().tolist())


def body_without_docstring(node):
    return [part for part in node.body if not is_text(part)] or node.body


def code_lines(text):
    """Return how many lines hold code: no blank line, no comment, no docstring."""
    skipped = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in skipped | {tokenize.ENDMARKER}:
            lines |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if is_text(node):
            lines -= set(range(node.lineno, node.end_lineno + 1))
    return len(lines)


@pytest.mark.parametrize("module", SOURCES)
def test_a_module_is_short_enough_to_be_read(module):
    assert code_lines(SOURCES[module]) <= LONGEST_MODULE


@pytest.mark.parametrize("module", SOURCES)
def test_a_function_fits_on_a_page(module):
    functions = [
        node
        for node in ast.walk(ast.parse(SOURCES[module]))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]

    lengths = []
    for function in functions:
        body = body_without_docstring(function)
        lengths.append((function.name, body[-1].end_lineno - body[0].lineno + 1))

    assert [(name, n) for name, n in lengths if n > LONGEST_FUNCTION] == []


def test_lines_of_code_are_counted_without_docstrings_and_comments():
    text = '"""A module.\n\nMore.\n"""\n\n# why\nx = (\n    1\n)\n"""A field."""\n'

    assert code_lines(text) == 3
