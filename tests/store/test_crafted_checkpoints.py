"""A checkpoint that is sealed rightly and holds nonsense is refused with the reason, never taken.

Each case is a manifest with a right seal, and files with right hashes: only what they say is wrong.
"""

from __future__ import annotations

import io
import json
import math
import struct
from dataclasses import replace

import numpy as np
import pytest

from ray_kmeans.algorithm.state import FitState
from ray_kmeans.algorithm.tree import Tree
from ray_kmeans.errors import CheckpointError
from ray_kmeans.io import publish
from ray_kmeans.store.model_dir import ModelDir
from tests.support.store_contract import assert_same, full_state, state_at

MINI = replace(full_state(), tree=None)
"""5 clusters of 3 features by cosine distance, by mini-batches, with three lines of history."""
FULL = replace(MINI, accumulators=None)


def npy(array, **more):
    content = io.BytesIO()
    np.save(content, np.asarray(array), **more)
    return content.getvalue()


def with_header(header, values=b"", version=(1, 0)):
    text = header.encode() + b"\n"
    length = struct.pack("<H" if version == (1, 0) else "<I", len(text))
    return b"\x93NUMPY" + bytes(version) + length + text + values


def header(descr="<f4", shape=(5, 3), fortran=False):
    return str({"descr": descr, "fortran_order": fortran, "shape": shape})[:-1] + ", }"


def changed(array, at, value):
    array = array.copy()
    array[at] = value
    return array


class Crafted:
    """A model of two checkpoints: the first is whole, and the second is what a test makes of it."""

    def __init__(self, place, state):
        self.store = ModelDir.at(str(place), {}, 5)
        self.store.save(state_at(1))
        self.path = self.store.save(state)
        self.manifest = publish.unseal(self.read(self.path))
        self.root = self.path.rpartition("/")[0]
        self.names = {name.rpartition("/")[2][:-4]: name for name in self.manifest["files"]}

    def read(self, path):
        return self.store.fs.cat_file(path)

    def array(self, name):
        return np.load(io.BytesIO(self.read(f"{self.root}/{self.names[name]}")))

    def put_file(self, name, content, as_name=None):
        name = as_name or self.names[name]
        publish.put(self.store.fs, f"{self.root}/{name}", content)
        self.manifest["files"][name] = {"size": len(content), "sha256": publish.sha256(content)}

    def seal(self):
        self.store.fs.pipe_file(self.path, publish.seal(self.manifest))


def the_array(name, make):
    """Let an array be another one, or any bytes."""

    def craft(crafted):
        made = make(crafted.array(name))
        crafted.put_file(name, made if isinstance(made, bytes) else npy(made))

    return craft


def the_field(name, value):
    def craft(crafted):
        crafted.manifest[name] = value

    return craft


def the_rows(**values):
    def craft(crafted):
        crafted.manifest["rows"] |= values

    return craft


def the_line(name, value, line=-1):
    def make(history):
        history[name][line] = value
        return history

    return the_array("history", make)


def the_file(name, **values):
    def craft(crafted):
        crafted.manifest["files"][crafted.names[name]] |= values

    return craft


def without(name):
    def craft(crafted):
        del crafted.manifest["files"][crafted.names[name]]

    return craft


def one_more_file(name):
    def craft(crafted):
        crafted.put_file("", npy(np.zeros(3)), as_name=name)

    return craft


NAN, INF = math.nan, math.inf
ARRAYS = {
    "NaN in a center": (the_array("centers", lambda a: changed(a, (0, 0), NAN)), "NaN or inf"),
    "infinity in a center": (the_array("centers", lambda a: changed(a, (4, 2), -INF)), "infinity"),
    "centers of float64": (the_array("centers", lambda a: a.astype("<f8")), "type is '<f8'"),
    "centers of float16": (the_array("centers", lambda a: a.astype("<f2")), "type is '<f2'"),
    "big-endian centers": (the_array("centers", lambda a: a.astype(">f4")), "type is '>f4'"),
    "centers of whole numbers": (the_array("centers", lambda a: a.astype("<i4")), "type is"),
    "complex centers": (the_array("centers", lambda a: a.astype("<c8")), "type is"),
    "centers of text": (the_array("centers", lambda a: a.astype("<U9")), "type is"),
    "centers by columns": (the_array("centers", np.asfortranarray), "no .npy file of rows"),
    "a center less": (the_array("centers", lambda a: a[:-1]), r"counts has shape \(5,\) for 4"),
    "a feature less": (the_array("centers", lambda a: a[:, :-1]), "norm|manifest|sums"),
    "centers in one row": (the_array("centers", lambda a: a.ravel()), "no table"),
    "centers in a cube": (the_array("centers", lambda a: a[None]), "no table"),
    "no center": (the_array("centers", lambda a: a[:0]), "no table"),
    "centers without features": (the_array("centers", lambda a: a[:, :0]), "no table"),
    "a number for centers": (the_array("centers", lambda a: np.float32(1)), "no table"),
    "centers of no unit": (the_array("centers", lambda a: a * np.float32(1.001)), "norm is not 1"),
    "NaN in counts": (the_array("counts", lambda a: changed(a.astype("<f8"), 0, NAN)), "counts"),
    "infinite counts": (the_array("counts", lambda a: changed(a.astype("<f8"), 0, INF)), "counts"),
    "negative counts": (the_array("counts", lambda a: changed(a, 2, -1)), "below 0"),
    "short counts": (the_array("counts", lambda a: a[:-1]), r"counts has shape \(4,\)"),
    "long counts": (the_array("counts", lambda a: np.append(a, 1)), r"counts has shape \(6,\)"),
    "counts in a table": (the_array("counts", lambda a: a[:, None]), "counts has shape"),
    "counts of int32": (the_array("counts", lambda a: (a % 99).astype("<i4")), "type is '<i4'"),
    "unsigned counts": (the_array("counts", lambda a: a.astype("<u8")), "type is '<u8'"),
    "big-endian counts": (the_array("counts", lambda a: a.astype(">i8")), "type is '>i8'"),
    "counts of booleans": (the_array("counts", lambda a: a > 0), "type is"),
    "NaN in sums": (the_array("sums", lambda a: changed(a, (1, 0, 0), NAN)), "sums holds NaN"),
    "infinite sums": (the_array("sums", lambda a: changed(a, (0, 0, 0), INF)), "sums holds NaN"),
    "weights beyond float64": (
        the_array("counts", lambda a: np.full(a.shape, 1.7e308)),
        "more than float64 can sum",
    ),
    "half of the sums": (the_array("sums", lambda a: a[:1]), "sums has shape"),
    "sums of other features": (the_array("sums", lambda a: a[:, :, :2]), "sums has shape"),
    "sums of float32": (the_array("sums", lambda a: (a * 0).astype("<f4")), "type is '<f4'"),
    "sums without counts": (the_array("counts", np.zeros_like), "sums are not 0"),
    "a history of numbers": (the_array("history", lambda a: a["inertia"]), "type is '<f8'"),
    "a history of fewer fields": (
        the_array("history", lambda a: a[["iteration", "rows", "inertia"]].copy()),
        "type is",
    ),
    "a history in a table": (the_array("history", lambda a: a[None]), "cannot be understood"),
    "a big-endian history": (
        the_array("history", lambda a: a.astype(a.dtype.newbyteorder(">"))),
        "type is",
    ),
    "a line that is missing": (the_array("history", lambda a: a[[0, 2]]), "history has a line of"),
    "lines that fall": (the_array("history", lambda a: a[::-1]), "history has a line of"),
    "a line that is there twice": (the_array("history", lambda a: a[[1, 1, 2]]), "history has a"),
    "more lines than steps": (the_array("history", lambda a: a[[0, 0, 1, 2]]), "history has 4"),
    "lines beyond the step": (the_field("iteration", 2), "history|must not fall"),
    "NaN as inertia": (the_line("inertia", NAN), "the inertia nan"),
    "infinite inertia": (the_line("inertia", INF), "the inertia inf"),
    "negative inertia": (the_line("inertia", -1.0), "the inertia -1"),
    "NaN as shift": (the_line("shift", NAN, 0), "the shift nan"),
    "negative shift": (the_line("shift", -1e-9), "the shift -1e-09"),
    "negative rows": (the_line("rows", -1), "-1 rows"),
    "more empty clusters than there are": (the_line("empty", 6), "6 empty clusters"),
    "fewer empty clusters than none": (the_line("empty", -1), "-1 empty clusters"),
    "a digest that is no text": (the_line("digest", b"\xff\xfe"), "cannot be understood"),
}
HEADERS = {
    "3.5 PiB": with_header(header(shape=(10**15, 1))),
    "a shape beyond 64 bits": with_header(header(shape=(2**63, 2**63))),
    "a shape of 2,000 digits": with_header(header(shape=(10**2000, 1))),
    "a negative shape": with_header(header(shape=(-5, -3)), bytes(60)),
    "fewer values than it says": with_header(header(), bytes(56)),
    "more values than it says": with_header(header(), bytes(64)),
    "objects": with_header(header(descr="|O"), bytes(120)),
    "objects, pickled": npy(np.array([[{}]]), allow_pickle=True),
    "no type": with_header(header(descr="")),
    "a type that is a list": with_header(header(descr=[("x", "<f4")]), bytes(60)),
    "column order": with_header(header(fortran=True), bytes(60)),
    "another version": with_header(header(), bytes(60), version=(2, 0)),
    "a deep header": with_header("(" * 9000),
    "a header that is code": with_header("__import__('os').abort()"),
    "a header longer than the file": b"\x93NUMPY\x01\x00\xff\xff" + header().encode() + b"\n",
    "a header shorter than it says": b"\x93NUMPY\x01\x00\x08\x00" + header().encode() + b"\n",
    "no magic": b"hello",
    "nothing": b"",
    "a zip": b"PK\x03\x04" + bytes(100),
}
FIELDS = {
    "an unknown metric": (the_field("distance_metric", "manhattan"), "which nobody knows"),
    "a metric that is a list": (the_field("distance_metric", ["cosine"]), "which nobody knows"),
    "no metric": (the_field("distance_metric", None), "which nobody knows"),
    "another number of clusters": (the_field("num_clusters", 6), "the manifest says"),
    "another number of features": (the_field("num_features", 4), "the manifest says"),
    "a number of clusters with a point": (the_field("num_clusters", 5.0), "the manifest says"),
    "a negative iteration": (the_field("iteration", -1), "no number of steps"),
    "an iteration with a point": (the_field("iteration", 3.0), "no number of steps"),
    "an iteration of text": (the_field("iteration", "3"), "no number of steps"),
    "an iteration that is true": (the_field("iteration", True), "no number of steps"),
    "no iteration": (the_field("iteration", None), "no number of steps"),
    "a huge iteration": (the_field("iteration", 10**30), "no number of steps"),
    "an infinite iteration": (the_field("iteration", INF), "no number of steps"),
    "NaN for began": (the_field("began", NAN), "began is nan"),
    "began after the last step": (the_field("began", 4), "must not fall"),
    "began before its data": (the_field("began", 0), "must not fall"),
    "data of later than began": (the_field("data_since", 3), "must not fall"),
    "a negative data_since": (the_field("data_since", -1), "no number of steps"),
    "data that are no text": (the_field("data", 7), "data is 7, and no text"),
    "asked for a list": (the_field("asked", []), r"asked is \[\], and no text"),
    "an unknown stop": (the_field("stop", "TIRED"), "cannot be understood"),
    "a stop of no letters": (the_field("stop", ""), "cannot be understood"),
    "a stop that is 0": (the_field("stop", 0), "cannot be understood"),
    "a stop that is a list": (the_field("stop", []), "cannot be understood"),
    "mini_batch of one number": (the_field("mini_batch", [4]), "cannot be understood"),
    "mini_batch of text": (the_field("mini_batch", "43"), "mini_batch is"),
    "mini_batch of nothing": (the_field("mini_batch", []), "cannot be understood"),
    "mini_batch that is 0": (the_field("mini_batch", 0), "cannot be understood"),
    "no steps of an iteration": (the_field("mini_batch", [0, 0]), "mini_batch is"),
    "negative steps done": (the_field("mini_batch", [4, -1]), "mini_batch is"),
    "all steps done": (the_field("mini_batch", [4, 4]), "mini_batch is"),
    "steps with a point": (the_field("mini_batch", [4.0, 3]), "mini_batch is"),
    "rows that are a list": (the_field("rows", [1]), "cannot be understood"),
    "rows that are nothing": (the_field("rows", {}), "cannot be understood"),
    "rows with one more key": (the_rows(depth=3), "cannot be understood"),
    "columns that are a number": (the_rows(columns=7), "cannot be understood"),
    "a column that is a number": (the_rows(columns=["a", 2, "c"]), "are no text"),
    "a column twice": (the_rows(columns=["a", "b", "a"]), "names the columns"),
    "more columns than features": (the_rows(columns=["a", "b", "c", "d"]), "names the columns"),
    "a column without a name": (the_rows(columns=["a", "", "c"]), "are no text"),
    "columns that are text": (the_rows(columns="abc"), "must be lists"),
    "columns that are keys": (the_rows(columns={"a": 1}), "must be lists"),
    "filters that are no JSON": (the_rows(filters="x > 1"), "cannot be understood"),
    "filters that are deep": (the_rows(filters="[" * 100_000), "cannot be understood"),
    "filters that are a number": (the_rows(filters="7"), "filters that are no list"),
    "filters by name": (the_rows(filters='{"a": 1}'), "filters that are no list"),
    "a shift that is text": (the_rows(shift="123"), "must be lists"),
    "a shift of texts": (the_rows(shift=["1", "2", "3"]), "must hold numbers"),
    "a shift of yes and no": (the_rows(shift=[True, False, True]), "must hold numbers"),
    "an unknown way of nonfinite": (the_rows(nonfinite="fill"), "which nobody knows"),
    "filters that are a list": (the_rows(filters=[]), "are no text"),
    "a weight that is none": (the_rows(sample_weight=None), "are no text"),
    "a shift of NaN": (the_rows(shift=[0, NAN, 0]), "a shift of 3 values"),
    "a short shift": (the_rows(shift=[0.0]), "a shift of 1 values"),
    "a huge shift": (the_rows(shift=[10**400, 0, 0]), "cannot be understood"),
    "files that are a list": (the_field("files", []), "cannot be understood"),
    "no file": (the_field("files", {}), "cannot be understood"),
    "no counts": (without("counts"), "not those of one checkpoint"),
    "no history": (without("history"), "not those of one checkpoint"),
    "no sums": (without("sums"), "sums is not named"),
    "a file of another name": (one_more_file("data/00000000-00000001-ab/extra.npy"), "extra"),
    "arrays of two checkpoints": (one_more_file("data/00000000-00000000-ab/sums.npy"), "one check"),
    "another size of a file": (the_file("centers", size=7), "bytes, not 7"),
    "a size of text": (the_file("centers", size="188"), "bytes, not"),
    "a hash that is none": (the_file("centers", sha256=None), "is not what was written"),
    "another format": (the_field("format", 3), "its format is 3, not 2"),
    "a format that is text": (the_field("format", "2" * 999), "its format is '2222"),
    "a format that is true": (the_field("format", True), "its format is True"),
}
CASES = {
    **ARRAYS,
    **{
        f"a file of {name}": (the_array("centers", lambda _, c=c: c), ".")
        for name, c in HEADERS.items()
    },
    **FIELDS,
}


def is_refused(crafted, reason):
    """It is an error of one short line that names the file; or it is passed over, if asked for."""
    with pytest.raises(CheckpointError, match=reason) as caught:
        crafted.store.latest()
    assert caught.value.path == crafted.path
    assert len(str(caught.value)) < 1500
    assert "\n" not in str(caught.value)
    with pytest.raises(CheckpointError):
        crafted.store.fitted(crafted.path)
    skipping = replace(crafted.store, skip_damaged=True)
    assert_same(skipping.latest(), state_at(1))


@pytest.mark.parametrize("case", CASES)
def test_nonsense_is_refused_with_the_reason(tmp_path, case):
    craft, reason = CASES[case]
    crafted = Crafted(tmp_path, MINI)

    craft(crafted)
    crafted.seal()

    is_refused(crafted, reason)


def test_a_full_batch_has_no_sums(tmp_path):
    crafted = Crafted(tmp_path, FULL)
    crafted.put_file(
        "", npy(np.zeros((2, 5, 3))), as_name=f"{crafted.names['counts'][:-10]}sums.npy"
    )
    crafted.seal()

    is_refused(crafted, "sums|cannot be understood")


JSON = {
    "deep lists": "[" * 100_000,
    "deep objects": '{"a":' * 100_000,
    "a huge number": "9" * 100_000,
    "a list": "[1]",
    "a text": '"sha256"',
    "NaN": "NaN",
    "nothing": "",
    "no text": "\udcff",
    "deep, but whole": '{"sha256": 1, "a": %s}' % ("[" * 900 + "]" * 900),
}


@pytest.mark.parametrize("text", JSON.values(), ids=JSON)
def test_any_other_json_is_refused(tmp_path, text):
    crafted = Crafted(tmp_path, MINI)
    crafted.store.fs.pipe_file(crafted.path, text.encode(errors="surrogateescape"))

    is_refused(crafted, "the manifest is not what was written")


def test_json_that_is_deep_where_text_belongs_is_refused(tmp_path):
    crafted = Crafted(tmp_path, MINI)
    deep = []
    for _ in range(300):
        deep = [deep]
    crafted.manifest["data"] = deep
    crafted.seal()

    is_refused(crafted, r"data is \[\[\[")


@pytest.mark.parametrize("state", [MINI, FULL, state_at(0)], ids=["mini", "full", "first"])
def test_what_is_crafted_without_a_change_is_the_state(tmp_path, state):
    crafted = Crafted(tmp_path, state)
    for name in crafted.names:
        crafted.put_file(name, npy(crafted.array(name)))
    crafted.manifest["of a later version"] = {"is": "passed over"}
    crafted.seal()

    assert_same(crafted.store.latest(), state)


def test_an_array_that_was_read_can_be_written_to(tmp_path):
    state = Crafted(tmp_path, MINI).store.latest()

    assert all(a.flags.writeable for a in (state.centers, state.counts, state.accumulators.sums))


def test_a_folder_by_the_name_of_an_array_is_refused(tmp_path):
    crafted = Crafted(tmp_path, MINI)
    path = tmp_path / "checkpoints" / crafted.names["counts"]
    path.unlink()
    path.mkdir()

    is_refused(crafted, "is a folder")


def test_centers_by_columns_are_saved_by_rows(tmp_path):
    store = ModelDir.at(str(tmp_path), {}, 5)
    centers = np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3))

    store.save(FitState.initial(centers))

    np.testing.assert_array_equal(store.latest().centers, centers)


def test_every_field_of_a_manifest_is_looked_at(tmp_path):
    """Whatever stands in the place of a value, the model is refused, and never by another error."""
    crafted = Crafted(tmp_path, MINI)
    whole = json.dumps(crafted.manifest)
    for name in set(crafted.manifest) - {"rows"}:
        for value in (None, True, -1, 1.5, NAN, "x", [], {}, [[]], 10**400):
            if (name, value) in [("stop", None), ("data", "x"), ("asked", "x"), ("restarts", [])]:
                continue
            crafted.manifest = {**json.loads(whole), name: value}
            if name in ("mini_batch", "origin", "levels", "sample") and value is None:
                continue
            crafted.seal()
            is_refused(crafted, ".")


def a_tree(tmp_path):
    """Return a crafted checkpoint of five clusters under two, with a level of three between."""
    centers = [np.arange(2 * k, dtype=np.float32).reshape(k, 2) for k in (2, 3, 5)]
    parents = np.array([0, 1, 1], np.int32), np.array([0, 0, 1, 2, 2], np.int32)
    state = replace(FitState.initial(centers[2]), tree=Tree(tuple(centers[:2]), parents))
    return Crafted(tmp_path, state), state


def test_a_tree_comes_back_as_it_was_saved(tmp_path):
    _, state = a_tree(tmp_path)
    found = ModelDir.at(str(tmp_path), {}, 5).latest().tree
    assert found.sizes == (2, 3, 5)
    assert all(map(np.array_equal, found.centers, state.tree.centers))
    assert all(map(np.array_equal, found.parents, state.tree.parents))
    assert found.ancestors(0).tolist() == [0, 0, 1, 1, 1]


@pytest.mark.parametrize("sizes", [[], [2], [2, 4], [2, 2], [3, 2], [0, 5], "23", [2.0, 3.0], None])
def test_levels_that_do_not_fit_the_arrays_are_refused(tmp_path, sizes):
    crafted, _ = a_tree(tmp_path)
    crafted.manifest["levels"] = sizes
    crafted.seal()
    is_refused(crafted, ".")


@pytest.mark.parametrize("parents", [[0, 1, 2, 0, 0, 1, 2, 2], [0, 1, -1, 0, 0, 1, 2, 2]])
def test_parents_that_are_not_there_are_refused(tmp_path, parents):
    crafted, _ = a_tree(tmp_path)
    the_array("parents", lambda _: np.array(parents, np.int32))(crafted)
    crafted.seal()
    is_refused(crafted, "parents that are none of the 2 above")
