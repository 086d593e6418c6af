"""Rows of JSON lines, beside what Python's own json module reads."""

from __future__ import annotations

import gzip
import json
import uuid
from functools import partial

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_kmeans.data.formats.json_lines import READ_BYTES, JsonLines
from ray_kmeans.data.opening import open_source
from ray_kmeans.errors import ConfigError, DataError
from ray_kmeans.testing import SourceContract
from tests.support.files import in_blocks, open_files, put, rows_of

FILES = {"a": 150, "b": 1, "c": 0, "sub/d": 90}  # rows of each
MATRIX = np.random.default_rng(0).normal(size=(241, 3))
ROWS = MATRIX.astype(np.float32)
LAYOUTS = {
    "columns": lambda row: dict(zip("abc", row, strict=True)),
    "vectors": lambda row: {"v": row},
    "inside": lambda row: {"doc": {"v": row, "title": "x"}},
}
COLUMNS = {"columns": ["a", "b", "c"], "vectors": None, "inside": ["doc.v"]}


def put_text(root, name, text):
    data = text.encode()
    put(root, name, lambda file: file.write(gzip.compress(data) if name.endswith("gz") else data))


def open_lines(uri, read_bytes, columns=None):
    """Return the source of JSON lines of which few bytes are parsed at once."""
    return open_files(partial(JsonLines.of, read_bytes=read_bytes), uri, columns)


def read(tmp_path, text, read_bytes=READ_BYTES):
    put_text(tmp_path, "x.jsonl", text)
    source = open_lines(f"{tmp_path}/x.jsonl", read_bytes)
    return np.vstack([rows for _, rows in source.read(source.describe().blocks)])


class TestJsonLines(SourceContract):
    @pytest.fixture(params=[(kind, end) for kind in LAYOUTS for end in ("jsonl", "ndjson.gz")])
    def source_and_rows(self, request, root):
        layout, end = request.param
        first = 0
        for name, rows in FILES.items():
            lines = [
                json.dumps({"id": n, "name": f"row {n}\n", **LAYOUTS[layout](MATRIX[n].tolist())})
                for n in range(first, first + rows)
            ]
            put_text(root, f"{name}.{end}", "".join(f"{line}\n" for line in lines))
            first += rows
        return in_blocks(open_lines(root, 700, COLUMNS[layout]), 40), ROWS

    def test_other_columns_are_those_of_the_same_rows(self, source_and_rows):
        source, _ = source_and_rows

        for block in source.describe().blocks:
            kept = source.columns_of(block, ["name", "id"])
            numbers = range(block.first, block.first + block.rows)
            assert kept.to_pydict() == {"name": [f"row {n}\n" for n in numbers], "id": [*numbers]}
            assert kept.schema.types == [pa.string(), pa.int64()]


NUMBERS = st.floats(width=32, allow_nan=False, allow_infinity=False) | st.integers(-9999, 9999)


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=40), st.integers(30, 200))
def test_rows_are_those_of_a_simple_reader(rows, at_once):
    lines = [json.dumps({"a": a, "text": "x\u00e9\n", "b": b}) for a, b in rows]
    root = f"memory://{uuid.uuid4().hex}"
    put_text(root, "x.jsonl", "\n".join(lines))
    found = rows_of(open_lines(root, max(at_once, max(map(len, lines))), ["a", "b"]))

    objects = [json.loads(line) for line in lines]
    expected = np.array([[each["a"], each["b"]] for each in objects], np.float64)
    np.testing.assert_array_equal(found, expected.astype(np.float32))


def test_empty_lines_line_ends_and_a_last_line_without_one(tmp_path):
    assert read(tmp_path, '{"a": 1}\r\n\n  \n{"a": 2}').tolist() == [[1], [2]]
    assert read(tmp_path, '\ufeff{"a": 1}\n').tolist() == [[1]]
    assert read(tmp_path, '\n\n{"a": 5}\n\n\n').tolist() == [[5]]


def test_what_is_missing_or_null_is_not_finite(tmp_path):
    rows = read(tmp_path, '{"a": 1.5, "b": 2.5}\n{"a": 3}\n{"a": null, "b": NaN}\n')

    np.testing.assert_array_equal(rows, [[1.5, 2.5], [3, np.nan], [np.nan, np.nan]])


def test_the_types_are_those_of_all_lines_of_the_first_file(tmp_path):
    lines = [{"v": None, "n": 1}, {"v": [1, 2], "n": 2}, {"v": [1.5, 2], "n": 2.5}]
    for more in ({"day": "2024-01-01"}, {"day": "soon"}):
        lines += [{"v": [0, 0], **more}]
    put_text(tmp_path, "x.jsonl", "\n".join(map(json.dumps, lines)))
    source = open_lines(str(tmp_path), 40, ["v"])
    [block] = source.describe().blocks

    kept = source.columns_of(block, ["n", "day"])

    assert source.describe().features == 2
    assert kept.to_pydict() == {
        "n": [1, 2, 2.5, None, None],
        "day": [None, None, None, "2024-01-01", "soon"],
    }


WRONG = {
    "text where a number was": ('{"a": 1}\n\n{"a": "x"}\n', "line 3: .*from number to string"),
    "no object": ('{"a": 1}\n[1]\n', "line 2: .*from object to array"),
    "cut off": ('{"a": 1}\n{"a": 2}\n{"a": ', "line 3: "),
    "two objects": ('{"a": 1}\n{"a": 1} {"a": 2}\n', "line 2: a line must hold one object"),
    "over two lines": ('{"a": 1}\n{"a":\n2}\n', "line 2: "),
    "a name twice": ('{"a": 1}\n{"a": 1, "a": 2}\n', "line 2: .*twice"),
    "too large a number": ('{"a": 1}\n{"a": 1e999}\n', "line 2: .*too big"),
    "no numbers": ('{"a": "x"}\n', "has no numeric column"),
    "nothing": ("", "has no numeric column"),
    "one long line": ('{"a": 1}\n{"a": 1, "b": "' + "x" * 9000 + '"}', "line 2 is longer than"),
    "vectors of two lengths": ('{"v": [1, 2]}\n{"v": [1]}\n', "row 1 has 1 features"),
    "a vector with text": ('{"v": [1, 2]}\n{"v": [1, "x"]}\n', "line 2: .*from number to string"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_bad_line_is_named_by_its_number(tmp_path, what):
    text, said = WRONG[what]

    with pytest.raises(DataError, match=said):
        read(tmp_path, text, 4000)


def test_the_line_is_counted_from_the_start_of_the_file(tmp_path):
    lines = ['{"a": 1}'] * 100
    lines[77] = '{"a": }'

    with pytest.raises(DataError, match="line 78: "):
        read(tmp_path, "\n".join(lines), 50)


def test_what_contradicts_in_two_pieces_of_a_file(tmp_path):
    with pytest.raises(DataError, match=r"lines from 2 on: .*'?a'? has incompatible types"):
        read(tmp_path, '{"a": 1, "b": 123}\n{"a": "x", "b": 123}\n', 20)


def test_a_later_file_that_contradicts_the_first(tmp_path):
    put_text(tmp_path, "1.jsonl", '{"a": 1, "id": 1}\n')
    put_text(tmp_path, "2.jsonl", '{"a": "x", "id": "z"}\n')

    with pytest.raises(ConfigError, match=r"columns=\{'a': 'string'\} of .*2\.jsonl"):
        open_source(tmp_path, ["a"]).describe()


def test_a_column_that_is_not_there(tmp_path):
    put_text(tmp_path, "1.jsonl", '{"a": 1, "id": 1}\n')
    source = open_source(tmp_path, ["a"])

    with pytest.raises(ConfigError, match=r"columns=\['z'\] are not in"):
        open_source(tmp_path, ["z"])
    with pytest.raises(DataError, match=r"columns \['z'\] are not in"):
        source.columns_of(source.describe().blocks[0], ["z"])


def test_a_gzipped_file_that_is_cut_off(tmp_path):
    data = gzip.compress(b'{"a": 1}\n' * 10_000)
    (tmp_path / "x.jsonl.gz").write_bytes(data[:-30])

    with pytest.raises(DataError, match=r"cannot read .*x\.jsonl\.gz"):
        open_source(tmp_path)


def test_gzipped_files_one_after_the_other_are_one(tmp_path):
    part = gzip.compress(b'{"a": 1}\n' * 1_000)
    (tmp_path / "x.jsonl.gz").write_bytes(part + part)

    assert len(rows_of(tmp_path)) == 2_000
