"""What tells how a file is read: the end of its name, or the format that is given."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ray_kmeans.cli import main
from ray_kmeans.data.formats.registry import FORMATS
from ray_kmeans.data.opening import open_source
from ray_kmeans.errors import ConfigError, DataError, NoDataError
from tests.support import vectors
from tests.support.files import as_npy, put_array, put_table, rows_of

X = np.random.default_rng(0).integers(0, 9, size=(30, 3)).astype(np.float32)


def as_parquet(rows):
    content = io.BytesIO()
    pq.write_table(pa.table(dict(zip("abc", rows.T, strict=True))), content)
    return content.getvalue()


def as_text(rows, separator=","):
    lines = [separator.join("abc"), *(separator.join(map(str, row)) for row in rows.tolist())]
    return "\n".join(lines).encode()


def as_json(rows):
    return "\n".join(f'{{"v": {row}}}' for row in rows.tolist()).encode()


WRITTEN = {
    "parquet": as_parquet,
    "pq": as_parquet,
    "csv": as_text,
    "tsv": lambda rows: as_text(rows, "\t"),
    "npy": as_npy,
    "jsonl": as_json,
    "ndjson": as_json,
}


@pytest.mark.parametrize("end", ["parquet", "pq", "parq", "PQ"])
def test_files_of_parquet_have_several_endings(tmp_path, end):
    put_table(tmp_path, f"x.{end}", pa.table({"a": X[:, 0]}))

    np.testing.assert_array_equal(rows_of(tmp_path / f"x.{end}"), X[:, :1])
    np.testing.assert_array_equal(rows_of(tmp_path), X[:, :1])


def test_mixed_endings_of_one_format_are_one_data_set(tmp_path):
    for number, end in enumerate(("parquet", "pq", "parq")):
        put_table(tmp_path, f"{number}.{end}", pa.table({"a": [float(number)]}))

    assert rows_of(tmp_path)[:, 0].tolist() == [0, 1, 2]


@pytest.mark.parametrize("format_", WRITTEN)
@pytest.mark.parametrize("name", ["part-0", "x.dat", "x.parquet.snappy", "sub/part-0"])
def test_a_format_that_is_given_tells_what_no_name_does(tmp_path, format_, name):
    place = tmp_path / name
    place.parent.mkdir(exist_ok=True)
    place.write_bytes(WRITTEN[format_](X))

    for x in (place, tmp_path, f"{tmp_path}/*" if place.parent == tmp_path else place):
        source = open_source(x, format=format_)
        rows = np.vstack([rows for _, rows in source.read(source.describe().blocks)])
        np.testing.assert_array_equal(rows, X)


@pytest.mark.parametrize("suffix", vectors.FORMATS)
def test_every_format_may_be_given(tmp_path, suffix):
    kind, write = vectors.FORMATS[suffix]
    (tmp_path / "x").write_bytes(write(X.astype(kind)))
    source = open_source(tmp_path / "x", format=suffix.rpartition(".")[2])

    rows = np.vstack([rows for _, rows in source.read(source.describe().blocks)])

    np.testing.assert_array_equal(rows, X.astype(kind).astype(np.float32))


def test_hidden_files_stay_hidden_where_a_format_is_given(tmp_path):
    for name in ("part-0", "_SUCCESS", ".part-0.crc"):
        (tmp_path / name).write_bytes(as_parquet(X) if name == "part-0" else b"")

    assert open_source(tmp_path, format="parquet").describe().rows == len(X)


@pytest.mark.parametrize("format_", ["parquet", "arrow", "npy", "npz", "safetensors", "jsonl"])
def test_a_file_that_is_not_of_the_format_that_is_given(tmp_path, format_):
    other = as_text(X) if format_ == "npy" else as_npy(X)
    (tmp_path / "part-0").write_bytes(other)

    with pytest.raises(DataError, match="part-0"):
        open_source(tmp_path / "part-0", format=format_).describe()


def test_an_unknown_ending_says_how_to_name_the_format(tmp_path):
    (tmp_path / "part-0").write_bytes(as_parquet(X))

    for x in (tmp_path, tmp_path / "part-0"):
        with pytest.raises(NoDataError, match=r"found: part-0.* in a job by --format parquet"):
            open_source(x)


def test_a_format_that_does_not_exist_or_does_not_fit(tmp_path):
    put_array(tmp_path, "x.npy", X)

    with pytest.raises(ConfigError, match=r"format='xlsx' is unknown\. Give one of parquet, pq"):
        open_source(tmp_path, format="xlsx")
    with pytest.raises(ConfigError, match="is for files, and x is a ndarray"):
        open_source(X, format="npy")


def test_every_ending_is_a_format_by_itself(tmp_path):
    for suffix in FORMATS:
        with pytest.raises(NoDataError, match="does not exist"):
            open_source(tmp_path / "none", format=suffix[1:])


def test_jobs_take_a_format(tmp_path, capsys):
    (tmp_path / "data").write_bytes(as_parquet(X))
    flags = ("--columns", "a", "b", "--format", "parquet", "--num-workers", "0")
    data, model = str(tmp_path / "data"), str(tmp_path / "model")

    main(["fit", data, model, "--num-clusters", "3", *flags])
    main(["predict", data, model, str(tmp_path / "out"), *flags])
    main(["evaluate", data, model, *flags])

    assert "30 rows labelled" in capsys.readouterr().out
