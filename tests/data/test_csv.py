"""Rows of text, beside what Python's own csv module reads."""

from __future__ import annotations

import csv as oracle
import gzip
import io
import uuid
from functools import partial

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_kmeans.data.formats.csv import Csv
from ray_kmeans.data.opening import open_source
from ray_kmeans.errors import ConfigError, DataError
from ray_kmeans.testing import SourceContract
from tests.support.files import in_blocks, open_files, put, rows_of

FILES = {"a": 150, "b": 1, "c": 0, "sub/d": 90}  # rows of each
MATRIX = np.random.default_rng(0).normal(size=(241, 3))
ROWS = MATRIX.astype(np.float32)


def put_text(root, name, text):
    data = text.encode()
    put(root, name, lambda file: file.write(gzip.compress(data) if name.endswith("gz") else data))


def open_csv(uri, read_bytes, columns=None, **options):
    """Return the source of CSV files of which few bytes are parsed at once."""
    return open_files(partial(Csv.of, read_bytes=read_bytes, **options), uri, columns)


def as_text(header, rows, separator=",", end="\n"):
    text = io.StringIO()
    writer = oracle.writer(text, delimiter=separator, lineterminator=end)
    writer.writerows([header, *rows])
    return text.getvalue()


class TestCsv(SourceContract):
    @pytest.fixture(params=["csv", "csv.gz", "tsv", "tsv.gz"])
    def source_and_rows(self, request, root):
        first = 0
        for name, rows in FILES.items():
            lines = [
                [f"row {n}\n, {n}\t", *(repr(float(value)) for value in MATRIX[n]), f"00{n}x"]
                for n in range(first, first + rows)
            ]
            separator = "\t" if request.param.startswith("tsv") else ","
            text = as_text(["name", "a", "b", "c", "id"], lines, separator)
            put_text(root, f"{name}.{request.param}", text)
            first += rows
        return in_blocks(open_csv(root, 700), 40), ROWS

    def test_other_columns_are_those_of_the_same_rows_as_text(self, source_and_rows):
        source, _ = source_and_rows

        for block in source.describe().blocks:
            numbers = range(block.first, block.first + block.rows)
            assert source.columns_of(block, ["id", "name", "b"]).to_pydict() == {
                "id": [f"00{n}x" for n in numbers],
                "name": [f"row {n}\n, {n}\t" for n in numbers],
                "b": [repr(float(MATRIX[n, 1])) for n in numbers],
            }


class TestCsvWithBlocksOfFullSize(SourceContract):
    @pytest.fixture
    def source_and_rows(self, tmp_path):
        X = np.arange(60_000, dtype=np.float32).reshape(30_000, 2)
        np.savetxt(tmp_path / "x.csv", X, fmt="%d", delimiter=",", header="a,b", comments="")
        return open_source(tmp_path, columns=["a", "b"]), X


CELLS = st.one_of(
    st.floats(-1e30, 1e30).map(repr),
    st.integers(-(2**40), 2**40).map(str),
    st.sampled_from(["", "nan", "1e3", "-.5", "+2.", "007"]),
)


@given(
    cells=st.lists(st.tuples(CELLS, st.text("ab\n\",' ", max_size=5), CELLS), min_size=1),
    read_bytes=st.integers(120, 400),
    end=st.sampled_from(["\n", "\r\n"]),
)
def test_rows_are_those_of_a_simple_reader(cells, read_bytes, end):
    text = as_text(["a", "text", "b"], cells, end=end)
    lines = list(oracle.DictReader(io.StringIO(text, newline="")))
    expected = [[float(line[name] or "nan") for name in ("b", "a")] for line in lines]
    root = f"memory://{uuid.uuid4().hex}"
    put_text(root, "x.csv", text)

    source = in_blocks(open_csv(f"{root}/x.csv", read_bytes, ["b", "a"]), 7)
    rows = rows_of(source)
    blocks = source.describe().blocks
    kept = [text for block in blocks for text in source.columns_of(block, ["text"])["text"]]

    np.testing.assert_array_equal(rows, np.array(expected, np.float32))
    assert [text.as_py() for text in kept] == [line["text"] for line in lines]


class TestColumns:
    def test_all_columns_of_numbers_are_taken_but_one_without_a_name(self, root):
        put_text(root, "x.csv", ",a,when,b,t\n9,1.0,2026-01-31,2.5,x\n9,3.0,2026-02-01,,\n")

        np.testing.assert_array_equal(rows_of(root), [[1, 2.5], [3, np.nan]])

    def test_names_may_be_numbers_as_pandas_writes_them(self, root):
        put_text(root, "x.csv", ",0,1\n0,1.5,2.0\n1,3.5,4.0\n")

        assert rows_of(root).tolist() == [[1.5, 2], [3.5, 4]]

    def test_columns_go_by_name_whatever_their_order_in_a_file(self, root):
        put_text(root, "1.csv", "a,b\n1.0,2.0\n")
        put_text(root, "2.csv", "b,more,a\n4.0,x,3.0\n")

        assert rows_of(root).tolist() == [[1, 2], [3, 4]]

    def test_the_columns_asked_for_come_in_that_order(self, root):
        put_text(root, "x.csv", "a,b,c\n1,2,3\n")

        assert rows_of(open_source(root, columns=["c", "a"])).tolist() == [[3, 1]]

    def test_a_mark_of_the_byte_order_and_blank_lines_are_passed_over(self, root):
        put_text(root, "x.csv", "\ufeffa,b\n1.0,2.0\n\n3.0,4.0\n\n")

        assert rows_of(root).tolist() == [[1, 2], [3, 4]]

    def test_a_column_that_turns_to_fractions_late_keeps_them(self, root):
        put_text(root, "x.csv", "a\n" + "1\n" * 100 + "1.5\n")

        assert rows_of(open_csv(root, 64))[-1].tolist() == [1.5]

    def test_parts_of_a_gzip_file_are_one(self, root):
        parts = gzip.compress(b"a\n1\n") + gzip.compress(b"2\n")
        put(root, "x.csv.gz", lambda file: file.write(parts))

        assert rows_of(root).tolist() == [[1], [2]]


class TestHeader:
    """No row is lost because it stands where names belong."""

    @pytest.mark.parametrize("fields", ["4,5,6", "1,0,2", "+1,2,3", "nan,5,6", "7,x,8", "inf,a,b"])
    def test_numbers_in_the_first_line_are_a_question(self, root, fields):
        put_text(root, "x.csv", f"{fields}\n7,8,9\n")

        with pytest.raises(
            DataError, match=r"x\.csv begins with .*header=False \(--header False\)"
        ):
            open_source(root)

    def test_it_may_be_answered_either_way(self, root):
        put_text(root, "x.csv", "4,5,6\n7.5,8.5,9.5\n")

        without, with_names = (open_source(root, header=header) for header in (False, True))

        assert rows_of(without).tolist() == [[4, 5, 6], [7.5, 8.5, 9.5]]
        assert without.format.columns == ("0", "1", "2")
        assert rows_of(with_names).tolist() == [[7.5, 8.5, 9.5]]
        assert rows_of(open_source(root, ["6", "4"])).tolist() == [[9.5, 7.5]]

    def test_a_file_without_names_gives_its_rows_to_many_workers(self, root):
        whole = np.arange(300).reshape(100, 3)
        text = "\n".join(f"t{n};" + ";".join(map(str, row)) for n, row in enumerate(whole))
        put_text(root, "x.csv", text)

        source = in_blocks(open_csv(root, 256, ["1", "2", "3"], header=False), 7)

        np.testing.assert_array_equal(rows_of(source), whole)
        kept = [source.columns_of(block, ["0"])["0"] for block in source.describe().blocks]
        assert [text.as_py() for part in kept for text in part] == [f"t{n}" for n in range(100)]

    def test_names_of_pandas_are_told_of_where_they_may_be_a_row(self, root, caplog):
        put_text(root, "x.csv", "0,1\n3,4\n")

        with pytest.raises(ConfigError, match="none is named: 0: int64, 1: int64"):
            open_source(root)

        assert "the first line, 0,1, is taken for the names" in caplog.text
        assert rows_of(open_source(root, ["0", "1"])).tolist() == [[3, 4]]
        assert rows_of(open_source(root, ["0", "1"], header=False)).shape == (2, 2)

    def test_names_of_pandas_above_other_numbers_are_names(self, root, caplog):
        put_text(root, "x.csv", "0,1\n3.5,4.5\n")

        assert rows_of(root).tolist() == [[3.5, 4.5]]
        assert caplog.text == ""

    def test_a_file_without_names_after_one_with_names_is_an_error(self, root):
        put_text(root, "1.csv", "a,b\n1,2\n")
        put_text(root, "2.csv", "3,4\n5,6\n")

        with pytest.raises(ConfigError, match=r"\['a', 'b'\] are not in .*2\.csv"):
            open_source(root, ["a", "b"]).describe()

    @pytest.mark.parametrize("header", [True, False])
    def test_other_data_have_none(self, root, header):
        put(root, "x.npy", lambda file: np.save(file, ROWS))

        for x in (root, ROWS):
            with pytest.raises(ConfigError, match=f"header={header} has no meaning for"):
                open_source(x, header=header)


class TestSeparators:
    @pytest.mark.parametrize("suffix", ["csv", "tsv", "csv.gz"])
    @pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
    def test_the_one_in_all_lines_is_taken(self, root, separator, suffix):
        header = ["a", "b", 'with "' + ",;|\t".replace(separator, "")]
        put_text(root, f"x.{suffix}", as_text(header, [[1.5, 2.5, "x"], [3, 4, ""]], separator))

        assert rows_of(root).tolist() == [[1.5, 2.5], [3, 4]]

    @pytest.mark.parametrize(
        "text",
        ["a|b,c\n1.5,2.5\n", '"a;b",c\n1.5,2.5\n', "a,b\n1.5,2.5\n", "a,t\n1.5,x;y;z\n2,x;y\n"],
    )
    def test_others_in_some_lines_are_part_of_fields(self, root, text):
        put_text(root, "x.csv", text)

        assert rows_of(root)[0, 0] == 1.5

    @pytest.mark.parametrize("text", ["1,5;2,5\n3,5;4,5\n", "a,b;c\n1,2;3\n"])
    def test_two_in_all_lines_are_a_question(self, root, text):
        put_text(root, "x.csv", text)

        with pytest.raises(DataError, match=r"x\.csv may be separated by ',' or ';'"):
            open_source(root)

    def test_numbers_with_commas_are_told(self, root):
        put_text(root, "x.csv", "a;b\n1,5;2\n3,5;4\n")

        with pytest.raises(DataError, match=r"x\.csv is separated by ';' and holds '1,5'"):
            open_source(root)
        assert rows_of(open_source(root, ["b"])).tolist() == [[2], [4]]


MANY = "1.0,2.0\n" * 50
BAD = {
    "text in a number column": (f"a,b\n{MANY}1,x\n{MANY}", r"Row #52.*invalid value 'x'.*row 1\."),
    "text in the first rows": ("a,b\n1,2\n3,4\n5,?\n", r"'\?' in row 4 of column 'b'"),
    "a short line": (f"a,b\n{MANY}1\n{MANY}", r"Row #52: Expected 2 columns, got 1"),
    "a long line": (f"a,b\n{MANY}1,2,3\n{MANY}", r"Row #52: Expected 2 columns, got 3"),
    "an open quote": (f'a,b\n{MANY}1,"2\n{MANY}', "a quote is never closed"),
    "a row that is too long": (f"a,b\n{MANY}1,{'x' * 900}\n", "A row is longer than 128 bytes"),
    "no header": ("1.5,2\n3,4\n", r"\['1\.5', '2'\] where the names of columns belong"),
    "no byte": ("", "Empty CSV file"),
    "no number": ("a;b\nx;y\n", r"no numeric column \(a: string, b: string\)"),
    "no row": ("a,b\n", "no numeric column"),
    "one name twice": ("a,a\n1,2\n", "one name for several columns"),
    "too large": (f"a,b\n{MANY}1,1e39\n", r"'b'.*1e\+39.*float32 cannot hold"),
}


@pytest.mark.parametrize("how", BAD)
def test_a_bad_file_is_named_with_what_was_found(root, how):
    text, message = BAD[how]
    put_text(root, "x.csv", text)

    with pytest.raises((DataError, ConfigError), match=message) as caught:
        rows_of(open_csv(root, 128))

    assert "x.csv" in str(caught.value)


def test_what_is_no_number_is_found_before_the_run(root):
    put_text(root, "1.csv", "a\n1\n")
    put_text(root, "2.csv", "a\n" + "1\n" * 100 + "x\n")

    with pytest.raises(DataError, match=r"2\.csv: .*Row #102"):
        open_csv(root, 64).describe()


def test_a_file_is_read_once_to_plan_the_run_however_often_that_is_asked(root):
    heads = []

    class Counted(Csv):
        def head_of(self, file, look):
            heads.append(file)
            return super().head_of(file, look)

    put_text(root, "x.csv", "a\n1\n")
    source = open_files(Counted.of, root)

    layouts = [source.describe() for _ in range(3)]

    assert layouts[0].rows == 1
    assert layouts == [layouts[0]] * 3
    assert len(heads) == 1


@pytest.mark.parametrize("columns", [["text"], ["a", "text"]])
def test_a_column_of_text_that_is_asked_for_is_an_error(root, columns):
    put_text(root, "x.csv", "a,text\n1,one\n")

    with pytest.raises(DataError, match=r"x\.csv.*Row #2.*'one'"):
        open_source(root, columns=columns).describe()


def test_columns_that_are_not_there_are_named(root):
    put_text(root, "1.csv", "a,b\n1.0,2.0\n")
    put_text(root, "2.csv", "a\n1.0\n")

    with pytest.raises(ConfigError, match=r"\['z'\] are not in .*1\.csv.*has \['a', 'b'\]"):
        open_source(root, columns=["z"])
    with pytest.raises(ConfigError, match=r"\['b'\] are not in .*2\.csv"):
        open_source(root).describe()
    source = open_source(f"{root}/1.csv")
    with pytest.raises(DataError, match=r"columns \['z'\] are not in .*1\.csv"):
        source.columns_of(source.describe().blocks[0], ["z"])


@pytest.mark.parametrize("length", [0, 1, 9, 40, -9, -1])
def test_a_gzip_file_that_is_cut_off(root, length):
    numbers = "\n".join(map(repr, MATRIX.ravel().tolist()))
    data = gzip.compress(f"a\n{numbers}\n".encode())
    put(root, "x.csv.gz", lambda file: file.write(data[:length]))

    with pytest.raises(DataError, match=r"x\.csv\.gz"):
        open_source(root).describe()


def test_a_file_that_is_no_gzip(root):
    put(root, "x.csv.gz", lambda file: file.write(b"a,b\n1,2\n"))

    with pytest.raises(DataError, match=r"cannot read .*x\.csv\.gz"):
        open_source(root)


def test_reading_holds_a_few_pieces_of_the_file(tmp_path):
    np.savetxt(
        tmp_path / "x.csv", np.ones((200_000, 8)), "%d", ",", header="a,b,c,d,e,f,g,h", comments=""
    )
    source = open_csv(str(tmp_path), 2**16, list("abcdefgh"))
    blocks = source.describe().blocks
    before = pa.total_allocated_bytes()

    held = [pa.total_allocated_bytes() - before for _ in source.read(blocks)]

    assert max(held) < 12_800_000 / 4  # of the numbers as float64


def test_the_reader_of_a_run_that_is_left_early_disturbs_no_other(root):
    put_text(root, "x.csv", "a\n" + "".join(f"{n}\n" for n in range(5_000)))
    source = in_blocks(open_csv(root, 256, ["a"]), 10)
    blocks = source.describe().blocks

    for index in np.random.default_rng(0).integers(len(blocks), size=60):
        reading = source.read(blocks[index:])
        _, rows = next(reading)
        assert rows[0, 0] == blocks[index].first
