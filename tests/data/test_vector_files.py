"""Formats in which people keep vectors, beside Parquet: every row as it was written."""

from __future__ import annotations

import gc
import os
import tracemalloc

import numpy as np
import pytest
import safetensors.numpy

from ray_kmeans.data.opening import open_source
from ray_kmeans.errors import ConfigError, DataError
from ray_kmeans.testing import SourceContract
from tests.support import vectors
from tests.support.files import in_blocks, put, rows_of

WHOLE = np.random.default_rng(0).integers(0, 100, size=(241, 3))
FILES = {"a": 150, "b": 1, "sub/d": 90}  # rows of each


def put_bytes(root, name, data):
    put(root, name, lambda file: file.write(data))


class TestVectorFiles(SourceContract):
    @pytest.fixture(params=vectors.FORMATS)
    def source_and_rows(self, request, root):
        kind, write = vectors.FORMATS[request.param]
        matrix = WHOLE.astype(kind)
        first = 0
        for name, rows in FILES.items():
            put_bytes(root, name + request.param, write(matrix[first : first + rows]))
            first += rows
        return in_blocks(root, 40), matrix.astype(np.float32)


class TestBlocksOfFullSize(SourceContract):
    @pytest.fixture(params=[".fvecs", ".fbin", ".deflated.npz", ".safetensors"])
    def source_and_rows(self, request, root):
        kind, write = vectors.FORMATS[request.param]
        matrix = np.random.default_rng(1).normal(size=(20_000, 2)).astype(kind)
        put_bytes(root, f"x{request.param}", write(matrix))
        return open_source(root), matrix.astype(np.float32)


@pytest.mark.parametrize("suffix", [".fbin", ".npy", ".npz", ".deflated.npz", ".safetensors"])
def test_a_file_of_no_row_is_passed_over(root, suffix):
    kind, write = vectors.FORMATS[suffix]
    put_bytes(root, f"a{suffix}", write(np.ones((0, 3), kind)))
    put_bytes(root, f"b{suffix}", write(np.ones((2, 3), kind)))

    assert rows_of(root).tolist() == [[1, 1, 1], [1, 1, 1]]


def test_vectors_of_several_types_are_several_formats(root):
    put_bytes(root, "base.fvecs", vectors.vecs(np.ones((2, 3), np.float32)))
    put_bytes(root, "truth.ivecs", vectors.vecs(np.ones((2, 3), np.int32)))

    with pytest.raises(ConfigError, match=r"several formats: \.fvecs, \.ivecs.*/\*\.ivecs"):
        open_source(root)


@pytest.mark.parametrize("suffix", [".fvecs", ".fbin", ".npy"])
def test_files_of_one_matrix_have_no_columns(root, suffix):
    kind, write = vectors.FORMATS[suffix]
    put_bytes(root, f"x{suffix}", write(WHOLE.astype(kind)))

    with pytest.raises(ConfigError, match=r"columns=\['a'\].*has no columns"):
        open_source(root, columns=["a"])


@pytest.mark.parametrize("suffix", vectors.FORMATS)
def test_no_column_can_be_passed_through(root, suffix):
    kind, write = vectors.FORMATS[suffix]
    put_bytes(root, f"x{suffix}", write(WHOLE.astype(kind)))
    source = open_source(root)

    with pytest.raises(ConfigError, match=r"columns \['id'\].*has no columns"):
        source.columns_of(source.describe().blocks[0], ["id"])


@pytest.mark.parametrize("row", [1, 39, 40, 240])
def test_a_row_of_another_length_is_named_with_its_file(root, row):
    data = bytearray(vectors.vecs(WHOLE.astype(np.float32)))
    data[16 * row : 16 * row + 4] = (4).to_bytes(4, "little")
    put_bytes(root, "x.fvecs", data)

    with pytest.raises(DataError, match=rf"row {row} of .*x\.fvecs has 4 features .* has 3"):
        rows_of(in_blocks(root, 40))


@pytest.mark.parametrize("suffix", vectors.FORMATS)
def test_no_file_stays_open_and_rows_do_not_change_with_it(tmp_path, suffix):
    kind, write = vectors.FORMATS[suffix]
    matrix = WHOLE.astype(kind)
    put_bytes(tmp_path, f"x{suffix}", write(matrix))
    source = in_blocks(tmp_path, 40)

    blocks = source.describe().blocks
    rows = [part for _, part in source.read(blocks)]
    assert open_below(tmp_path) == []
    reading = source.read(blocks)
    next(reading)
    reading.close()
    assert open_below(tmp_path) == []
    (tmp_path / f"x{suffix}").write_bytes(b"")
    np.testing.assert_array_equal(np.vstack(rows), matrix.astype(np.float32))
    del rows, reading
    gc.collect()
    assert open_below(tmp_path) == []


def open_below(folder):
    """Return the files in a folder that this process has open or mapped."""
    opened = [os.path.realpath(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd")]
    with open("/proc/self/maps") as maps:
        mapped = [line.split()[-1] for line in maps]
    return [path for path in opened + mapped if path.startswith(f"{folder}/")]


def test_a_map_of_memory_is_seen_as_open(tmp_path):
    np.save(tmp_path / "x.npy", WHOLE)

    rows = np.load(tmp_path / "x.npy", mmap_mode="r")

    assert open_below(tmp_path) != []
    del rows


class TestSafetensors:
    @pytest.mark.parametrize("kind", vectors.TENSORS.values())
    def test_what_its_library_writes_is_read(self, root, kind):
        matrix = WHOLE.astype(kind)
        put_bytes(root, "x.safetensors", safetensors.numpy.save({"b": WHOLE[0], "x": matrix}))

        np.testing.assert_array_equal(rows_of(root), matrix.astype(np.float32))

    @pytest.mark.parametrize("kind", vectors.TENSORS.values())
    def test_what_is_written_by_hand_is_read_by_its_library(self, kind):
        matrix = WHOLE.astype(kind)

        read = safetensors.numpy.load(vectors.safetensors(x=matrix, y=matrix[0]))

        np.testing.assert_array_equal(read["x"], matrix)

    def test_bfloat16_is_the_upper_half_of_float32(self, root):
        matrix = np.random.default_rng(2).normal(size=(9, 5)).astype(np.float32)
        matrix[0] = [0.0, -0.0, np.inf, 1e-40, 3e38]
        upper = (matrix.view(np.uint32) >> 16).astype("<u2")
        header = {"x": {"dtype": "BF16", "shape": [9, 5], "data_offsets": [0, 90]}}
        put_bytes(root, "x.safetensors", vectors.tensors(header, upper.tobytes()))

        expected = (matrix.view(np.uint32) & 0xFFFF0000).view(np.float32)
        np.testing.assert_array_equal(rows_of(root).view(np.uint32), expected.view(np.uint32))

    @pytest.mark.parametrize(
        ("dtype", "size"), [("F8_E4M3", 1), ("BOOL", 1), ("C64", 8), ("nonsense", 1)]
    )
    def test_a_type_that_is_no_number_is_named(self, root, dtype, size):
        header = {"x": {"dtype": dtype, "shape": [2, 3], "data_offsets": [0, 6 * size]}}
        put_bytes(root, "x.safetensors", vectors.tensors(header, bytes(6 * size)))

        with pytest.raises(DataError, match=rf"'x' of .*x\.safetensors holds {dtype} of .*F64"):
            open_source(root).describe()


ARCHIVES = {
    "x.npz": vectors.npz,
    "x.deflated.npz": vectors.npz_deflated,
    "x.safetensors": vectors.safetensors,
}


@pytest.mark.parametrize(("file", "write"), ARCHIVES.items())
class TestSeveralArrays:
    A, B = WHOLE.astype(np.float32), -WHOLE[:7].astype(np.float32)

    def test_the_one_table_is_taken(self, root, file, write):
        put_bytes(root, file, write(labels=self.A[0], x=self.A, cube=self.A[None]))

        np.testing.assert_array_equal(rows_of(root), self.A)

    def test_the_one_that_is_named_is_taken(self, root, file, write):
        put_bytes(root, file, write(a=self.A, b=self.B, c=self.A[0]))

        for name, matrix in {"a": self.A, "b": self.B}.items():
            source = open_source(root, columns=[name])
            np.testing.assert_array_equal(rows_of(source), matrix)

    def test_of_several_one_must_be_named(self, root, file, write):
        put_bytes(root, file, write(a=self.A, b=self.B, c=self.A[0]))

        with pytest.raises(ConfigError, match=r"2 two-dimensional arrays: \['a', 'b'\].*columns"):
            open_source(root)

    @pytest.mark.parametrize("columns", [["z"], ["a", "b"]])
    def test_a_name_that_is_not_there_and_several_are_refused(self, root, file, write, columns):
        put_bytes(root, file, write(a=self.A, b=self.B))

        with pytest.raises(ConfigError, match=rf"columns=.*{columns[0]}.*{file}"):
            open_source(root, columns=columns)

    def test_one_that_is_no_table_is_refused(self, root, file, write):
        put_bytes(root, file, write(a=self.A, c=self.A[0]))

        with pytest.raises(DataError, match=r"'c' of .*\(3,\)"):
            open_source(root, columns=["c"]).describe()

    def test_a_file_without_a_table_says_what_it_holds(self, root, file, write):
        put_bytes(root, file, write(c=self.A[0]))

        with pytest.raises(DataError, match=r"no two-dimensional array \(c: \(3,\)\)"):
            open_source(root)

    def test_the_first_file_decides_which_array_is_read(self, root, file, write):
        put_bytes(root, f"1.{file}", write(x=self.A, y=self.A[0]))
        put_bytes(root, f"2.{file}", write(x=self.B, y=self.B))
        put_bytes(root, f"3.{file}", write(z=self.B))

        with pytest.raises(ConfigError, match=r"\['x'\] are not in .*3\.x.*\['z'\]"):
            open_source(root).describe()
        np.testing.assert_array_equal(rows_of(f"{root}/[12]*"), np.vstack([self.A, self.B]))


class TestNpz:
    def test_no_object_is_ever_unpickled(self, root):
        trap = np.array([[Trap(), Trap()]], dtype=object)
        for write in (vectors.npz, vectors.npz_deflated):
            put_bytes(root, "x.npz", write(x=trap))

            with pytest.raises(DataError, match=r"'x' of .*x\.npz holds object"):
                rows_of(root)

        assert Trap.sprung == 0

    def test_a_deflated_member_is_read_in_little_memory(self, tmp_path):
        matrix = np.zeros((400_000, 8), np.float32)  # 12.8 MB, in 13 kB
        matrix[:, 0] = np.arange(400_000) % 7
        put_bytes(tmp_path, "x.npz", vectors.npz_deflated(x=matrix))
        source = open_source(tmp_path)
        blocks = source.describe().blocks

        total = 0.0
        tracemalloc.start()
        for _, rows in source.read(blocks):
            total += float(rows.sum(dtype=np.float64))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()

        assert total == matrix.sum(dtype=np.float64)
        assert peak < 2_000_000

    def test_a_deflated_member_with_a_wrong_checksum_is_an_error(self, root):
        data = bytearray(vectors.npz_deflated(x=WHOLE.astype(np.float32)))
        for at in (data.find(b"PK\x03\x04") + 14, data.find(b"PK\x01\x02") + 16):
            data[at] ^= 1
        put_bytes(root, "x.npz", data)

        with pytest.raises(DataError, match=r"cannot read .*x\.npz: Bad CRC-32"):
            rows_of(root)


class Trap:
    """What is pickled into files that must not be trusted."""

    sprung = 0

    @classmethod
    def spring(cls):
        cls.sprung += 1

    def __reduce__(self):
        return Trap.spring, ()
