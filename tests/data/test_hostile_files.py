"""Whatever a file holds: rows as it says, or a DataError that names it, in little memory."""

from __future__ import annotations

import io
import json
import re
import struct
import tracemalloc
import uuid
import zipfile
from contextlib import contextmanager

import fsspec
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ray_kmeans.errors import ConfigError, DataError
from ray_kmeans.io.ranges import Ranges
from tests.support import vectors
from tests.support.files import in_blocks

ROWS = 30
MATRIX = np.random.default_rng(0).integers(0, 100, size=(ROWS, 3))
MOST_BYTES = 2_000_000
"""Held at once while a file of some hundred bytes is read; most is for threads and zlib."""
LONG = 2**60
SUFFIXES = st.sampled_from(list(vectors.FORMATS))

quick = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(params=["local", "memory"])
def root(request, tmp_path):
    return f"file://{tmp_path}" if request.param == "local" else f"memory://{uuid.uuid4().hex}"


def whole(suffix):
    kind, write = vectors.FORMATS[suffix]
    return write(MATRIX.astype(kind)), MATRIX.astype(kind).astype(np.float32)


def read(root, name, data):
    """Return the rows of a file of these bytes, all read in little memory."""
    fs, path = fsspec.url_to_fs(f"{root}/{name}")
    fs.pipe_file(path, bytes(data))
    with little_memory():
        source = in_blocks(f"{root}/{name}", 8)
        return [rows for _, rows in source.read(source.describe().blocks)]


@contextmanager
def little_memory():
    tracemalloc.start()
    try:
        yield
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < MOST_BYTES


def rows_or_refusal(root, name, data):
    """Return the rows, or the message of the error; any other error goes on."""
    try:
        return read(root, name, data), ""
    except DataError as error:
        return [], str(error)


def is_refused(root, name, data, text="."):
    _, message = rows_or_refusal(root, name, data)
    assert name in message
    assert re.search(text, message)
    assert "\n" not in message


@quick
@given(SUFFIXES, st.data())
def test_a_file_that_is_cut_off_anywhere_is_an_error_that_names_it(root, suffix, data):
    content, rows = whole(suffix)
    length = data.draw(st.integers(0, len(content) - 1))
    a_row = 4 + content[0] * np.dtype(vectors.FORMATS[suffix][0]).itemsize

    if suffix.endswith("vecs") and length and length % a_row == 0:  # nothing tells how many rows
        part = np.vstack(read(root, f"x{suffix}", content[:length]))
        np.testing.assert_array_equal(part, rows[: length // a_row])
    else:
        is_refused(root, f"x{suffix}", content[:length])


@quick
@given(SUFFIXES, st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 255)), max_size=3))
def test_a_file_whose_bytes_are_flipped_is_another_file_or_an_error(root, suffix, flips):
    content, rows = whole(suffix)
    damaged = bytearray(content)
    for at, mask in flips:
        damaged[at % len(content)] ^= mask

    parts, message = rows_or_refusal(root, f"x{suffix}", damaged)

    assert sum(part.size for part in parts) <= 8 * rows.size
    if damaged == content:
        np.testing.assert_array_equal(np.vstack(parts), rows)
    assert message == "" or f"x{suffix}" in message


@quick
@given(SUFFIXES, st.integers(0, 150), st.integers(1, 255))
def test_a_header_whose_bytes_are_flipped_is_another_header_or_an_error(root, suffix, at, mask):
    test_a_file_whose_bytes_are_flipped_is_another_file_or_an_error.hypothesis.inner_test(
        root, suffix, [(at, mask)]
    )


@quick
@given(SUFFIXES, st.binary(max_size=300))
def test_a_file_of_any_bytes_is_an_error_or_rows(root, suffix, content):
    _, message = rows_or_refusal(root, f"x{suffix}", content)

    assert message == "" or f"x{suffix}" in message


SIZES = st.one_of(st.integers(-(2**70), 2**70), st.sampled_from([LONG, -1, 0, 2**31, 2**63, 2**64]))


def npy_of_shape(shape, values=b""):
    header = str({"descr": "<f4", "fortran_order": False, "shape": tuple(shape)})
    text = header.ljust(117 + 64 * (len(header) > 117)) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode() + values


def tensor_of_shape(shape, values=b"", begin=0, end=None):
    offsets = [begin, len(values) if end is None else end]
    header = {"x": {"dtype": "F32", "shape": list(shape), "data_offsets": offsets}}
    return vectors.tensors(header, values)


def zipped(content, name="x.npy", deflated=False):
    file = io.BytesIO()
    method = zipfile.ZIP_DEFLATED if deflated else zipfile.ZIP_STORED
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr(name, content)
    return file.getvalue()


WITH_SHAPE = {
    "x.npy": npy_of_shape,
    "x.npz": lambda shape, values: zipped(npy_of_shape(shape, values)),
    "y.npz": lambda shape, values: zipped(npy_of_shape(shape, values), deflated=True),
    "x.safetensors": tensor_of_shape,
}


@pytest.mark.parametrize("name", WITH_SHAPE)
@quick
@given(SIZES, SIZES)
@example(-2, -3)
@example(LONG, 1)
@example(1, LONG)
@example(LONG, LONG)
def test_a_header_that_promises_any_shape_is_compared_with_the_file(root, name, rows, features):
    if (rows, features) in ((2, 3), (3, 2), (1, 6), (6, 1)) or (rows == 0 and features > 0):
        return

    is_refused(root, name, WITH_SHAPE[name]((rows, features), bytes(24)))


@pytest.mark.parametrize("name", WITH_SHAPE)
def test_a_header_that_tells_the_truth_is_believed(root, name):
    values = np.arange(6, dtype="<f4")

    [rows] = read(root, name, WITH_SHAPE[name]((2, 3), values.tobytes()))

    np.testing.assert_array_equal(rows, values.reshape(2, 3))


@quick
@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_a_matrix_of_big_ann_of_another_size_is_refused(root, rows, features):
    if rows * features != 6 and features:
        is_refused(
            root, "x.fbin", struct.pack("<II", rows, features) + bytes(24), "has 24 bytes for"
        )


@pytest.mark.parametrize("rows", [0, 5, 2**32 - 1])
def test_a_matrix_of_big_ann_without_a_feature_is_refused(root, rows):
    is_refused(root, "x.fbin", struct.pack("<II", rows, 0), "rows of no feature")


def test_a_matrix_of_big_ann_by_the_name_of_another_type_is_refused(root):
    content = vectors.big_ann(MATRIX.astype(np.float32))

    is_refused(root, "x.u8bin", content, "name of another number type")


@quick
@given(st.integers(-(2**31), 2**31 - 1))
@example(-1)
@example(-5)
@example(0)
def test_vectors_of_any_other_length_are_refused(root, length):
    content = bytearray(vectors.vecs(MATRIX.astype(np.float32)))
    content[:4] = struct.pack("<i", length)
    if length != 3:
        is_refused(root, "x.fvecs", content, f"first row of {length:,} float32|features where")


@quick
@given(st.integers(0, ROWS - 1), st.integers(-(2**31), 2**31 - 1), st.sampled_from("fbi"))
def test_a_row_of_another_length_is_named(root, row, length, kind):
    suffix = f".{kind}vecs"
    dtype, write = vectors.FORMATS[suffix]
    content = bytearray(write(MATRIX.astype(dtype)))
    at = row * len(content) // ROWS
    content[at : at + 4] = struct.pack("<i", length)

    if length != 3:
        text = f"row {row} of .* has {length} features" if row else "first row of|features where"
        is_refused(root, f"x{suffix}", content, text)


@pytest.mark.parametrize("version", [(0, 0), (4, 0), (1, 1)])
def test_a_version_of_npy_that_nobody_knows_is_refused(root, version):
    content = bytearray(npy_of_shape((2, 3), bytes(24)))
    content[6:8] = bytes(version)

    is_refused(root, "x.npy", content, r"nobody knows version \(")


def test_a_remote_file_has_no_byte_before_its_first():
    file = Ranges(lambda begin, end: bytes(end - begin), 10)

    with pytest.raises(OSError, match="no byte -1"):
        file.seek(-11, io.SEEK_END)

    assert file.tell() == 0
    assert file.read() == bytes(10)


class TestSafetensors:
    @quick
    @given(st.integers(0, 2**64 - 1))
    def test_a_header_of_any_other_length_is_refused(self, root, length):
        content, _ = whole(".safetensors")
        if length != int.from_bytes(content[:8], "little"):
            is_refused(root, "x.safetensors", struct.pack("<Q", length) + content[8:])

    @quick
    @given(SIZES, SIZES)
    def test_offsets_of_any_other_place_are_refused(self, root, begin, end):
        if (begin, end) != (0, 24):
            is_refused(root, "x.safetensors", tensor_of_shape((2, 3), bytes(24), begin, end))

    @quick
    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=4)
                | st.dictionaries(
                    st.sampled_from(["x", "dtype", "shape", "data_offsets", "__metadata__"]), inner
                )
            ),
            max_leaves=12,
        )
    )
    def test_any_other_json_is_refused(self, root, header):
        is_refused(root, "x.safetensors", vectors.tensors(header))

    @pytest.mark.parametrize("text", [b"[" * 100_000, b'{"x":' * 100_000, b"9" * 10_000, b"\xff{}"])
    def test_a_header_that_json_cannot_read_is_refused(self, root, text):
        is_refused(root, "x.safetensors", struct.pack("<Q", len(text)) + text)

    @pytest.mark.parametrize("shape", [[2.0, 3], [2, 3.0], [True, 6], ["2", 3], [-2, -3], {}, 6])
    def test_a_shape_that_is_not_of_numbers_is_refused(self, root, shape):
        header = {"x": {"dtype": "F32", "shape": shape, "data_offsets": [0, 24]}}

        is_refused(root, "x.safetensors", vectors.tensors(header, bytes(24)))

    def test_a_gap_between_tensors_is_refused(self, root):
        header = {
            name: {"dtype": "F32", "shape": [1, 2], "data_offsets": [begin, begin + 8]}
            for name, begin in {"x": 0, "y": 12}.items()
        }
        is_refused(root, "x.safetensors", vectors.tensors(header, bytes(20)), "gap")

    def test_values_behind_the_last_tensor_are_refused(self, root):
        content, _ = whole(".safetensors")

        is_refused(root, "x.safetensors", content + b"x", "tensors end at")

    def test_a_header_of_a_hundred_tensors_makes_a_short_message(self, root):
        arrays = {f"tensor {n}": np.ones((1, 2), np.float32) for n in range(1000)}

        with pytest.raises(ConfigError) as caught:
            read(root, "x.safetensors", vectors.safetensors(**arrays))

        assert len(str(caught.value)) < 500


class TestNpz:
    def promise(self, suffix, size, compressed):
        """Return an archive whose directory promises other sizes of its member."""
        content = bytearray(whole(suffix)[0])
        at = content.rfind(b"PK\x01\x02")
        content[at + 20 : at + 28] = struct.pack("<II", compressed, size)
        return content

    @pytest.mark.parametrize("suffix", [".npz", ".deflated.npz"])
    @quick
    @given(st.integers(0, 2**32 - 2), st.integers(0, 2**32 - 2))
    def test_a_directory_that_promises_other_sizes_is_refused(self, root, suffix, size, compressed):
        content, _ = whole(suffix)
        at = content.rfind(b"PK\x01\x02")
        if (compressed, size) != struct.unpack("<II", content[at + 20 : at + 28]):
            is_refused(root, f"x{suffix}", self.promise(suffix, size, compressed))

    def test_a_stored_member_that_promises_more_than_the_file_has_is_refused(self, root):
        content = bytearray(zipped(npy_of_shape((2**26, 3))))
        at = content.rfind(b"PK\x01\x02")
        promised = 128 + 12 * 2**26
        content[at + 20 : at + 28] = struct.pack("<II", promised, promised)

        is_refused(root, "x.npz", content, "promises .* in a file of")

    def test_a_member_that_promises_more_than_deflate_can_pack_is_refused(self, root):
        huge = zipped(npy_of_shape((2**30, 64)), deflated=True)
        at = huge.rfind(b"PK\x01\x02")
        [compressed] = struct.unpack("<I", huge[at + 20 : at + 24])
        damaged = bytearray(huge)
        damaged[at + 24 : at + 28] = struct.pack("<I", 1033 * compressed)

        is_refused(root, "x.npz", damaged, "promises .* out of")

    def test_a_member_with_more_behind_its_rows_is_refused(self, root):
        is_refused(
            root, "x.npz", zipped(npy_of_shape((2, 3), bytes(28))), "has 28 bytes for 2 rows"
        )

    def test_a_member_with_a_password_is_refused(self, root):
        content = bytearray(whole(".npz")[0])
        content[content.rfind(b"PK\x01\x02") + 8] |= 1
        content[6] |= 1

        is_refused(root, "x.npz", content)

    @pytest.mark.parametrize("method", [12, 14, 97])
    def test_another_compression_is_refused(self, root, method):
        content = bytearray(whole(".npz")[0])
        at = content.rfind(b"PK\x01\x02")
        content[at + 10 : at + 12] = struct.pack("<H", method)

        is_refused(root, "x.npz", content, f"method {method}")

    def test_an_archive_without_arrays_is_refused(self, root):
        is_refused(root, "x.npz", zipped(json.dumps({}), name="x.json"), "no two-dimensional array")
