"""Columns that are passed through have one type in all parts, whatever each file has."""

from __future__ import annotations

import decimal
from datetime import date, datetime, timezone

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from ray_kmeans import KMeansClustering, RunConfig
from ray_kmeans.data.sharding import BLOCK_ROWS
from ray_kmeans.errors import DataError
from ray_kmeans.store.labelled import LabelledOutput
from ray_kmeans.store.labelled_by_cluster import FileSizes
from ray_kmeans.workflows import label
from tests.support.files import in_blocks, put_table

HERE = RunConfig(num_workers=0, progress=False)
WHEN = datetime(2026, 1, 31, 12, 30, tzinfo=timezone.utc)
NOON = WHEN.replace(tzinfo=None)

DRIFTS = {
    "nulls, text": (pa.nulls(2), pa.array(["a", None])),
    "nulls, numbers": (pa.nulls(2), pa.array([1, 2])),
    "nulls, lists": (pa.nulls(2), pa.array([[1, 2], None])),
    "int32, int64": (pa.array([1, None], pa.int32()), pa.array([2**40, 3])),
    "int8, uint16": (pa.array([-1, 2], pa.int8()), pa.array([40_000, 3], pa.uint16())),
    "int64, float64": (pa.array([1, None]), pa.array([2.5, None])),
    "float32, float64": (pa.array([0.5, 1.5], pa.float32()), pa.array([1e300, 0.1])),
    "string, large_string": (pa.array(["a", "b"]), pa.array(["c", None], pa.large_string())),
    "ms, ns": (
        pa.array([NOON, None], pa.timestamp("ms")),
        pa.array([NOON, NOON], pa.timestamp("ns")),
    ),
    "dictionary, string": (pa.array(["a", "b"]).dictionary_encode(), pa.array(["c", None])),
    "string, dictionary": (pa.array(["c", None]), pa.array(["a", "b"]).dictionary_encode()),
    "dictionary, nulls": (pa.array(["a", "b"]).dictionary_encode(), pa.nulls(2)),
    "dictionary, other dictionary": (
        pa.array(["a", "b"]).dictionary_encode(),
        pa.array(["z", "a"]).dictionary_encode(),
    ),
    "dictionary int8, int32": (
        pa.DictionaryArray.from_arrays(pa.array([0, 1], pa.int8()), ["a", "b"]),
        pa.array(["z", "a"]).dictionary_encode(),
    ),
    "lists of int32, of int64": (
        pa.array([[1], None], pa.list_(pa.int32())),
        pa.array([[2**40], []]),
    ),
    "structs of other fields": (
        pa.array([{"a": 1}, None], pa.struct([("a", pa.int32())])),
        pa.array([{"a": 2**40, "b": "x"}, {"a": 1, "b": None}]),
    ),
    "decimals": (
        pa.array([decimal.Decimal("1.50")], pa.decimal128(5, 2)).take([0, 0]),
        pa.array([decimal.Decimal("1.2345")] * 2, pa.decimal128(9, 4)),
    ),
}
CONFLICTS = {
    "numbers, text": (pa.array([1, 2]), pa.array(["a", "b"])),
    "numbers, lists": (pa.array([1, 2]), pa.array([[1], [2]])),
    "booleans, numbers": (pa.array([True, False]), pa.array([1, 2])),
    "time zones": (pa.array([NOON, NOON]), pa.array([WHEN, WHEN])),
    "decimals, floats": (pa.array([decimal.Decimal("1.5")] * 2), pa.array([0.5, 1.5])),
    "dates, text": (pa.array([date(2026, 1, 1)] * 2), pa.array(["2026", ""])),
}
WRITERS = {
    "parquet": lambda table, path: pq.write_table(table, f"{path}.parquet"),
    "arrow": lambda table, path: pa.feather.write_feather(table, f"{path}.arrow"),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("model"))
    centers = np.float32([[0], [10]])
    return KMeansClustering(2, folder, centers, use_mini_batch=False, config=HERE).fit(
        np.float32([[0], [10]])
    )


def write(model, source, output, block_rows=BLOCK_ROWS, **how):
    how = {"model_dir": model.model_dir, "keep_columns": ["k"], **how}
    place = LabelledOutput.at(str(output), {})
    source = in_blocks(source, block_rows, ["v"])
    return label.write_labels(model._state(), source, place, HERE, **how)


def put_files(folder, columns, kind="parquet"):
    folder.mkdir(exist_ok=True)
    for number, column in enumerate(columns):
        v = np.float32([0, 10][: len(column)])
        WRITERS[kind](pa.table({"v": v, "k": column}), folder / f"{number:03d}")
    return folder


def read_back(output):
    """Return the output as one data set, by row; every part must have the same schema."""
    files = sorted(str(path) for path in output.rglob("*.parquet"))
    schemas = {str(pq.read_schema(file).remove_metadata()) for file in files}
    assert len(schemas) == 1
    whole = pa.concat_tables(pq.ParquetFile(file).read() for file in files)
    assert pq.read_table(output).num_rows == whole.num_rows
    return whole.sort_by("row")


def values_of(columns):
    """Return the values of all columns as Python has them, fields of structs filled up."""
    found = [value for column in columns for value in column.to_pylist()]
    names = {name for value in found if isinstance(value, dict) for name in value}
    return [{n: v.get(n) for n in sorted(names)} if isinstance(v, dict) else v for v in found]


def sorted_fields(values):
    return [dict(sorted(v.items())) if isinstance(v, dict) else v for v in values]


@pytest.mark.long(kind="kept types")
@pytest.mark.parametrize("by_cluster", [False, True])
@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("how", DRIFTS)
def test_parts_read_back_as_one_data_set_with_the_values_of_all_files(
    tmp_path, model, how, kind, by_cluster
):
    for name, columns in (("there", DRIFTS[how]), ("back", DRIFTS[how][::-1])):
        data = put_files(tmp_path / name, columns, kind)

        write(model, data, tmp_path / f"{name}-out", by_cluster=by_cluster)

        kept = read_back(tmp_path / f"{name}-out")["k"].to_pylist()
        assert sorted_fields(kept) == values_of(columns)


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("how", CONFLICTS)
def test_types_that_do_not_go_together_are_named_before_work(tmp_path, model, how, kind):
    data = put_files(tmp_path / "x", [*CONFLICTS[how][:1] * 2, CONFLICTS[how][1]], kind)

    with pytest.raises(DataError) as caught:
        write(model, data, tmp_path / "out")

    types = [str(column.type)[:5] for column in CONFLICTS[how]]  # Parquet names elements itself
    words = ["'k'", *types, f"000.{kind}", f"002.{kind}"]
    assert [word for word in words if word not in str(caught.value)] == []
    assert not (tmp_path / "out").exists()


def test_a_file_without_the_column_is_named_before_work(tmp_path, model):
    data = put_files(tmp_path / "x", [pa.array([1, 2])])
    put_table(data, "9.parquet", pa.table({"v": [0.0]}))

    with pytest.raises(DataError, match=r"keep_columns: columns \['k'\] are not in .*9\.parquet"):
        write(model, data, tmp_path / "out")

    assert not (tmp_path / "out").exists()


def test_a_value_that_the_common_type_cannot_be_is_an_error_and_not_rounded(tmp_path, model):
    data = put_files(tmp_path / "x", [pa.array([2**53 + 1, 1]), pa.array([0.5, 1.5])])

    with pytest.raises(DataError, match=r"'k' is double in the output, .*9007199254740993"):
        write(model, data, tmp_path / "out")


@pytest.mark.parametrize("by_cluster", [False, True])
@pytest.mark.parametrize(
    ("there", "more", "fits"),
    [
        (pa.array(["a", "b"]), pa.nulls(2), True),
        (pa.array([1, 2]), pa.array([3, 4], pa.int32()), True),
        (pa.array([0.5, 1.5]), pa.array([3, 4]), True),
        (pa.array(["a", "b"]).dictionary_encode(), pa.array(["c", None]), True),
        (pa.array(["a", "b"]), pa.array(["c", None]).dictionary_encode(), True),
        (pa.array(["a"], pa.large_string()).take([0, 0]), pa.array(["c", None]), True),
        (pa.array([1, 2], pa.int32()), pa.array([3, 4]), False),
        (pa.array([1, 2]), pa.array(["a", "b"]), False),
        (pa.nulls(2), pa.array(["a", "b"]), False),
    ],
)
def test_what_is_appended_has_the_types_that_are_there_or_is_refused_before_work(
    tmp_path, model, there, more, fits, by_cluster
):
    first, second = put_files(tmp_path / "1", [there]), put_files(tmp_path / "2", [more])
    how = {"by_cluster": by_cluster}
    write(model, first, tmp_path / "out", **how)
    before = sorted(tmp_path.glob("out/**/*"))

    if not fits:
        with pytest.raises(DataError, match=rf"'k' is {more.type} in the data and {there.type} in"):
            write(model, second, tmp_path / "out", append=True, **how)
        assert sorted(tmp_path.glob("out/**/*")) == before
        return
    write(model, second, tmp_path / "out", append=True, **how)

    assert read_back(tmp_path / "out")["k"].to_pylist() == values_of([there, more])
    whole = sorted(tmp_path.glob("out/**/*"))
    write(model, [str(first), str(second)], tmp_path / "out", append=True, **how)
    assert sorted(tmp_path.glob("out/**/*")) == whole  # both files are there already


@pytest.mark.parametrize("by_cluster", [False, True])
def test_a_run_that_was_cut_off_goes_on_in_the_same_types(tmp_path, model, by_cluster, monkeypatch):
    """Also where a part holds blocks of several files."""
    how = {"by_cluster": by_cluster, "sizes": FileSizes(few_files=2), "block_rows": 2}
    columns = [pa.nulls(2), pa.array([1, 2], pa.int32()), pa.array([2.5, None])] * 4
    data = put_files(tmp_path / "x", columns)
    real = label.Labelling._write_parts

    def cut_off(self, *about):
        real(self, *about)
        raise KeyboardInterrupt

    monkeypatch.setattr(label.Labelling, "_write_parts", cut_off)
    with pytest.raises(KeyboardInterrupt):
        write(model, data, tmp_path / "out", **how)
    monkeypatch.setattr(label.Labelling, "_write_parts", real)
    parts = sorted((tmp_path / "out").rglob("part-*.parquet"))
    assert len(parts) < len(columns)
    parts[1].unlink()

    write(model, data, tmp_path / "out", **how)

    assert read_back(tmp_path / "out")["k"].to_pylist() == values_of(columns)


def test_dictionaries_of_many_files_do_not_overflow(tmp_path, model):
    columns = [
        pa.DictionaryArray.from_arrays(pa.array([0, 1], pa.int8()), [f"{n}a", f"{n}b"])
        for n in range(150)
    ]
    data = put_files(tmp_path / "x", columns, "arrow")

    write(model, data, tmp_path / "out", by_cluster=True)

    assert read_back(tmp_path / "out")["k"].to_pylist() == values_of(columns)
